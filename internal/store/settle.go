package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
)

// settle reads nodes that were not read yet, and passes completeness from
// children to parents, until nothing changes.
func (x *indexer) settle() error {
	for {
		if err := x.propagate(); err != nil {
			return err
		}
		if read, err := x.readUnread(); err != nil || !read {
			return err
		}
	}
}

// settleAll is settle for everything that earlier, interrupted calls left.
func (x *indexer) settleAll() error {
	x.ready.spilled = true
	x.rereadAll()
	return x.settle()
}

// propagate tells the parents of nodes that became complete.
func (x *indexer) propagate() error {
	for {
		ready, err := x.ready.take(statementRows, x.allReady)
		if err == nil && len(ready) > 0 {
			err = x.tell(ready)
		}
		if err != nil {
			return fmt.Errorf("propagate completeness: %w", err)
		}
		if len(ready) == 0 {
			return nil
		}
		if err := x.pause(); err != nil {
			return err
		}
	}
}

func (x *indexer) allReady(limit int) ([]nodeKey, error) {
	return rowsOf(x.ctx, x.tx, `SELECT mh, codec FROM nodes WHERE pending = 0 LIMIT ?`, []any{limit}, scanKey)
}

// tell tells the parents of some nodes.
func (x *indexer) tell(ready []nodeKey) error {
	args := pairs(ready)
	// Their state may have changed during a pause. The plus keeps SQLite from
	// using the index of all ready nodes.
	const still = `(mh, codec) IN (SELECT n.mh, n.codec FROM nodes n WHERE (n.mh, n.codec) IN (VALUES %s) AND +n.pending = 0)`
	if err := x.release(still, `(?,?)`, len(ready), args); err != nil {
		return err
	}
	return x.exec(`UPDATE nodes SET pending = -1 WHERE (mh, codec) IN (VALUES %s) AND +pending = 0`, `(?,?)`, len(ready), args)
}

// releaseRows is how many rows of the table waiting are processed at a time.
const releaseRows = "4096"

// release removes children that meet a condition from the waiting lists. It does
// not count for nodes that are unread: see evaluateInParts.
func (x *indexer) release(cond, row string, n int, args []any) error {
	some := `SELECT mh, codec, parent FROM waiting WHERE ` + cond + ` ORDER BY mh, codec, parent LIMIT ` + releaseRows
	return sized(some, row, n, args, func(some string, args []any) error {
		for {
			err := eachRow(x.ctx, x.tx, `UPDATE nodes SET pending = pending - w.n FROM
				(SELECT parent, count(*) AS n FROM (`+some+`) GROUP BY parent) AS w
				WHERE nodes.id = w.parent AND nodes.pending > 0 RETURNING mh, codec, pending`, args, func(scan scanRow) error {
				var k nodeKey
				var pending int64
				err := scan(&k.mh, &k.codec, &pending)
				if pending == nodeReady {
					x.ready.push(k)
				}
				return err
			})
			if err != nil {
				return err
			}
			res, err := x.tx.ExecContext(x.ctx, `DELETE FROM waiting WHERE (mh, codec, parent) IN (`+some+`)`, args...)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n < 4096 {
				return err
			}
			if err := x.pause(); err != nil {
				return err
			}
		}
	})
}

// readUnread reads some of the nodes that were not read yet. It returns false
// if there were none.
func (x *indexer) readUnread() (bool, error) {
	batch, err := x.unread.take(64, x.allUnread)
	if err != nil {
		return false, fmt.Errorf("look up nodes to read: %w", err)
	}
	if len(batch) == 0 {
		return false, nil
	}
	state, err := x.states(batch)
	if err != nil {
		return false, err
	}
	var nodes []freshNode
	var bad []suspect
	total := 0
	for _, k := range batch {
		if s, ok := state[k]; !ok || s != nodeUnread {
			continue // its state has changed meanwhile
		}
		delete(state, k)
		data, _, damaged, err := x.st.readCopy(x.ctx, x.tx, k.cid(), copiesQuery)
		bad = append(bad, damaged...)
		if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotHeld) {
			continue
		}
		if err != nil {
			return false, err
		}
		n := parse(k, data)
		nodes = append(nodes, n)
		if total += len(n.links); total >= batchLinks {
			if err := x.evaluate(nodes); err != nil {
				return false, err
			}
			nodes, total = nil, 0
		}
	}
	if err := x.evaluate(nodes); err != nil {
		return false, err
	}
	if err := x.condemn(bad); err != nil {
		return false, err
	}
	return true, x.pause()
}

// allUnread fetches unread nodes from the index, one page after another. It
// skips those that are not held.
func (x *indexer) allUnread(limit int) (out []nodeKey, err error) {
	err = eachRow(x.ctx, x.tx, `SELECT n.id, n.mh, n.codec FROM nodes n WHERE n.pending = -2 AND n.id > ?
		AND EXISTS (SELECT 1 FROM blocks b WHERE b.mh = n.mh) ORDER BY n.id LIMIT ?`, []any{x.unreadEnd, limit},
		func(scan scanRow) error {
			var k nodeKey
			err := scan(&x.unreadEnd, &k.mh, &k.codec)
			out = append(out, k)
			return err
		})
	return out, err
}

// Complete reports whether everything below a root is held.
func (st *Store) Complete(ctx context.Context, root cid.Cid) (bool, error) {
	return complete(ctx, st.db.read, keyOf(root))
}

// complete reports whether everything below a root is held.
func complete(ctx context.Context, q querier, root nodeKey) (bool, error) {
	if _, inline := root.identity(); inline && !hasLinks(root.codec) {
		return true, nil
	}
	query, args := `SELECT 1 FROM nodes WHERE mh = ? AND codec = ? AND pending = -1`, []any{[]byte(root.mh), root.codec}
	if !hasLinks(root.codec) {
		query, args = `SELECT 1 FROM blocks WHERE mh = ?`, args[:1]
	}
	is, err := exists(ctx, q, query, args...)
	if err != nil {
		return false, fmt.Errorf("look up root: %w", err)
	}
	return is, nil
}

// demandRoot makes sure that a root that is held has a node.
func (x *indexer) demandRoot(root nodeKey) error {
	if !hasLinks(root.codec) {
		return nil
	}
	for keys := []nodeKey{root}; ; {
		lacks, err := x.lacks(keys)
		if err != nil || lacks[root.mh] {
			return err
		}
		if err := x.insertUnread(keys); err != nil {
			return err
		}
		before := x.yields
		if err := x.settle(); err != nil || x.yields == before {
			return err
		}
		// A collection may have removed the node during a pause, since no
		// upload has it yet.
		state, err := x.states(keys)
		if _, known := state[root]; err != nil || known {
			return err
		}
	}
}
