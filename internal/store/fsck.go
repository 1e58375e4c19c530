package store

import (
	"context"
	"fmt"

	"github.com/ipfs/go-cid"
)

// Problem is something that [Store.Fsck] or [Rebuild] found wrong.
type Problem struct {
	Shard string // CID of the shard; empty if the problem is about the whole index
	What  string
}

func (p Problem) String() string {
	if p.Shard == "" {
		return p.What
	}
	return p.Shard + ": " + p.What
}

// FsckReport is the result of checking a store.
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

// Fsck hashes every block of every shard and compares the index with the
// result. From then on, blocks found damaged count as not held, and blocks that
// were marked as damaged but are sound count as held. Uploads continue
// meanwhile. A store that discards payloads cannot be checked; the error is
// then [ErrDiscards].
func (st *Store) Fsck(ctx context.Context) (*FsckReport, error) {
	if st.discard {
		return nil, fmt.Errorf("check store %s: %w", st.files.dir, ErrDiscards)
	}
	r := new(FsckReport)
	dangling, err := st.survey(ctx)
	if err != nil {
		return nil, err
	}
	if dangling > 0 {
		r.problem(cid.Undef, "%d shards of uploads are not in the index", dangling)
	}
	all, err := st.shards(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		e, err := st.examine(ctx, k, nil)
		if err != nil {
			return nil, err
		}
		if e.collected {
			continue
		}
		r.Shards++
		r.Blocks += int64(e.blocks)
		r.Bytes += e.bytes
		for _, what := range e.problems {
			r.problem(k.cid, "%s", what)
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

const notHeld = "%d nodes are not held"

// fsckNodes checks that the records of nodes agree with each other.
func (st *Store) fsckNodes(ctx context.Context, r *FsckReport) error {
	for _, check := range []struct{ what, query string }{
		{"%d nodes count more or fewer missing children than they wait for", `SELECT count(*) FROM nodes n
			LEFT JOIN (SELECT parent, count(*) AS n FROM waiting GROUP BY parent) w ON w.parent = n.id
			WHERE n.pending <> -2 AND max(n.pending, 0) <> COALESCE(w.n, 0)`},
		{"%d nodes wait for leaves that are held", `SELECT count(*) FROM waiting w
			WHERE w.codec NOT IN ` + innerCodecs + ` AND EXISTS (SELECT 1 FROM blocks b WHERE b.mh = w.mh)`},
		{"%d nodes wait for nodes that are complete", `SELECT count(*) FROM waiting w
			JOIN nodes n ON n.mh = w.mh AND n.codec = w.codec WHERE n.pending IN (0, -1, -4)`},
		{"%d nodes were never read", `SELECT count(*) FROM nodes WHERE pending IN (0, -2, -4)`},
		{notHeld, `SELECT count(*) FROM nodes n WHERE NOT EXISTS (SELECT 1 FROM blocks b WHERE b.mh = n.mh)`},
	} {
		var n int
		if err := st.db.read.QueryRowContext(ctx, check.query).Scan(&n); err != nil {
			return fmt.Errorf("check nodes: %w", err)
		}
		if n == 0 {
			continue
		}
		r.problem(cid.Undef, check.what, n)
		if check.what != notHeld {
			continue
		}
		err := st.mark(ctx, func(x *indexer) error { return x.lose((*loss).takeNodes) })
		if err != nil {
			return err
		}
	}
	return nil
}
