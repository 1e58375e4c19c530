package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"golang.org/x/time/rate"
)

// examined is what examine found of a shard.
type examined struct {
	blocks    int
	bytes     int64
	problems  []string
	collected bool // meanwhile: there is nothing to say of it
}

// examine hashes a shard, compares the index with it, and brings that in line
// with what it finds: what is damaged is marked, what was marked and is sound
// again is held again, and nodes that count as complete and are not are worked
// out again.
func (st *Store) examine(ctx context.Context, k known, pace *rate.Limiter) (e examined, err error) {
	marked, err := st.isMarked(ctx, k.shard)
	if err != nil {
		return e, err
	}
	lacking, missing, err := st.inspect(ctx, k, pace, &e)
	if err != nil {
		return e, err
	}
	if missing > 0 && !marked {
		e.problems = append(e.problems, fmt.Sprintf("%d of its blocks are not in the index", missing))
	}
	if len(e.problems) == 0 && !marked {
		return e, nil
	}
	st.log.LogAttrs(ctx, slog.LevelWarn, "a shard was marked or has problems", slog.String("shard", k.cid.String()), slog.Any("problems", e.problems))
	return e, st.mark(ctx, func(x *indexer) error {
		there, err := x.has(k.shard)
		if err != nil || !there { // it was collected since the list was made
			e.collected = !there
			return err
		}
		if err := x.harm(k.shard); err != nil || len(lacking) == 0 {
			return err
		}
		return x.lose(func(l *loss) error {
			for _, n := range lacking {
				if err := l.takeNode(n); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// inspect is the part of examine that changes nothing. It returns the nodes that
// count as complete and lack children, and how many blocks are not in the index.
func (st *Store) inspect(ctx context.Context, k known, pace *rate.Limiter, e *examined) (lacking []nodeKey, missing int, err error) {
	problem := func(format string, args ...any) { e.problems = append(e.problems, fmt.Sprintf(format, args...)) }
	res, f, err := st.rescan(ctx, k.cid, pace)
	if f != nil {
		defer func() { err = errors.Join(err, f.Close()) }()
	}
	if err != nil {
		if ctx.Err() == nil {
			problem("%v", err)
		}
		return nil, 0, ctx.Err()
	}
	e.bytes, e.blocks = res.size, res.blocks
	if res.size != k.size || res.payload != k.payload || res.payloadEnd != k.end {
		problem("the index has other sizes than the file")
	}
	in, err := newSections(f, res.payload, res.payloadEnd)
	if err != nil {
		return nil, 0, err
	}
	batch := make([]section, 0, statementRows)
	for end := false; !end; {
		sec, err := in.next()
		if end = errors.Is(err, io.EOF); !end {
			if err != nil {
				return nil, 0, err
			}
			batch = append(batch, sec)
		}
		if len(batch) == cap(batch) || end && len(batch) > 0 {
			n, err := st.unindexed(ctx, k.id, batch)
			if err != nil {
				return nil, 0, err
			}
			missing += n
			nodes, err := st.lacking(ctx, in, batch)
			if err != nil {
				return nil, 0, err
			}
			lacking = append(lacking, nodes...)
			batch = batch[:0]
		}
	}
	if len(lacking) > 0 {
		problem("%d of its nodes count as complete and lack children", len(lacking))
	}
	return lacking, missing, nil
}

// isMarked reports whether damage of a shard is known.
func (st *Store) isMarked(ctx context.Context, sh shard) (is bool, err error) {
	if is, err = exists(ctx, st.db.read, `SELECT 1 FROM damage WHERE shard = ?`, sh.id); err != nil {
		return false, fmt.Errorf("look up damage: %w", err)
	}
	return is, nil
}

// has reports whether a shard is still in the index.
func (x *indexer) has(sh shard) (bool, error) {
	is, err := exists(x.ctx, x.tx, `SELECT 1 FROM shards WHERE id = ? AND cid = ?`, sh.id, sh.cid.Bytes())
	if err != nil {
		return false, fmt.Errorf("look up shard: %w", err)
	}
	return is, nil
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

// lacking returns the nodes among the blocks that count as complete, but have
// children of which that is not so. All it asks is asked of one state of the
// index.
func (st *Store) lacking(ctx context.Context, in *sections, batch []section) (out []nodeKey, err error) {
	var nodes []nodeKey
	at := make(map[nodeKey]section)
	for _, sec := range batch {
		if k := keyOf(sec.c); hasLinks(k.codec) {
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
