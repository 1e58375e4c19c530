package store

import (
	"context"
	"fmt"
	"log/slog"
	"os"
)

// mark changes the records of damage in the index, and everything that follows
// from them.
func (st *Store) mark(ctx context.Context, f func(*indexer) error) error {
	done, err := st.change()
	if err != nil {
		return err
	}
	defer done()
	return st.sliced(ctx, func(x *indexer) error {
		if err := f(x); err != nil {
			return err
		}
		return x.settle()
	}, nil)
}

// report marks copies that a reader found damaged. The reader already has its
// answer, so errors are only logged.
func (st *Store) report(ctx context.Context, suspects []suspect) {
	if len(suspects) == 0 {
		return
	}
	err := st.mark(context.WithoutCancel(ctx), func(x *indexer) error { return x.condemn(suspects) })
	if err != nil {
		st.log.LogAttrs(ctx, slog.LevelError, "mark damage", slog.Any("error", err))
	}
}

// forgive removes all marks of a shard that turned out to be sound, and records
// its blocks again.
func (x *indexer) forgive(sh shard) error {
	if _, err := x.tx.ExecContext(x.ctx, `DELETE FROM damage WHERE shard = ?`, sh.id); err != nil {
		return fmt.Errorf("remove marks: %w", err)
	}
	return x.add(sh)
}

// again handles a shard that was sent again. That mends its damage, and
// completes what was interrupted the first time.
func (x *indexer) again(sh shard) error {
	damaged, err := exists(x.ctx, x.tx, `SELECT 1 FROM damage WHERE shard = ?`, sh.id)
	if err != nil {
		return fmt.Errorf("look up damage: %w", err)
	}
	if damaged {
		return x.forgive(sh)
	}
	staged, err := exists(x.ctx, x.tx, `SELECT 1 FROM staging WHERE shard = ?`, sh.id)
	if err != nil {
		return fmt.Errorf("look up interrupted shard: %w", err)
	}
	if staged {
		return x.add(sh)
	}
	return nil
}

// harm marks what is damaged in a shard whose file is not sound. Was describes
// the file that was examined; nil means that it could not be opened. Reading
// goes on outside of transactions, because a failing disk is slow.
func (st *Store) harm(ctx context.Context, sh shard, was os.FileInfo) error {
	err := st.mark(ctx, func(x *indexer) error {
		if there, err := x.has(sh); err != nil || !there || !st.unchanged(sh, was) {
			return err
		}
		return x.lose(func(l *loss) error {
			if err := l.takeFile(sh.id); err != nil || was != nil {
				return err
			}
			return l.take(`b.shard = ?1`, sh.id)
		})
	})
	if err != nil || was == nil {
		return err
	}
	for last := []byte{}; last != nil; {
		page, err := rowsOf(ctx, st.db.read, `SELECT mh, off, len FROM blocks WHERE shard = ? AND mh > ? ORDER BY mh LIMIT 64`, []any{sh.id, last},
			func(scan scanRow) (s suspect, err error) {
				s.id, s.shard = sh.id, sh.cid
				err = scan((*[]byte)(&s.mh), &s.off, &s.len)
				return s, err
			})
		if err != nil {
			return fmt.Errorf("list blocks of shard %s: %w", sh.cid, err)
		}
		last = nil
		var bad []suspect
		for _, s := range page {
			last = s.mh
			if err := st.checkCopy(s.location, s.mh); isDamage(err) {
				bad = append(bad, s)
			}
		}
		if len(bad) == 0 {
			continue
		}
		err = st.mark(ctx, func(x *indexer) error { return x.condemn(bad) })
		if err != nil {
			return err
		}
	}
	return nil
}

// unchanged reports whether the file of a shard is still the same.
func (st *Store) unchanged(sh shard, was os.FileInfo) bool {
	f, err := os.Open(st.files.path(sh.cid))
	if err != nil {
		return was == nil && isDamage(err)
	}
	defer f.Close()
	now, err := f.Stat()
	return err == nil && was != nil && os.SameFile(was, now)
}

// has reports whether a shard is still in the index and not about to be
// removed.
func (x *indexer) has(sh shard) (bool, error) {
	is, err := exists(x.ctx, x.tx, `SELECT 1 FROM shards s WHERE s.id = ? AND s.cid = ?
		AND NOT EXISTS (SELECT 1 FROM staging g WHERE g.shard = s.id AND g.active = -1)`, sh.id, sh.cid.Bytes())
	if err != nil {
		return false, fmt.Errorf("look up shard: %w", err)
	}
	return is, nil
}
