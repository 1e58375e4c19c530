package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
)

// settle reads the nodes that are left to be read, and passes completeness on
// from children to parents until nothing changes.
func (x *indexer) settle() error {
	for last := int64(0); ; {
		if err := x.propagate(); err != nil {
			return err
		}
		read, err := x.readUnread(last)
		if err != nil {
			return err
		}
		if read == 0 {
			return nil
		}
		last = max(read, 0)
	}
}

// narrow is the number of ready nodes up to which they are passed on one by
// one. That is cheaper for deep DAGs, and by levels for wide ones.
const narrow = 32

// propagate tells parents of nodes that became complete.
func (x *indexer) propagate() error {
	for {
		ready, err := rowsOf(x.ctx, x.tx, `SELECT mh, codec FROM nodes WHERE pending = 0 LIMIT 33`, nil, scanKey)
		switch {
		case err != nil:
			return fmt.Errorf("look up complete nodes: %w", err)
		case len(ready) == 0:
			return nil
		case len(ready) <= narrow:
			err = x.tellOneByOne(ready)
		default:
			err = x.tellLevel()
		}
		if err != nil {
			return fmt.Errorf("pass completeness on: %w", err)
		}
	}
}

// tellOneByOne goes up from ready nodes. When there are too many it leaves the
// rest as ready.
func (x *indexer) tellOneByOne(ready []nodeKey) error {
	var del, dec, done prepared
	for _, p := range []struct {
		stmt  *prepared
		query string
	}{
		{&del, `DELETE FROM waiting WHERE mh = ? AND codec = ? RETURNING parent`},
		{&dec, `UPDATE nodes SET pending = pending - 1 WHERE id = ? RETURNING pending, mh, codec`},
		{&done, `UPDATE nodes SET pending = -1 WHERE mh = ? AND codec = ?`},
	} {
		var err error
		if *p.stmt, err = x.prepare(p.query); err != nil {
			return err
		}
	}
	var parents []int64
	for len(ready) > 0 && len(ready) <= narrow {
		k := ready[len(ready)-1]
		ready = ready[:len(ready)-1]
		if _, err := done.ExecContext(x.ctx, []byte(k.mh), k.codec); err != nil {
			return err
		}
		rows, err := del.QueryContext(x.ctx, []byte(k.mh), k.codec)
		if err != nil {
			return err
		}
		parents = parents[:0]
		err = drainRows(rows, func(scan scanRow) error {
			var id int64
			err := scan(&id)
			parents = append(parents, id)
			return err
		})
		if err != nil {
			return err
		}
		for _, id := range parents {
			var pending int64
			var up nodeKey
			if err := dec.QueryRowContext(x.ctx, id).Scan(&pending, &up.mh, &up.codec); err != nil {
				return err
			}
			if pending == nodeReady && len(ready) <= narrow {
				ready = append(ready, up)
			}
		}
	}
	return nil
}

// tellLevel tells the parents of all ready nodes at once.
func (x *indexer) tellLevel() error {
	for _, q := range []string{
		`UPDATE nodes SET pending = -4 WHERE pending = 0`,
		`UPDATE nodes SET pending = pending - w.n FROM
			(SELECT waiting.parent AS parent, count(*) AS n FROM nodes AS c JOIN waiting ON waiting.mh = c.mh AND waiting.codec = c.codec
			 WHERE c.pending = -4 GROUP BY waiting.parent) AS w
			WHERE nodes.id = w.parent`,
		`DELETE FROM waiting WHERE (mh, codec) IN (SELECT mh, codec FROM nodes WHERE pending = -4)`,
		`UPDATE nodes SET pending = -1 WHERE pending = -4`,
	} {
		s, err := x.prepare(q)
		if err != nil {
			return err
		}
		if _, err := s.ExecContext(x.ctx); err != nil {
			return err
		}
	}
	return nil
}

// readUnread reads some nodes after the last one, from where they are held, and
// returns the last that it read, or 0 if there are none. If it had to mark copies
// that are damaged it returns -1, to begin anew.
func (x *indexer) readUnread(last int64) (int64, error) {
	var batch []nodeKey
	err := eachRow(x.ctx, x.tx, `SELECT n.id, n.mh, n.codec FROM nodes n
		WHERE n.pending = -2 AND n.id > ? AND EXISTS (SELECT 1 FROM blocks b WHERE b.mh = n.mh) ORDER BY n.id LIMIT 64`, []any{last},
		func(scan scanRow) error {
			var k nodeKey
			err := scan(&last, &k.mh, &k.codec)
			batch = append(batch, k)
			return err
		})
	if err != nil {
		return 0, fmt.Errorf("look up nodes to read: %w", err)
	}
	if len(batch) == 0 {
		return 0, nil
	}
	var nodes []freshNode
	var bad []suspect
	total := 0
	for _, k := range batch {
		data, _, damaged, err := x.st.readCopy(x.ctx, x.tx, k.cid(), copiesQuery)
		bad = append(bad, damaged...)
		if errors.Is(err, ErrDamaged) {
			continue
		}
		if err != nil {
			return 0, err
		}
		n := parse(k, data)
		nodes = append(nodes, n)
		if total += len(n.links); total >= batchLinks {
			if err := x.evaluate(nodes); err != nil {
				return 0, err
			}
			nodes, total = nil, 0
		}
	}
	if err := x.evaluate(nodes); err != nil {
		return 0, err
	}
	if n, err := x.condemn(bad); err != nil || n > 0 {
		return -1, err
	}
	return last, nil
}

// demandRoot makes sure that a root that is held is a node.
func (x *indexer) demandRoot(root nodeKey) error {
	if !hasLinks(root.codec) {
		return nil
	}
	keys := []nodeKey{root}
	held, err := x.held(keys)
	if err != nil || !held[root.mh] {
		return err
	}
	if err := x.insertUnread(keys); err != nil {
		return err
	}
	return x.settle()
}

// Complete reports whether all that is reachable from a root is held.
func (st *Store) Complete(ctx context.Context, root cid.Cid) (bool, error) {
	return complete(ctx, st.db.read, keyOf(root))
}

// complete reports whether all that is reachable from a root is held.
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
