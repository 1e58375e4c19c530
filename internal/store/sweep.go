package store

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/ipfs/go-cid"
)

// The index is also removed from in slices, and what it says must be true at
// the end of each slice. So nodes are removed from parents to children: a node
// can be removed if it is not the root of an upload and no node links to it.
// After that, blocks are removed that have no node left and that no node links
// to. The marks tell where it is worth looking. If something was added in the
// meantime that relies on a node or block, that stays.

// sweeper removes what the marker did not mark.
type sweeper struct{ x *indexer }

// sweep removes the shards that are not needed from the index, and returns
// them.
func (w *sweeper) sweep() (gone []cid.Cid, err error) {
	if err := w.doom(); err != nil {
		return nil, fmt.Errorf("list shards to remove: %w", err)
	}
	if err := w.removeNodes(); err != nil {
		return nil, fmt.Errorf("remove nodes from the index: %w", err)
	}
	kept, err := w.removeBlocks()
	if err != nil {
		return nil, fmt.Errorf("remove blocks from the index: %w", err)
	}
	if gone, err = w.removeShards(kept); err != nil {
		return nil, fmt.Errorf("remove shards from the index: %w", err)
	}
	if err := w.keep(); err != nil {
		return nil, fmt.Errorf("keep shards: %w", err)
	}
	return gone, nil
}

// going is the condition that a shard is being removed. If somebody sends the
// shard again, it no longer holds, and the shard stays.
const going = `EXISTS (SELECT 1 FROM staging g WHERE g.shard = %s AND g.active = -1)`

// doom marks the shards that will be removed, and takes them away from all
// uploads. If a deleted upload comes back, it must send them again.
func (w *sweeper) doom() error {
	x := w.x
	if _, err := x.tx.ExecContext(x.ctx, `UPDATE staging SET active = 0 WHERE active = -1`); err != nil {
		return err
	}
	const next = `SELECT id FROM unowned WHERE id > ? AND id NOT IN (SELECT id FROM needed) ORDER BY id LIMIT ?`
	for last := int64(0); ; {
		ids, err := rowsOf(x.ctx, x.tx, next, []any{last, statementRows}, func(scan scanRow) (id int64, err error) {
			err = scan(&id)
			return id, err
		})
		if err != nil || len(ids) == 0 {
			return err
		}
		last = ids[len(ids)-1]
		args := anys(ids)
		if err := x.exec(`INSERT OR REPLACE INTO staging (shard, key_id, active) SELECT s.id,
			COALESCE((SELECT max(us.key_id) FROM upload_shards us WHERE us.shard_id = s.id), (SELECT g.key_id FROM staging g WHERE g.shard = s.id)), -1
			FROM shards s WHERE s.id IN (%s) AND NOT EXISTS (SELECT 1 FROM staging g WHERE g.shard = s.id AND g.active = 1)
			AND NOT EXISTS (SELECT 1 FROM upload_shards us JOIN uploads u ON u.id = us.upload_id WHERE us.shard_id = s.id AND u.deleted IS NULL)`,
			`?`, len(ids), args); err != nil {
			return err
		}
		if err := x.exec(`DELETE FROM upload_shards WHERE shard_id IN (%s) AND `+fmt.Sprintf(going, `upload_shards.shard_id`), `?`, len(ids), args); err != nil {
			return err
		}
		if err := x.rest(); err != nil {
			return err
		}
	}
}

// removeNodes removes the nodes that no upload reaches, unless another node
// links to them.
func (w *sweeper) removeNodes() error {
	x := w.x
	if err := w.listGarbage(); err != nil {
		return err
	}
	for removed := true; removed; {
		removed = false
		at := int64(math.MaxInt64) // most parents have higher IDs than their children
		more := func(limit int) ([]nodeKey, error) {
			var keys []nodeKey
			err := eachRow(x.ctx, x.tx, `SELECT g.id, n.mh, n.codec FROM garbage g JOIN nodes n ON n.id = g.id WHERE g.id < ? ORDER BY g.id DESC LIMIT ?`,
				[]any{at, limit}, func(scan scanRow) error {
					var k nodeKey
					err := scan(&at, &k.mh, &k.codec)
					keys = append(keys, k)
					return err
				})
			slices.Reverse(keys) // take returns the last one first
			return keys, err
		}
		for todo := (queue{spilled: true}); ; {
			keys, err := todo.take(statementRows, more)
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				break
			}
			n, err := w.removeSome(keys, &todo)
			if err != nil {
				return err
			}
			removed = removed || n > 0
			if err := x.rest(); err != nil {
				return err
			}
		}
	}
	return nil
}

// listGarbage lists the nodes that are not marked.
func (w *sweeper) listGarbage() error {
	x := w.x
	for last := int64(0); ; {
		var end int64
		err := x.tx.QueryRowContext(x.ctx, `SELECT COALESCE(max(id), 0) FROM (SELECT id FROM nodes WHERE id > ? ORDER BY id LIMIT 4096)`, last).Scan(&end)
		if err != nil || end == 0 {
			return err
		}
		if _, err := x.tx.ExecContext(x.ctx, `INSERT INTO garbage SELECT id FROM nodes n WHERE id > ? AND id <= ?
			AND NOT EXISTS (SELECT 1 FROM marked m WHERE m.mh = n.mh AND m.codec = n.codec)`, last, end); err != nil {
			return err
		}
		last = end
		if err := x.rest(); err != nil {
			return err
		}
	}
}

// doomed is a node that is removed unless something needs it.
type doomed struct {
	id      int64
	key     nodeKey
	pending int64
	links   []nodeKey
}

// waits reports whether the table waiting may have rows of the node.
func (n *doomed) waits() bool { return n.pending > 0 || n.pending == nodeUnread }

// removeSome removes those of some nodes that nothing needs. It pushes the ones
// that it leaves for later, and the children of the removed ones, which may be
// next.
func (w *sweeper) removeSome(keys []nodeKey, todo *queue) (removed int, err error) {
	x := w.x
	free, err := w.free(keys)
	if err != nil {
		return 0, err
	}
	places, err := w.places(free)
	if err != nil {
		return 0, err
	}
	links := 0
	for i := range free {
		if links >= batchLinks {
			for _, n := range free[i:] {
				todo.push(n.key)
			}
			free = free[:i]
			break
		}
		n := &free[i]
		data, err := w.data(n.key, places)
		switch {
		case errors.Is(err, ErrDamaged), errors.Is(err, ErrNotHeld): // tidy does the rest
			if err = nil; n.waits() {
				_, err = x.tx.ExecContext(x.ctx, `DELETE FROM waiting WHERE parent = ?`, n.id)
			}
		case err == nil:
			n.links = parse(n.key, data).links
			links += len(n.links)
		}
		if err != nil {
			return 0, err
		}
	}
	if err := w.unlink(free); err != nil {
		return 0, err
	}
	if len(free) > 0 {
		x.st.db.write.losses++
	}
	ids := make([]any, 0, len(free))
	for _, n := range free {
		ids = append(ids, n.id)
	}
	for _, query := range []string{`DELETE FROM nodes WHERE id IN (%s)`, `DELETE FROM garbage WHERE id IN (%s)`} {
		if err := x.exec(query, `?`, len(ids), ids); err != nil {
			return 0, err
		}
	}
	went := make(map[nodeKey]bool, len(free))
	for _, n := range free {
		went[n.key] = true
	}
	for _, n := range free {
		for _, k := range n.links {
			if hasLinks(k.codec) && !went[k] {
				went[k] = true // push it once
				todo.push(k)
			}
		}
	}
	return len(free), nil
}

// places returns where copies of the nodes are.
func (w *sweeper) places(nodes []doomed) (map[string]location, error) {
	out := make(map[string]location)
	mhs := make([]any, 0, len(nodes))
	for _, n := range nodes {
		mhs = append(mhs, []byte(n.key.mh))
	}
	err := w.x.query(`SELECT b.mh, s.id, s.cid, b.off, b.len FROM blocks b JOIN shards s ON s.id = b.shard WHERE b.mh IN (%s)`, `?`,
		len(mhs), mhs, func(scan scanRow) error {
			var mh string
			var l location
			err := scan(&mh, &l.id, (*cidColumn)(&l.shard), &l.off, &l.len)
			out[mh] = l
			return err
		})
	return out, err
}

// data reads a node. It uses a file that is kept open, if possible.
func (w *sweeper) data(k nodeKey, places map[string]location) ([]byte, error) {
	st := w.x.st
	if l, ok := places[k.mh]; ok {
		if f, err := st.files.open.get(l.shard, st.files.path(l.shard)); err == nil {
			defer st.files.open.put(f)
			p := make([]byte, l.len)
			if _, err := f.f.ReadAt(p, l.off); err == nil && CheckBlock(k.cid(), p) == nil {
				return p, nil
			}
		}
	}
	data, _, _, err := st.readCopy(w.x.ctx, w.x.tx, k.cid(), copiesQuery)
	return data, err
}

// free returns those of some nodes that are not the root of an upload, and that
// no other nodes link to than those it returns.
func (w *sweeper) free(keys []nodeKey) ([]doomed, error) {
	x := w.x
	var all []doomed
	var mhs []any
	var children []int64
	at := make(map[int64]int) // index in all, by ID
	err := x.query(`SELECT n.id, n.mh, n.codec, n.pending FROM nodes n JOIN garbage g ON g.id = n.id WHERE (n.mh, n.codec) IN (VALUES %s)`, `(?,?)`,
		len(keys), pairs(keys), func(scan scanRow) error {
			var n doomed
			err := scan(&n.id, &n.key.mh, &n.key.codec, &n.pending)
			if _, twice := at[n.id]; !twice {
				at[n.id] = len(all)
				all = append(all, n)
				mhs = append(mhs, []byte(n.key.mh))
				children = append(children, childOf(n.key.mh))
			}
			return err
		})
	if err != nil || len(all) == 0 {
		return nil, err
	}
	held, err := w.rooted(mhs)
	if err != nil {
		return nil, err
	}
	parents, err := w.liveParents(children)
	if err != nil {
		return nil, err
	}
	// A node stays if one of its parents stays.
	stays := make([]bool, len(all))
	for again := true; again; {
		again = false
		for i, n := range all {
			if stays[i] {
				continue
			}
			c := childOf(n.key.mh)
			stays[i] = held[n.key.mh] || slices.ContainsFunc(parents[c], func(id int64) bool {
				j, among := at[id]
				return !among || stays[j]
			})
			again = again || stays[i]
		}
	}
	out := all[:0]
	for i, n := range all {
		if !stays[i] {
			out = append(out, n)
		}
	}
	return out, nil
}

// manyLinks limits how many links to some nodes are read.
const manyLinks = 4096

// liveParents returns the nodes that link to the children, according to the
// table parents. If there are very many, it doesn't read all of them, but adds
// a parent that does not exist.
func (w *sweeper) liveParents(children []int64) (map[int64][]int64, error) {
	out := make(map[int64][]int64)
	slices.Sort(children)
	err := chunks(children, func(part []int64) error {
		n, last := 0, int64(0)
		err := w.x.query(`SELECT p.child, p.parent FROM parents p JOIN nodes n ON n.id = p.parent WHERE p.child IN (%s)
			ORDER BY p.child, p.parent LIMIT `+fmt.Sprint(manyLinks), `?`, len(part), anys(part), func(scan scanRow) error {
			var parent int64
			err := scan(&last, &parent)
			out[last] = append(out[last], parent)
			n++
			return err
		})
		if n >= manyLinks { // this part may be incomplete
			for _, c := range part {
				out[c] = append(out[c], 0)
			}
		}
		return err
	})
	return out, err
}

// rooted returns those of some hashes that are roots of uploads.
func (w *sweeper) rooted(mhs []any) (map[string]bool, error) {
	return w.which(`SELECT DISTINCT c.mh FROM contents c JOIN uploads u ON u.content_cid = c.cid WHERE u.deleted IS NULL AND c.mh IN (%s)`, mhs)
}

// which returns those of some hashes that a query returns.
func (w *sweeper) which(query string, mhs []any) (map[string]bool, error) {
	out := make(map[string]bool)
	err := w.x.query(query, `?`, len(mhs), mhs, func(scan scanRow) error {
		var mh string
		err := scan(&mh)
		out[mh] = true
		return err
	})
	return out, err
}

// unlink removes the records of the nodes' links.
func (w *sweeper) unlink(nodes []doomed) error {
	var parents [][2]int64
	var waits []edge
	for _, n := range nodes {
		for _, k := range n.links {
			parents = append(parents, [2]int64{childOf(k.mh), n.id})
			if n.waits() {
				waits = append(waits, edge{k, n.id})
			}
		}
	}
	slices.SortFunc(parents, func(a, b [2]int64) int { return slices.Compare(a[:], b[:]) })
	err := chunks(parents, func(part [][2]int64) error {
		args := make([]any, 0, 2*len(part))
		for _, e := range part {
			args = append(args, e[0], e[1])
		}
		return w.x.exec(`DELETE FROM parents WHERE (child, parent) IN (VALUES %s)`, `(?,?)`, len(part), args)
	})
	if err != nil {
		return err
	}
	return w.x.unawait(waits)
}

// removeBlocks removes the blocks of doomed shards, except those that are
// needed. It returns the shards that have needed blocks.
func (w *sweeper) removeBlocks() (kept map[int64]bool, err error) {
	x := w.x
	kept = make(map[int64]bool)
	type row struct {
		mh    []byte
		shard int64
	}
	at := row{[]byte{}, 0}
	scan := func(scan scanRow) (r row, err error) {
		err = scan(&r.mh, &r.shard)
		return r, err
	}
	for {
		const after = ` FROM blocks b WHERE (b.mh, b.shard) > (?, ?)`
		window, err := rowsOf(x.ctx, x.tx, `SELECT b.mh, b.shard`+after+` ORDER BY b.mh, b.shard LIMIT 1 OFFSET 4095`, []any{at.mh, at.shard}, scan)
		if err != nil {
			return nil, err
		}
		within, args := ``, []any{at.mh, at.shard}
		if len(window) > 0 {
			within, args = ` AND (b.mh, b.shard) <= (?, ?)`, append(args, window[0].mh, window[0].shard)
		}
		rows, err := rowsOf(x.ctx, x.tx, `SELECT b.mh, b.shard`+after+within+` AND `+fmt.Sprintf(going, `b.shard`)+
			` ORDER BY b.mh, b.shard LIMIT `+fmt.Sprint(statementRows), args, scan)
		if err != nil {
			return nil, err
		}
		mhs := make([]any, 0, len(rows))
		for _, r := range rows {
			mhs = append(mhs, r.mh)
		}
		needed, err := w.needed(mhs)
		if err != nil {
			return nil, err
		}
		var goes []any
		for _, r := range rows {
			if needed[string(r.mh)] {
				kept[r.shard] = true
			} else {
				goes = append(goes, r.mh, r.shard)
			}
		}
		if len(goes) > 0 {
			x.st.db.write.losses++
		}
		if err := x.exec(`DELETE FROM blocks WHERE (mh, shard) IN (VALUES %s)`, `(?,?)`, len(goes)/2, goes); err != nil {
			return nil, err
		}
		switch {
		case len(rows) == statementRows:
			at = rows[len(rows)-1]
		case len(window) > 0:
			at = window[0]
		default:
			return kept, nil
		}
		if err := x.rest(); err != nil {
			return nil, err
		}
	}
}

// needed returns the hashes of the blocks that must stay: those of remaining
// nodes, of their children, and of roots, unless another shard has them too. By
// chance it may return others.
func (w *sweeper) needed(mhs []any) (map[string]bool, error) {
	if len(mhs) == 0 {
		return nil, nil
	}
	nodes, err := w.which(`SELECT DISTINCT mh FROM nodes WHERE mh IN (%s)`, mhs)
	if err != nil {
		return nil, err
	}
	roots, err := w.rooted(mhs)
	if err != nil {
		return nil, err
	}
	children := make([]int64, 0, len(mhs))
	for _, mh := range mhs {
		children = append(children, childOf(string(mh.([]byte))))
	}
	parents, err := w.liveParents(children)
	if err != nil {
		return nil, err
	}
	var asked []any
	for _, mh := range mhs {
		if key := string(mh.([]byte)); nodes[key] || roots[key] || len(parents[childOf(key)]) > 0 {
			asked = append(asked, mh)
		}
	}
	others, err := w.which(`SELECT DISTINCT b.mh FROM blocks b WHERE b.mh IN (%s) AND NOT `+fmt.Sprintf(going, `b.shard`), asked)
	if err != nil {
		return nil, err
	}
	out := make(map[string]bool)
	for _, mh := range asked {
		if key := string(mh.([]byte)); !others[key] {
			out[key] = true
		}
	}
	return out, nil
}

// removeShards removes the doomed shards without needed blocks.
func (w *sweeper) removeShards(kept map[int64]bool) (gone []cid.Cid, err error) {
	x := w.x
	for last := int64(0); ; {
		var ids []any
		var cids []any
		var page []cid.Cid
		n := 0
		err := eachRow(x.ctx, x.tx, `SELECT s.id, s.cid FROM staging g JOIN shards s ON s.id = g.shard WHERE g.active = -1 AND g.shard > ?
			ORDER BY g.shard LIMIT ?`, []any{last, statementRows}, func(scan scanRow) error {
			var c cid.Cid
			err := scan(&last, (*cidColumn)(&c))
			if n++; !kept[last] {
				ids, cids, page = append(ids, last), append(cids, c.Bytes()), append(page, c)
			}
			return err
		})
		if err != nil || n == 0 {
			return gone, err
		}
		for _, q := range []string{
			`DELETE FROM damage WHERE shard IN (%s)`,
			`DELETE FROM staging WHERE shard IN (%s)`,
			`DELETE FROM shards WHERE id IN (%s)`,
		} {
			if err := x.exec(q, `?`, len(ids), ids); err != nil {
				return gone, err
			}
		}
		if err := x.exec(`DELETE FROM pieces WHERE cid IN (%s)`, `?`, len(cids), cids); err != nil {
			return gone, err
		}
		gone = append(gone, page...)
		if err := x.rest(); err != nil {
			return gone, err
		}
	}
}

// keep records everything again for needed shards that were to be removed or
// that were abandoned while being indexed.
func (w *sweeper) keep() error {
	for {
		left, err := rowsOf(w.x.ctx, w.x.tx, stagedQuery+` WHERE g.active = -1 OR g.active = 0 AND g.shard IN (SELECT id FROM needed) LIMIT 1`, nil, scanShard)
		if err != nil || len(left) == 0 {
			return err
		}
		if err := w.x.complete(left[0]); err != nil {
			return err
		}
		if err := w.x.rest(); err != nil {
			return err
		}
	}
}
