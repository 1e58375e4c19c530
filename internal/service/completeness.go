package service

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
)

// States of a node, in the column pending. Above zero it is the number of
// distinct children that are not complete. Queries spell the values out, since
// partial indexes are matched by the text of the condition.
const (
	nodeReady    = 0  // complete, its parents do not know yet
	nodeComplete = -1 // complete
	nodeUnread   = -2 // held and linked to, but its links are not known yet
	nodeBroken   = -3 // does not decode with its codec: never complete
	nodeTelling  = -4 // its parents are being told
)

const (
	batchSections = 256
	batchLinks    = 4096
	statementRows = 256
)

// indexer makes the blocks of one shard known, within one transaction.
type indexer struct {
	ctx   context.Context //nolint:containedctx // an indexer lives as long as its transaction
	st    *store
	tx    *sql.Tx
	stmts map[string]prepared
}

func newIndexer(ctx context.Context, st *store, tx *sql.Tx) *indexer {
	return &indexer{ctx: ctx, st: st, tx: tx, stmts: make(map[string]prepared)}
}

// prepared is a statement that its transaction closes.
type prepared interface {
	ExecContext(ctx context.Context, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, args ...any) *sql.Row
}

// prepare keeps the statements of a transaction, which closes them.
func (x *indexer) prepare(query string) (prepared, error) {
	if s, ok := x.stmts[query]; ok {
		return s, nil
	}
	s, err := x.tx.PrepareContext(x.ctx, query)
	if err != nil {
		return nil, fmt.Errorf("prepare %.40q: %w", query, err)
	}
	x.stmts[query] = s
	return s, nil
}

// exec runs a statement whose %s stands for n times row.
func (x *indexer) exec(query, row string, n int, args []any) error {
	query = fmt.Sprintf(query, strings.Repeat(row+",", n-1)+row)
	if n < statementRows {
		_, err := x.tx.ExecContext(x.ctx, query, args...)
		return err
	}
	s, err := x.prepare(query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(x.ctx, args...)
	return err
}

// query is exec for statements that return rows.
func (x *indexer) query(query, row string, n int, args []any, f func(scanRow) error) error {
	query = fmt.Sprintf(query, strings.Repeat(row+",", n-1)+row)
	if n < statementRows {
		return eachRow(x.ctx, x.tx, query, args, f)
	}
	s, err := x.prepare(query)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(x.ctx, args...)
	if err != nil {
		return err
	}
	return drainRows(rows, f)
}

// scanRow is the method Scan of one row.
type scanRow func(...any) error

// eachRow calls f for each row of a query.
func eachRow(ctx context.Context, q querier, query string, args []any, f func(scanRow) error) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	return drainRows(rows, f)
}

func drainRows(rows *sql.Rows, f func(scanRow) error) (err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// chunks calls f with as many keys at a time as go into one statement.
func chunks[T any](all []T, f func([]T) error) error {
	for len(all) > 0 {
		n := min(len(all), statementRows)
		if err := f(all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// add makes the blocks of a shard known, and then all that follows from it. It
// reads the file twice: what links to what is asked only when all its blocks
// count as held. It holds one batch, whatever the size of the file.
func (x *indexer) add(sh shard) (err error) {
	f, err := os.Open(x.st.shardPath(sh.cid))
	if err != nil {
		return fmt.Errorf("index shard: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, pass := range []func(*sections, []section) error{
		func(_ *sections, b []section) error { return x.hold(sh.id, b) },
		x.link,
	} {
		in, err := newSections(f, sh.payload, sh.end)
		if err != nil {
			return err
		}
		batch := make([]section, 0, batchSections)
		for end := false; !end; {
			sec, err := in.next()
			if end = errors.Is(err, io.EOF); !end {
				if err != nil {
					return fmt.Errorf("index shard %s: %w", sh.cid, err)
				}
				batch = append(batch, sec)
			}
			if len(batch) == cap(batch) || end && len(batch) > 0 {
				if err := pass(in, batch); err != nil {
					return err
				}
				batch = batch[:0]
			}
		}
	}
	return x.settle()
}

// hold records where blocks are.
func (x *indexer) hold(shardID int64, batch []section) error {
	args := make([]any, 0, 4*len(batch))
	for _, s := range batch {
		args = append(args, []byte(s.c.Hash()), shardID, s.off, s.len)
	}
	if err := x.exec(`INSERT OR IGNORE INTO blocks (mh, shard, off, len) VALUES %s`, `(?,?,?,?)`, len(batch), args); err != nil {
		return fmt.Errorf("index blocks: %w", err)
	}
	return nil
}

// link tells the parents of leaves that these are held, and works out what the
// inner nodes among the blocks wait for.
func (x *indexer) link(in *sections, batch []section) error {
	if err := x.wake(batch); err != nil {
		return err
	}
	inner := make(map[nodeKey]section)
	var keys []nodeKey
	for _, s := range batch {
		if k := keyOf(s.c); hasLinks(k.codec) {
			if _, twice := inner[k]; !twice {
				inner[k] = s
				keys = append(keys, k)
			}
		}
	}
	known, err := x.states(keys)
	if err != nil {
		return err
	}
	var nodes []freshNode
	total := 0
	for _, k := range keys {
		if state, ok := known[k]; ok && state != nodeUnread {
			continue
		}
		data, err := in.data(inner[k])
		if err != nil {
			return err
		}
		n := parse(k, data)
		nodes = append(nodes, n)
		if total += len(n.links); total >= batchLinks {
			if err := x.evaluate(nodes); err != nil {
				return err
			}
			nodes, total = nil, 0
		}
	}
	return x.evaluate(nodes)
}

// wake takes held leaves off the lists of those who wait for them. A block may
// also be waited for as a node of a codec that its section does not have; such
// nodes are left to be read.
func (x *indexer) wake(batch []section) error {
	mhs := make([]any, len(batch))
	for i, s := range batch {
		mhs[i] = []byte(s.c.Hash())
	}
	const leaf = `codec NOT IN (112, 113, 297)`
	for _, q := range []string{
		`UPDATE nodes SET pending = pending - w.n FROM
			(SELECT parent, count(*) AS n FROM waiting WHERE mh IN (%s) AND ` + leaf + ` GROUP BY parent) AS w
			WHERE nodes.id = w.parent`,
		`DELETE FROM waiting WHERE mh IN (%s) AND ` + leaf,
		`INSERT OR IGNORE INTO nodes (mh, codec, pending) SELECT DISTINCT mh, codec, -2 FROM waiting WHERE mh IN (%s)`,
	} {
		if err := x.exec(q, `?`, len(mhs), mhs); err != nil {
			return fmt.Errorf("wake parents: %w", err)
		}
	}
	return nil
}

// states returns pending of those nodes that have a row.
func (x *indexer) states(keys []nodeKey) (map[nodeKey]int64, error) {
	out := make(map[nodeKey]int64)
	err := chunks(keys, func(part []nodeKey) error {
		return x.query(`SELECT mh, codec, pending FROM nodes WHERE mh IN (%s)`, `?`, len(part), hashes(part),
			func(scan scanRow) error {
				var mh []byte
				var codec uint64
				var pending int64
				if err := scan(&mh, &codec, &pending); err != nil {
					return err
				}
				out[nodeKey{string(mh), codec}] = pending
				return nil
			})
	})
	if err != nil {
		return nil, fmt.Errorf("look up nodes: %w", err)
	}
	return out, nil
}

// held returns the multihashes of those blocks that are held.
func (x *indexer) held(keys []nodeKey) (map[string]bool, error) {
	out := make(map[string]bool)
	err := chunks(keys, func(part []nodeKey) error {
		return x.query(`SELECT DISTINCT mh FROM blocks WHERE mh IN (%s)`, `?`, len(part), hashes(part),
			func(scan scanRow) error {
				var mh []byte
				if err := scan(&mh); err != nil {
					return err
				}
				out[string(mh)] = true
				return nil
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

// freshNode is an inner node whose links were just read.
type freshNode struct {
	key    nodeKey
	links  []nodeKey
	broken bool
}

func parse(k nodeKey, data []byte) freshNode {
	ls, err := links(k.codec, data)
	return freshNode{key: k, links: ls, broken: err != nil}
}

// evaluate gives nodes their state and puts them on the lists of the children
// they wait for.
func (x *indexer) evaluate(nodes []freshNode) error {
	if len(nodes) == 0 {
		return nil
	}
	var leaves, inner []nodeKey
	seen := make(map[nodeKey]bool)
	for _, n := range nodes {
		for _, k := range n.links {
			if seen[k] {
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
	held, err := x.held(leaves)
	if err != nil {
		return err
	}
	state, err := x.states(inner)
	if err != nil {
		return err
	}
	if err := x.demand(nodes, inner, state); err != nil {
		return err
	}
	for i := range nodes {
		missing := nodes[i].links[:0]
		for _, k := range nodes[i].links {
			done := held[k.mh]
			if hasLinks(k.codec) {
				s, known := state[k]
				done = known && (s == nodeComplete || s == nodeReady || s == nodeTelling)
			}
			if !done {
				missing = append(missing, k)
			}
		}
		nodes[i].links = missing
	}
	return chunks(nodes, x.insert)
}

// demand leaves children to be read that are held but are not nodes yet, and
// will not be by their own section: that is so for blocks that came under
// another codec, and after a collection of garbage.
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
	held, err := x.held(unknown)
	if err != nil {
		return err
	}
	var unread []nodeKey
	for _, k := range unknown {
		if held[k.mh] {
			unread = append(unread, k)
		}
	}
	return x.insertUnread(unread)
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

func (x *indexer) insertUnread(keys []nodeKey) error {
	return chunks(keys, func(part []nodeKey) error {
		args := make([]any, 0, 2*len(part))
		for _, k := range part {
			args = append(args, []byte(k.mh), k.codec)
		}
		if err := x.exec(`INSERT OR IGNORE INTO nodes (mh, codec, pending) VALUES %s`, `(?,?,-2)`, len(part), args); err != nil {
			return fmt.Errorf("index nodes: %w", err)
		}
		return nil
	})
}

// insert writes nodes and what they wait for.
func (x *indexer) insert(nodes []freshNode) error {
	args := make([]any, 0, 3*len(nodes))
	for _, n := range nodes {
		pending := len(n.links)
		if n.broken {
			pending = nodeBroken
		}
		args = append(args, []byte(n.key.mh), n.key.codec, pending)
	}
	ids := make(map[nodeKey]int64, len(nodes))
	err := x.query(`INSERT INTO nodes (mh, codec, pending) VALUES %s
		ON CONFLICT (mh, codec) DO UPDATE SET pending = excluded.pending RETURNING id, mh, codec`, `(?,?,?)`, len(nodes), args,
		func(scan scanRow) error {
			var id int64
			var mh []byte
			var codec uint64
			if err := scan(&id, &mh, &codec); err != nil {
				return err
			}
			ids[nodeKey{string(mh), codec}] = id
			return nil
		})
	if err != nil {
		return fmt.Errorf("index nodes: %w", err)
	}
	type edge struct {
		child  nodeKey
		parent int64
	}
	var edges []edge
	flush := func() error {
		defer func() { edges = edges[:0] }()
		return chunks(edges, func(part []edge) error {
			args := make([]any, 0, 3*len(part))
			for _, e := range part {
				args = append(args, []byte(e.child.mh), e.child.codec, e.parent)
			}
			if err := x.exec(`INSERT INTO waiting (mh, codec, parent) VALUES %s`, `(?,?,?)`, len(part), args); err != nil {
				return fmt.Errorf("index links: %w", err)
			}
			return nil
		})
	}
	for _, n := range nodes {
		for _, k := range n.links {
			edges = append(edges, edge{k, ids[n.key]})
			if len(edges) == batchLinks {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	return flush()
}

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
		last = read
	}
}

// narrow is the number of ready nodes up to which they are passed on one by
// one. That is cheaper for deep DAGs, and by levels for wide ones.
const narrow = 32

// propagate tells parents of nodes that became complete.
func (x *indexer) propagate() error {
	for {
		var ready []nodeKey
		err := eachRow(x.ctx, x.tx, `SELECT mh, codec FROM nodes WHERE pending = 0 LIMIT 33`, nil, func(scan scanRow) error {
			var mh []byte
			var k nodeKey
			err := scan(&mh, &k.codec)
			k.mh = string(mh)
			ready = append(ready, k)
			return err
		})
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
			var mh []byte
			var up nodeKey
			if err := dec.QueryRowContext(x.ctx, id).Scan(&pending, &mh, &up.codec); err != nil {
				return err
			}
			if pending == nodeReady && len(ready) <= narrow {
				up.mh = string(mh)
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
// returns the last that it read, or 0. A node whose copies are all damaged stays
// unread, and what needs it incomplete, until a sound copy comes.
func (x *indexer) readUnread(last int64) (int64, error) {
	var batch []nodeKey
	err := eachRow(x.ctx, x.tx, `SELECT n.id, n.mh, n.codec FROM nodes n
		WHERE n.pending = -2 AND n.id > ? AND EXISTS (SELECT 1 FROM blocks b WHERE b.mh = n.mh) ORDER BY n.id LIMIT 64`, []any{last},
		func(scan scanRow) error {
			var mh []byte
			var k nodeKey
			err := scan(&last, &mh, &k.codec)
			k.mh = string(mh)
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
	total := 0
	for _, k := range batch {
		data, err := x.st.readBlock(x.ctx, x.tx, k.cid())
		if errors.Is(err, errDamaged) {
			x.st.log.LogAttrs(x.ctx, slog.LevelError, "a block is damaged, and has to be uploaded again", slog.Any("error", err))
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
	return last, x.evaluate(nodes)
}

// complete reports whether all that is reachable from a root is held.
func complete(ctx context.Context, q querier, root nodeKey) (bool, error) {
	if _, inline := root.identity(); inline && !hasLinks(root.codec) {
		return true, nil
	}
	var is bool
	query, args := `SELECT EXISTS (SELECT 1 FROM nodes WHERE mh = ? AND codec = ? AND pending = -1)`, []any{[]byte(root.mh), root.codec}
	if !hasLinks(root.codec) {
		query, args = `SELECT EXISTS (SELECT 1 FROM blocks WHERE mh = ?)`, args[:1]
	}
	if err := q.QueryRowContext(ctx, query, args...).Scan(&is); err != nil {
		return false, fmt.Errorf("look up root: %w", err)
	}
	return is, nil
}
