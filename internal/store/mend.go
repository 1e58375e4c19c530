package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/multiformats/go-multihash"
)

// mark changes what the index says of damage, and settles what follows from it.
func (st *Store) mark(ctx context.Context, f func(*indexer) error) error {
	done, err := st.change()
	if err != nil {
		return err
	}
	defer done()
	return st.db.update(ctx, func(tx *sql.Tx) error {
		x := newIndexer(ctx, st, tx)
		if err := f(x); err != nil {
			return err
		}
		return x.settle()
	})
}

// report marks copies that a reader found damaged. The reader has its answer
// already, so a failure of that is only logged.
func (st *Store) report(ctx context.Context, suspects []suspect) {
	if len(suspects) == 0 {
		return
	}
	err := st.mark(context.WithoutCancel(ctx), func(x *indexer) error {
		_, err := x.condemn(suspects)
		return err
	})
	if err != nil {
		st.log.LogAttrs(ctx, slog.LevelError, "mark damage", slog.Any("error", err))
	}
}

// forgive takes back all marks of a shard that turned out to be sound, and makes
// its blocks known again.
func (x *indexer) forgive(sh shard) error {
	if _, err := x.tx.ExecContext(x.ctx, `DELETE FROM damage WHERE shard = ?`, sh.id); err != nil {
		return fmt.Errorf("take marks back: %w", err)
	}
	return x.add(sh)
}

// again is for a shard that came again: that mends what was damaged of it.
func (x *indexer) again(sh shard) error {
	damaged, err := exists(x.ctx, x.tx, `SELECT 1 FROM damage WHERE shard = ?`, sh.id)
	if err != nil {
		return fmt.Errorf("look up damage: %w", err)
	}
	if damaged {
		return x.forgive(sh)
	}
	return x.settle()
}

// eachCopy calls f for each copy of a block in a shard, in pages.
func (x *indexer) eachCopy(sh shard, f func(mh multihash.Multihash, l location) error) error {
	for last := []byte{}; last != nil; {
		type copied struct {
			mh []byte
			l  location
		}
		var page []copied
		err := eachRow(x.ctx, x.tx, `SELECT mh, off, len FROM blocks WHERE shard = ? AND mh > ? ORDER BY mh LIMIT 1024`, []any{sh.id, last},
			func(scan scanRow) error {
				c := copied{l: location{id: sh.id, shard: sh.cid}}
				err := scan(&c.mh, &c.l.off, &c.l.len)
				page = append(page, c)
				return err
			})
		if err != nil {
			return fmt.Errorf("list blocks of shard %s: %w", sh.cid, err)
		}
		last = nil
		for _, c := range page {
			if err := f(c.mh, c.l); err != nil {
				return err
			}
			last = c.mh
		}
	}
	return nil
}

// harm marks what is damaged of a shard that was found not to be sound, or takes
// its marks back if it is sound now. One that cannot be read for other reasons
// stays as it is.
func (x *indexer) harm(sh shard) error {
	res, f, err := x.st.rescan(x.ctx, sh.cid, nil)
	if f != nil {
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		sh.payload, sh.end = res.payload, res.payloadEnd
		_, err := x.tx.ExecContext(x.ctx, `UPDATE shards SET size = ?, payload = ?, payload_end = ? WHERE id = ?`, res.size, sh.payload, sh.end, sh.id)
		return errors.Join(err, x.forgive(sh))
	}
	if !isDamage(err) {
		return x.ctx.Err()
	}
	gone := errors.Is(err, fs.ErrNotExist)
	return x.lose(func(l *loss) error {
		if err := l.takeFile(sh.id); err != nil {
			return err
		}
		if gone {
			return l.take(`b.shard = ?1`, sh.id)
		}
		return x.eachCopy(sh, func(mh multihash.Multihash, c location) error {
			if err := x.st.checkCopy(c, mh); isDamage(err) {
				return l.takeCopy(mh, sh.id)
			}
			return nil
		})
	})
}
