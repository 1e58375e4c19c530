package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/ipfs/go-cid"
)

// Open opens the store in opts.Dir, or makes a new one, and cleans up what an
// earlier process left unfinished. Only one process at a time may have a store
// open; for others the error is [ErrLocked]. It refuses a store with
// [ErrIndexMissing], [ErrRebuilding], [ErrDiscards] or [ErrKeeps]. Shards whose
// files are lost or have another size are marked, and count as not held. The
// caller closes the store.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if opts.Dir == "" {
		return nil, errors.New("open store: no directory given")
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create store: %w", err)
	}
	st, err := open(ctx, opts, false)
	if err != nil {
		return nil, err
	}
	if err = st.journal.replay(ctx, st.knows); err == nil {
		_, err = st.survey(ctx)
	}
	if err == nil {
		err = st.finish(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", opts.Dir, err), st.Close())
	}
	return st, nil
}

// namedShards is how many lost shards are logged one by one.
const namedShards = 10

// survey checks that the files of shards exist and have the size in the index,
// and makes the cheap checks of the index itself. It returns how many shards of
// uploads are missing from the index.
func (st *Store) survey(ctx context.Context) (dangling int, err error) {
	type harmed struct{ id, size int64 }
	var all []harmed
	err = eachRow(ctx, st.db.read, `SELECT id, cid, size FROM shards s
		WHERE NOT EXISTS (SELECT 1 FROM damage d WHERE d.mh = x'' AND d.shard = s.id)`, nil, func(scan scanRow) error {
		var id, size int64
		var c cid.Cid
		if err := scan(&id, (*cidColumn)(&c), &size); err != nil {
			return err
		}
		info, err := os.Lstat(st.files.path(c))
		found := int64(-1)
		switch {
		case err == nil && info.Mode().IsRegular():
			found = info.Size()
		case err != nil && !isDamage(err):
			st.log.LogAttrs(ctx, slog.LevelError, "cannot look up the file of a shard", slog.Any("error", err))
			return nil
		}
		if found == size {
			return nil
		}
		if all = append(all, harmed{id, found}); len(all) <= namedShards {
			st.log.LogAttrs(ctx, slog.LevelError, "the file of a shard is lost or has another size; the shard must be uploaded again",
				slog.String("shard", c.String()), slog.Int64("size", size), slog.Int64("found", found))
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("compare shards with their files: %w", err)
	}
	if len(all) > namedShards {
		st.log.LogAttrs(ctx, slog.LevelError, "further shards are lost or have another size", slog.Int("shards", len(all)-namedShards))
	}
	err = st.db.read.QueryRowContext(ctx, `SELECT count(DISTINCT shard_id) FROM upload_shards WHERE shard_id NOT IN (SELECT id FROM shards)`).Scan(&dangling)
	if err != nil {
		return 0, fmt.Errorf("look for lost shards: %w", err)
	}
	roots, err := rowsOf(ctx, st.db.read, `SELECT c.mh, c.codec FROM contents c WHERE c.codec IN `+innerCodecs+`
		AND NOT EXISTS (SELECT 1 FROM nodes n WHERE n.mh = c.mh AND n.codec = c.codec)
		AND EXISTS (SELECT 1 FROM blocks b WHERE b.mh = c.mh)`, nil, scanKey)
	if err != nil {
		return 0, fmt.Errorf("look for lost roots: %w", err)
	}
	if len(all) == 0 && dangling == 0 && len(roots) == 0 {
		return 0, nil
	}
	if dangling > 0 {
		st.log.LogAttrs(ctx, slog.LevelError, "the index lacks shards of uploads; they must be uploaded again", slog.Int("shards", dangling))
	}
	return dangling, st.mark(ctx, func(x *indexer) error {
		if err := x.insertUnread(roots); err != nil {
			return err
		}
		return x.lose(func(l *loss) error {
			for _, h := range all {
				if err := l.takeFile(h.id); err != nil {
					return err
				}
				if err := l.run([]string{`INSERT INTO harmed VALUES (?, ?)`}, h.id, h.size); err != nil {
					return err
				}
			}
			if err := l.take(`b.off + b.len > (SELECT h.size FROM harmed h WHERE h.shard = b.shard)`); err != nil || dangling == 0 {
				return err
			}
			if err := l.take(`b.shard NOT IN (SELECT id FROM shards)`); err != nil {
				return err
			}
			return l.run([]string{`DELETE FROM upload_shards WHERE shard_id NOT IN (SELECT id FROM shards)`})
		})
	})
}
