package store

import (
	"cmp"
	"database/sql"
	"errors"
	"fmt"
	"slices"
)

// evaluate determines the state of nodes, and adds them to the waiting lists of
// their incomplete children. It may pause at nodes with many links.
func (x *indexer) evaluate(nodes []freshNode) error {
	var wide []freshNode
	nodes = slices.DeleteFunc(nodes, func(n freshNode) bool {
		is := x.yield != nil && x.isWide(n)
		if is {
			wide = append(wide, n)
		}
		return is
	})
	if err := x.evaluateAtOnce(nodes); err != nil {
		return err
	}
	for _, n := range wide {
		if err := x.evaluateInParts(n); err != nil {
			return err
		}
	}
	return nil
}

// evaluateInParts is evaluate for one node with many links. Until the end the
// index has the node as unread, so that nobody counts what it waits for. Each
// part is a range of a table, so that no page is written in many of the
// transactions.
func (x *indexer) evaluateInParts(n freshNode) error {
	w := x.st.db.write
	losses := w.losses
	res, err := x.tx.ExecContext(x.ctx, `INSERT OR IGNORE INTO nodes (mh, codec, pending) VALUES (?,?,-2)`, pairs([]nodeKey{n.key})...)
	if err != nil {
		return fmt.Errorf("index nodes: %w", err)
	}
	fresh, err := res.RowsAffected()
	if err != nil {
		return fmt.Errorf("index nodes: %w", err)
	}
	children := slices.Sorted(slices.Values(n.children))
	links := slices.SortedFunc(slices.Values(n.links), func(a, b nodeKey) int { return cmp.Compare(a.mh, b.mh) })
	var missing []edge
	for {
		id, err := x.unreadID(n.key)
		switch {
		case errors.Is(err, sql.ErrNoRows): // another upload has it too, and was faster
			return nil
		case err != nil:
			return fmt.Errorf("look up nodes: %w", err)
		case w.losses != losses: // what is recorded may be gone again
			return x.evaluateAtOnce([]freshNode{n})
		}
		if part := children[:min(x.st.turns.links, len(children))]; len(part) > 0 {
			for _, c := range part {
				x.parents = append(x.parents, [2]int64{c, id})
			}
			children = children[len(part):]
		} else {
			part := links[:min(x.st.turns.links, len(links))]
			done, err := x.done([]freshNode{{key: n.key, links: part}})
			if err != nil {
				return err
			}
			var edges, old []edge
			for _, k := range part {
				if !done(k) {
					edges = append(edges, edge{k, id})
				} else if fresh == 0 { // somebody began before, and maybe did not finish
					old = append(old, edge{k, id})
				}
			}
			if err := errors.Join(x.await(edges), x.unawait(old)); err != nil {
				return err
			}
			missing, links = append(missing, edges...), links[len(part):]
		}
		if len(links) == 0 {
			return x.count(n.key, id, missing)
		}
		if err := x.pause(); err != nil {
			return err
		}
	}
}

// unreadID returns the ID of a node that has not been read.
func (x *indexer) unreadID(k nodeKey) (id int64, err error) {
	err = x.tx.QueryRowContext(x.ctx, `SELECT id FROM nodes WHERE mh = ? AND codec = ? AND +pending = -2`, []byte(k.mh), k.codec).Scan(&id)
	return id, err
}

// count sets the state of a node that waits for those of some children that
// have not come since.
func (x *indexer) count(k nodeKey, id int64, missing []edge) error {
	pending := 0
	err := chunks(missing, func(part []edge) error {
		return x.query(`SELECT count(*) FROM waiting WHERE (mh, codec, parent) IN (VALUES %s)`, `(?,?,?)`, len(part), edgeArgs(part), func(scan scanRow) error {
			var n int
			err := scan(&n)
			pending += n
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("count links: %w", err)
	}
	if pending == nodeReady {
		x.ready.push(k)
	}
	if _, err := x.tx.ExecContext(x.ctx, `UPDATE nodes SET pending = ? WHERE id = ?`, pending, id); err != nil {
		return fmt.Errorf("index nodes: %w", err)
	}
	return nil
}
