package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"
)

// indexer records the blocks of one shard. It works within one transaction, or
// in several if it may pause.
type indexer struct {
	statements
	st *Store

	ready     queue      // complete, but their parents have not been told
	unread    queue      // held, but not read yet
	unreadEnd int64      // the last one that was fetched from the index
	run       run        // of the shard that is being added
	parents   [][2]int64 // rows of the table parents, to be written before the transaction ends

	asked    context.Context      //nolint:containedctx // of the caller: it may end between transactions
	began    time.Time            // start of the transaction
	steps    int                  // steps in the transaction
	yield    func() bool          // continues in the next transaction; nil if there is only one
	yields   int                  // how often yield was called
	deferred func(*indexer) error // called before the first yield
}

func newIndexer(ctx context.Context, st *Store, tx execer) *indexer {
	return &indexer{statements: statements{ctx, tx}, st: st, asked: ctx}
}

// states returns the column pending of those nodes that have a row.
func (x *indexer) states(keys []nodeKey) (map[nodeKey]int64, error) {
	out := make(map[nodeKey]int64)
	err := chunks(keys, func(part []nodeKey) error {
		return x.query(`SELECT mh, codec, pending FROM nodes WHERE mh IN (%s)`, `?`, len(part), hashes(part),
			func(scan scanRow) error {
				var k nodeKey
				var pending int64
				err := scan(&k.mh, &k.codec, &pending)
				out[k] = pending
				return err
			})
	})
	if err != nil {
		return nil, fmt.Errorf("look up nodes: %w", err)
	}
	return out, nil
}

// lacks returns the multihashes of those blocks that are not held. It may
// reorder keys.
func (x *indexer) lacks(keys []nodeKey) (map[string]bool, error) {
	out := make(map[string]bool)
	if len(keys) > statementRows { // sorted, neighbors share a page of the index
		slices.SortFunc(keys, func(a, b nodeKey) int { return cmp.Compare(a.mh, b.mh) })
	}
	err := chunks(keys, func(part []nodeKey) error {
		return x.query(`SELECT k.column1 FROM (VALUES %s) AS k WHERE NOT EXISTS (SELECT 1 FROM blocks b WHERE b.mh = k.column1)`,
			`(?)`, len(part), hashes(part),
			func(scan scanRow) error {
				var mh string
				err := scan(&mh)
				out[mh] = true
				return err
			})
	})
	if err != nil {
		return nil, fmt.Errorf("look up blocks: %w", err)
	}
	return out, nil
}

func hashes(keys []nodeKey) []any {
	out := make([]any, len(keys))
	for i, k := range keys {
		out[i] = []byte(k.mh)
	}
	return out
}

// pairs returns the keys as arguments (mh, codec) of a statement.
func pairs(keys []nodeKey) []any {
	out := make([]any, 0, 2*len(keys))
	for _, k := range keys {
		out = append(out, []byte(k.mh), k.codec)
	}
	return out
}

// evaluateAtOnce determines the state of nodes, and adds them to the waiting
// lists of their incomplete children.
func (x *indexer) evaluateAtOnce(nodes []freshNode) error {
	if len(nodes) == 0 {
		return nil
	}
	if err := x.restart(nodes); err != nil {
		return err
	}
	done, err := x.done(nodes)
	if err != nil {
		return err
	}
	for i := range nodes {
		nodes[i].links = slices.DeleteFunc(nodes[i].links, done)
	}
	resolve(nodes)
	return chunks(nodes, x.insert)
}

// isWide reports whether a node has so many links that it may be evaluated in
// parts. Stores may have nodes that were begun so, hence the limit must not
// rise.
func (x *indexer) isWide(n freshNode) bool { return !n.broken && len(n.links) > x.st.turns.links }

// restart removes what was recorded of unread nodes that somebody began to
// evaluate in parts.
func (x *indexer) restart(nodes []freshNode) error {
	var begun []edge
	err := chunks(nodes, func(part []freshNode) error {
		var keys []nodeKey
		links := make(map[nodeKey][]nodeKey)
		for _, n := range part {
			if x.isWide(n) {
				keys = append(keys, n.key)
				links[n.key] = n.links
			}
		}
		return x.query(`SELECT id, mh, codec FROM nodes WHERE (mh, codec) IN (VALUES %s) AND +pending = -2`, `(?,?)`, len(keys), pairs(keys), func(scan scanRow) error {
			var id int64
			var k nodeKey
			err := scan(&id, &k.mh, &k.codec)
			for _, l := range links[k] {
				begun = append(begun, edge{l, id})
			}
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("look up nodes: %w", err)
	}
	return x.unawait(begun)
}

// done returns a function that reports whether a link of the nodes is complete.
func (x *indexer) done(nodes []freshNode) (func(nodeKey) bool, error) {
	var leaves, inner []nodeKey
	seen := make(map[nodeKey]bool)
	near := x.run.losses == x.st.db.write.losses // if nothing was lost since, the blocks of the run are known to be held
	for _, n := range nodes {
		for _, k := range n.links {
			if near && !hasLinks(k.codec) && x.run.has(k.mh) || seen[k] {
				continue
			}
			seen[k] = true
			if hasLinks(k.codec) {
				inner = append(inner, k)
			} else {
				leaves = append(leaves, k)
			}
		}
	}
	lacks, err := x.lacks(leaves)
	if err != nil {
		return nil, err
	}
	state, err := x.states(inner)
	if err != nil {
		return nil, err
	}
	if err := x.demand(nodes, inner, state); err != nil {
		return nil, err
	}
	return func(k nodeKey) bool {
		if !hasLinks(k.codec) {
			return !lacks[k.mh]
		}
		s, known := state[k]
		return known && (s == nodeComplete || s == nodeReady || s == nodeTelling)
	}, nil
}

// resolve removes links that other nodes in the same batch complete.
func resolve(nodes []freshNode) {
	at := make(map[nodeKey]int, len(nodes))
	for i, n := range nodes {
		at[n.key] = i
	}
	parents := make([][]int, len(nodes))
	waits := make([]int, len(nodes))
	var whole []int
	for i, n := range nodes {
		for _, k := range n.links {
			if j, ok := at[k]; ok {
				parents[j] = append(parents[j], i)
			}
		}
		if waits[i] = len(n.links); waits[i] == 0 && !n.broken {
			whole = append(whole, i)
		}
	}
	for len(whole) > 0 {
		j := whole[len(whole)-1]
		whole = whole[:len(whole)-1]
		for _, i := range parents[j] {
			if waits[i]--; waits[i] == 0 {
				whole = append(whole, i)
			}
		}
	}
	for i := range nodes {
		nodes[i].links = slices.DeleteFunc(nodes[i].links, func(k nodeKey) bool {
			j, ok := at[k]
			return ok && waits[j] == 0 && !nodes[j].broken
		})
	}
}

// demand queues children for reading that are held but have no node, and whose
// section will not make one. That happens to blocks that were sent under
// another codec, and after a collection.
func (x *indexer) demand(nodes []freshNode, inner []nodeKey, state map[nodeKey]int64) error {
	fresh := make(map[nodeKey]bool, len(nodes))
	for _, n := range nodes {
		fresh[n.key] = true
	}
	var unknown []nodeKey
	for _, k := range inner {
		if _, ok := state[k]; !ok && !fresh[k] {
			unknown = append(unknown, k)
		}
	}
	lacks, err := x.lacks(unknown)
	if err != nil {
		return err
	}
	var unread []nodeKey
	for _, k := range unknown {
		if !lacks[k.mh] {
			unread = append(unread, k)
		}
	}
	return x.insertUnread(unread)
}

func (x *indexer) insertUnread(keys []nodeKey) error {
	for _, k := range keys {
		x.unread.push(k)
	}
	return chunks(keys, func(part []nodeKey) error {
		if err := x.exec(`INSERT OR IGNORE INTO nodes (mh, codec, pending) VALUES %s`, `(?,?,-2)`, len(part), pairs(part)); err != nil {
			return fmt.Errorf("index nodes: %w", err)
		}
		return nil
	})
}

// insert writes nodes, and what they wait for.
func (x *indexer) insert(nodes []freshNode) error {
	args := make([]any, 0, 3*len(nodes))
	for _, n := range nodes {
		pending := len(n.links)
		switch {
		case n.broken:
			pending = nodeBroken
		case pending == nodeReady:
			x.ready.push(n.key)
		}
		args = append(args, []byte(n.key.mh), n.key.codec, pending)
	}
	ids := make(map[nodeKey]int64, len(nodes))
	err := x.query(`INSERT INTO nodes (mh, codec, pending) VALUES %s
		ON CONFLICT (mh, codec) DO UPDATE SET pending = excluded.pending RETURNING id, mh, codec`, `(?,?,?)`, len(nodes), args,
		func(scan scanRow) error {
			var id int64
			var k nodeKey
			err := scan(&id, &k.mh, &k.codec)
			ids[k] = id
			return err
		})
	if err != nil {
		return fmt.Errorf("index nodes: %w", err)
	}
	var missing []edge
	for _, n := range nodes {
		id := ids[n.key]
		for _, c := range n.children {
			x.parents = append(x.parents, [2]int64{c, id})
		}
		for _, k := range n.links {
			missing = append(missing, edge{k, id})
		}
	}
	if len(x.parents) >= manyParents {
		if err := x.flush(); err != nil {
			return err
		}
	}
	return x.await(missing)
}

// edge is a link from a node to a child that is not complete.
type edge struct {
	child  nodeKey
	parent int64
}

func edgeArgs(edges []edge) []any {
	args := make([]any, 0, 3*len(edges))
	for _, e := range edges {
		args = append(args, []byte(e.child.mh), e.child.codec, e.parent)
	}
	return args
}

// await adds parents to the waiting lists of children. A node that is read
// again may be there already.
func (x *indexer) await(missing []edge) error {
	return chunks(missing, func(part []edge) error {
		if err := x.exec(`INSERT OR IGNORE INTO waiting (mh, codec, parent) VALUES %s`, `(?,?,?)`, len(part), edgeArgs(part)); err != nil {
			return fmt.Errorf("index links: %w", err)
		}
		return nil
	})
}

// unawait removes parents from the waiting lists of children.
func (x *indexer) unawait(edges []edge) error {
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Compare(a.child.mh, b.child.mh) })
	return chunks(edges, func(part []edge) error {
		if err := x.exec(`DELETE FROM waiting WHERE (mh, codec, parent) IN (VALUES %s)`, `(?,?,?)`, len(part), edgeArgs(part)); err != nil {
			return fmt.Errorf("index links: %w", err)
		}
		return nil
	})
}

// manyParents is how many rows of the table parents are written together. Like
// blocks, they are written in their order.
const manyParents = 32 << 10

// flush writes rows that were put off.
func (x *indexer) flush() error {
	slices.SortFunc(x.parents, func(a, b [2]int64) int { return slices.Compare(a[:], b[:]) })
	err := chunks(x.parents, func(part [][2]int64) error {
		args := make([]any, 0, 2*len(part))
		for _, e := range part {
			args = append(args, e[0], e[1])
		}
		return x.exec(`INSERT OR IGNORE INTO parents (child, parent) VALUES %s`, `(?,?)`, len(part), args)
	})
	if err != nil {
		return fmt.Errorf("index parents: %w", err)
	}
	x.parents = x.parents[:0]
	return nil
}

// rereadAll queues all nodes that are marked unread in the index.
func (x *indexer) rereadAll() { x.unread.spilled, x.unreadEnd = true, 0 }
