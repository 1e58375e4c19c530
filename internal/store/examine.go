package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/time/rate"
)

// examined is the result of examining a shard.
type examined struct {
	blocks    int
	bytes     int64
	problems  []string
	collected bool // the shard was collected meanwhile
}

// examine hashes a shard, compares the index with it, and corrects the index:
// it marks what is damaged, unmarks what turned out to be sound, and makes
// nodes that wrongly count as complete be evaluated again.
func (st *Store) examine(ctx context.Context, k known, pace *rate.Limiter) (e examined, err error) {
	marked, err := exists(ctx, st.db.read, `SELECT 1 FROM damage WHERE shard = ?`, k.id)
	if err != nil {
		return e, fmt.Errorf("look up damage: %w", err)
	}
	v, err := st.inspect(ctx, k, pace)
	if err != nil {
		return e, err
	}
	problem := func(format string, args ...any) { e.problems = append(e.problems, fmt.Sprintf(format, args...)) }
	if v.fault != nil {
		problem("%v", v.fault)
	}
	if v.otherSizes {
		problem("the sizes in the index differ from the file's")
	}
	if v.missing > 0 && !marked {
		partly, err := exists(ctx, st.db.read, `SELECT 1 FROM staging WHERE shard = ?`, k.id)
		if err != nil {
			return e, fmt.Errorf("look up what was interrupted: %w", err)
		}
		if !partly {
			problem("%d of its blocks are not in the index", v.missing)
		}
	}
	if len(v.lacking) > 0 {
		problem("%d of its nodes count as complete but lack children", len(v.lacking))
	}
	if len(e.problems) == 0 && !marked {
		return v.examined(e), nil
	}
	if there, err := st.knows(ctx, k.cid); err != nil || !there {
		return examined{collected: true}, err // it was removed after the list was made
	}
	st.log.LogAttrs(ctx, slog.LevelWarn, "a shard was marked or has problems", slog.String("shard", k.cid.String()), slog.Any("problems", e.problems))
	switch {
	case v.fault == nil:
		err = st.mark(ctx, func(x *indexer) error { return x.restore(k.shard, v) })
	case isDamage(v.fault):
		err = st.harm(ctx, k.shard, v.file)
	}
	return v.examined(e), err
}

// restore records the blocks of a sound shard again.
func (x *indexer) restore(sh shard, v verdict) error {
	if there, err := x.has(sh); err != nil || !there || !x.st.unchanged(sh, v.file) {
		return err
	}
	sh.payload, sh.end = v.res.payload, v.res.payloadEnd
	if _, err := x.tx.ExecContext(x.ctx, `UPDATE shards SET size = ?, payload = ?, payload_end = ? WHERE id = ?`,
		v.res.size, sh.payload, sh.end, sh.id); err != nil {
		return fmt.Errorf("correct sizes: %w", err)
	}
	if err := x.forgive(sh); err != nil || len(v.lacking) == 0 {
		return err
	}
	return x.lose(func(l *loss) error {
		for _, n := range v.lacking {
			if err := l.takeNode(n); err != nil {
				return err
			}
		}
		return nil
	})
}

// verdict is what inspect found out about a shard.
type verdict struct {
	fault      error       // why the file is not a sound shard
	file       os.FileInfo // nil if it could not be opened
	res        scanResult
	otherSizes bool      // the sizes in the index are wrong
	missing    int       // blocks that are not in the index
	lacking    []nodeKey // nodes that count as complete but lack children
}

func (v verdict) examined(e examined) examined {
	e.blocks, e.bytes = v.res.blocks, v.res.size
	return e
}

// inspect is the part of examine that changes nothing.
func (st *Store) inspect(ctx context.Context, k known, pace *rate.Limiter) (v verdict, err error) {
	res, f, err := st.rescan(ctx, k.cid, pace)
	if f != nil {
		defer func() { err = errors.Join(err, f.Close()) }()
		v.file, v.fault = f.Stat()
	}
	if v.fault = errors.Join(v.fault, err); v.fault != nil {
		return v, ctx.Err()
	}
	v.res = *res
	v.otherSizes = res.size != k.size || res.payload != k.payload || res.payloadEnd != k.end
	if err := st.compare(ctx, k, f, &v); isDamage(err) { // it has been damaged since it was hashed
		v.fault = err
	} else if err != nil {
		return v, err
	}
	return v, nil
}

// compare looks up the blocks of a sound shard in the index.
func (st *Store) compare(ctx context.Context, k known, f *os.File, v *verdict) error {
	in, err := newSections(f, v.res.payload, v.res.payloadEnd)
	if err != nil {
		return err
	}
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
			n, err := st.unindexed(ctx, k.id, batch)
			if err != nil {
				return err
			}
			v.missing += n
			nodes, err := st.lacking(ctx, in, batch)
			if err != nil {
				return err
			}
			v.lacking = append(v.lacking, nodes...)
			batch = batch[:0]
		}
	}
	return nil
}

// unindexed counts the blocks that the index lacks for a shard, or has with
// another length.
func (st *Store) unindexed(ctx context.Context, shardID int64, batch []section) (int, error) {
	lens := make(map[string]int, len(batch))
	for _, sec := range batch {
		lens[sec.key.mh] = sec.len
	}
	args := []any{shardID}
	for mh := range lens {
		args = append(args, []byte(mh))
	}
	query := `SELECT mh, len FROM blocks WHERE shard = ? AND mh IN (` + marks(len(lens)) + `)`
	err := eachRow(ctx, st.db.read, query, args, func(scan scanRow) error {
		var mh string
		var n int
		err := scan(&mh, &n)
		if lens[mh] == n {
			delete(lens, mh)
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("look up blocks: %w", err)
	}
	return len(lens), nil
}

// lacking returns the nodes among the blocks that count as complete although
// some of their children don't. All its queries see the same state of the
// index.
func (st *Store) lacking(ctx context.Context, in *sections, batch []section) (out []nodeKey, err error) {
	var nodes []nodeKey
	at := make(map[nodeKey]section)
	for _, sec := range batch {
		if k := sec.key; hasLinks(k.codec) {
			nodes, at[k] = append(nodes, k), sec
		}
	}
	if len(nodes) == 0 {
		return nil, nil
	}
	tx, err := st.db.read.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("begin reading: %w", err)
	}
	defer func() {
		if undo := tx.Rollback(); !errors.Is(undo, sql.ErrTxDone) {
			err = errors.Join(err, undo)
		}
	}()
	x := newIndexer(ctx, st, tx)
	state, err := x.states(nodes)
	if err != nil {
		return nil, err
	}
	for _, k := range nodes {
		if state[k] != nodeComplete {
			continue
		}
		data, err := in.data(at[k])
		if err != nil {
			return nil, err
		}
		n := parse(k, data)
		whole := !n.broken
		if whole {
			if whole, err = x.allComplete(n.links); err != nil {
				return nil, err
			}
		}
		if !whole {
			out = append(out, k)
		}
	}
	return out, nil
}

// allComplete reports whether all leaves are held and all nodes complete.
func (x *indexer) allComplete(keys []nodeKey) (bool, error) {
	lacks, err := x.lacks(keys)
	if err != nil {
		return false, err
	}
	state, err := x.states(keys)
	if err != nil {
		return false, err
	}
	for _, k := range keys {
		if lacks[k.mh] || hasLinks(k.codec) && state[k] != nodeComplete {
			return false, nil
		}
	}
	return true, nil
}
