package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/ipfs/go-cid"
)

// Problem is something that [Store.Fsck] or [Rebuild] found wrong.
type Problem struct {
	Shard string // its CID; empty if it is about the index as a whole
	What  string
}

func (p Problem) String() string {
	if p.Shard == "" {
		return p.What
	}
	return p.Shard + ": " + p.What
}

// FsckReport is what a check of a store found.
type FsckReport struct {
	Shards   int
	Blocks   int64
	Bytes    int64
	Orphans  int // files of shards that were never acknowledged; harmless, Collect removes them
	Problems []Problem
}

func (r *FsckReport) problem(shard cid.Cid, format string, args ...any) {
	p := Problem{What: fmt.Sprintf(format, args...)}
	if shard.Defined() {
		p.Shard = shard.String()
	}
	r.Problems = append(r.Problems, p)
}

// Fsck hashes every block of every shard, and compares the index with them. It
// changes nothing. Uploads go on meanwhile. A store that discards payloads
// cannot be checked; the error is [ErrDiscards].
func (st *Store) Fsck(ctx context.Context) (*FsckReport, error) {
	if st.discard {
		return nil, fmt.Errorf("check store %s: %w", st.files.dir, ErrDiscards)
	}
	r := new(FsckReport)
	type known struct {
		shard
		size int64
	}
	var all []known
	err := eachRow(ctx, st.db.read, `SELECT id, cid, size, payload, payload_end FROM shards ORDER BY id`, nil,
		func(scan scanRow) error {
			var k known
			var raw []byte
			if err := scan(&k.id, &raw, &k.size, &k.payload, &k.end); err != nil {
				return err
			}
			var err error
			k.cid, err = cid.Cast(raw)
			all = append(all, k)
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("list shards: %w", err)
	}
	for _, k := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		before := *r
		if err := st.fsckShard(ctx, k.shard, k.size, r); err != nil {
			return nil, err
		}
		if len(r.Problems) > len(before.Problems) { // it may have been collected since the list was made
			there, err := st.has(ctx, k.shard)
			if err != nil {
				return nil, err
			}
			if !there {
				*r = before
			}
		}
	}
	err = st.files.each(func(c cid.Cid, _ string) error {
		known, err := st.knows(ctx, c)
		if err == nil && !known {
			r.Orphans++
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return r, st.fsckNodes(ctx, r)
}

// has reports whether a shard is still in the index.
func (st *Store) has(ctx context.Context, sh shard) (bool, error) {
	var is bool
	err := st.db.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM shards WHERE id = ? AND cid = ?)`, sh.id, sh.cid.Bytes()).Scan(&is)
	if err != nil {
		return false, fmt.Errorf("look up shard: %w", err)
	}
	return is, nil
}

// fsckShard checks one shard file, that the index has each of its blocks, and
// that the nodes among them which count as complete are.
func (st *Store) fsckShard(ctx context.Context, sh shard, size int64, r *FsckReport) (err error) {
	r.Shards++
	res, f, err := st.rescan(ctx, sh.cid)
	if f != nil {
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.problem(sh.cid, "%v", err)
		return nil
	}
	r.Bytes += res.size
	r.Blocks += int64(res.blocks)
	if res.size != size || res.payload != sh.payload || res.payloadEnd != sh.end {
		r.problem(sh.cid, "the index has other sizes than the file")
	}
	in, err := newSections(f, res.payload, res.payloadEnd)
	if err != nil {
		return err
	}
	missing, lacking := 0, 0
	batch := make([]section, 0, statementRows)
	for end := false; !end; {
		sec, err := in.next()
		if end = errors.Is(err, io.EOF); !end {
			if err != nil {
				return err
			}
			batch = append(batch, sec)
		}
		if len(batch) == cap(batch) || end && len(batch) > 0 {
			n, err := st.unindexed(ctx, sh.id, batch)
			if err != nil {
				return err
			}
			missing += n
			if n, err = st.lacking(ctx, in, batch); err != nil {
				return err
			}
			lacking += n
			batch = batch[:0]
		}
	}
	if missing > 0 {
		r.problem(sh.cid, "%d of its blocks are not in the index", missing)
	}
	if lacking > 0 {
		r.problem(sh.cid, "%d of its nodes count as complete and lack children", lacking)
	}
	return nil
}

// unindexed counts the blocks that the index does not have in a shard with
// their length.
func (st *Store) unindexed(ctx context.Context, shardID int64, batch []section) (int, error) {
	lens := make(map[string]int, len(batch))
	for _, sec := range batch {
		lens[string(sec.c.Hash())] = sec.len
	}
	args := []any{shardID}
	for mh := range lens {
		args = append(args, []byte(mh))
	}
	query := `SELECT mh, len FROM blocks WHERE shard = ? AND mh IN (?` + strings.Repeat(",?", len(lens)-1) + `)`
	err := eachRow(ctx, st.db.read, query, args, func(scan scanRow) error {
		var mh []byte
		var n int
		err := scan(&mh, &n)
		if lens[string(mh)] == n {
			delete(lens, string(mh))
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look up blocks: %w", err)
	}
	return len(lens), nil
}

// lacking counts the nodes among the blocks that count as complete, but have
// children of which that is not so. All it asks is asked of one state of the
// index.
func (st *Store) lacking(ctx context.Context, in *sections, batch []section) (count int, err error) {
	var nodes []nodeKey
	at := make(map[nodeKey]section)
	for _, sec := range batch {
		if k := keyOf(sec.c); hasLinks(k.codec) {
			nodes, at[k] = append(nodes, k), sec
		}
	}
	if len(nodes) == 0 {
		return 0, nil
	}
	tx, err := st.db.read.BeginTx(ctx, nil)
	if err != nil {
		return 0, fmt.Errorf("begin reading: %w", err)
	}
	defer func() {
		if undo := tx.Rollback(); !errors.Is(undo, sql.ErrTxDone) {
			err = errors.Join(err, undo)
		}
	}()
	x := newIndexer(ctx, st, tx)
	state, err := x.states(nodes)
	if err != nil {
		return 0, err
	}
	for _, k := range nodes {
		if state[k] != nodeComplete {
			continue
		}
		data, err := in.data(at[k])
		if err != nil {
			return 0, err
		}
		n := parse(k, data)
		whole := !n.broken
		if whole {
			if whole, err = x.allComplete(n.links); err != nil {
				return 0, err
			}
		}
		if !whole {
			count++
		}
	}
	return count, nil
}

// allComplete reports whether leaves are held and nodes complete.
func (x *indexer) allComplete(keys []nodeKey) (bool, error) {
	held, err := x.held(keys)
	if err != nil {
		return false, err
	}
	state, err := x.states(keys)
	if err != nil {
		return false, err
	}
	for _, k := range keys {
		if !held[k.mh] || hasLinks(k.codec) && state[k] != nodeComplete {
			return false, nil
		}
	}
	return true, nil
}

// rescan hashes a shard file again. The caller closes the file, if there is
// one.
func (st *Store) rescan(ctx context.Context, want cid.Cid) (*scanResult, *os.File, error) {
	f, err := os.Open(st.files.path(want))
	if err != nil {
		return nil, nil, err
	}
	res, err := st.scan(ctx, f, -1, nil, nil)
	if err == nil && !res.cid.Equals(want) {
		err = ErrDamaged
	}
	return res, f, err
}

// fsckNodes checks that what is said of nodes adds up.
func (st *Store) fsckNodes(ctx context.Context, r *FsckReport) error {
	for _, check := range []struct{ what, query string }{
		{"%d nodes do not wait for as many children as they count", `SELECT count(*) FROM nodes n
			LEFT JOIN (SELECT parent, count(*) AS n FROM waiting GROUP BY parent) w ON w.parent = n.id
			WHERE max(n.pending, 0) <> COALESCE(w.n, 0)`},
		{"%d nodes wait for leaves that are held", `SELECT count(*) FROM waiting w
			WHERE w.codec NOT IN ` + innerCodecs + ` AND EXISTS (SELECT 1 FROM blocks b WHERE b.mh = w.mh)`},
		{"%d nodes wait for nodes that are complete", `SELECT count(*) FROM waiting w
			JOIN nodes n ON n.mh = w.mh AND n.codec = w.codec WHERE n.pending IN (0, -1, -4)`},
		{"%d nodes were left unread", `SELECT count(*) FROM nodes WHERE pending IN (0, -2, -4)`},
		{"%d nodes are not held", `SELECT count(*) FROM nodes n WHERE NOT EXISTS (SELECT 1 FROM blocks b WHERE b.mh = n.mh)`},
	} {
		var n int
		if err := st.db.read.QueryRowContext(ctx, check.query).Scan(&n); err != nil {
			return fmt.Errorf("check nodes: %w", err)
		}
		if n > 0 {
			r.problem(cid.Undef, check.what, n)
		}
	}
	return nil
}
