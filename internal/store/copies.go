package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// location is where a copy of a block is.
type location struct {
	id    int64 // of the shard
	shard cid.Cid
	off   int64
	len   int
}

// copiesQuery finds the copies of a block by its binary multihash.
const copiesQuery = `SELECT s.id, s.cid, b.off, b.len FROM blocks b JOIN shards s ON s.id = b.shard WHERE b.mh = ?`

// isDamage reports whether an error in reading a file means that the file is
// damaged or lost. After other errors, the file may be sound and readable
// later.
func isDamage(err error) bool {
	var car *CARError
	return errors.Is(err, ErrDamaged) || errors.As(err, &car) || errors.Is(err, errCutShard) || errors.Is(err, io.EOF) ||
		errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO)
}

// suspect is a copy of a block that could not be read.
type suspect struct {
	location
	mh multihash.Multihash
}

// readCopy tries the copies of a block in the order of the query. It returns
// the first sound one, and the damaged ones before it.
func (st *Store) readCopy(ctx context.Context, q querier, c cid.Cid, query string) ([]byte, location, []suspect, error) {
	var bad []suspect
	var failed error
	var tried location
	for _, limit := range []int{1, -1} { // unless there is damage, the first copy will do
		copies, err := locate(ctx, q, query+` LIMIT ?`, []byte(c.Hash()), limit)
		if err != nil {
			return nil, location{}, nil, fmt.Errorf("look up block %s: %w", c, err)
		}
		for _, l := range copies {
			if l == tried {
				continue
			}
			tried = l
			data, err := st.readAt(l)
			if err == nil {
				err = CheckBlock(c, data)
			}
			switch {
			case err == nil:
				return data, l, bad, nil
			case isDamage(err):
				bad = append(bad, suspect{l, c.Hash()})
				st.log.LogAttrs(ctx, slog.LevelWarn, "a copy of a block is damaged",
					slog.String("block", c.String()), slog.String("shard", l.shard.String()), slog.Any("error", err))
			default:
				failed = err
			}
		}
	}
	if failed != nil {
		return nil, location{}, bad, failed
	}
	// Copies that are known to be damaged are not in blocks. And a shard may
	// have been collected in the meantime.
	shards := make([]cid.Cid, 0, len(bad))
	for _, s := range bad {
		shards = append(shards, s.shard)
	}
	marked, err := rowsOf(ctx, q, `SELECT s.cid FROM damage d JOIN shards s ON s.id = d.shard WHERE d.mh = ?`, []any{[]byte(c.Hash())}, scanCID)
	if err != nil {
		return nil, location{}, bad, fmt.Errorf("look up damage: %w", err)
	}
	for _, shard := range append(shards, marked...) {
		if known, err := st.knows(ctx, shard); err != nil {
			return nil, location{}, bad, err
		} else if known {
			return nil, location{}, bad, fmt.Errorf("block %s has no sound copy; one is in shard %s: %w", c, shard, ErrDamaged)
		}
	}
	return nil, location{}, bad, fmt.Errorf("block %s: %w", c, ErrNotHeld)
}

// locate runs a query with the columns of copiesQuery. It holds no database
// connection when it returns, so the caller may take its time reading the disk.
func locate(ctx context.Context, q querier, query string, args ...any) ([]location, error) {
	return rowsOf(ctx, q, query, args, func(scan scanRow) (l location, err error) {
		err = scan(&l.id, (*cidColumn)(&l.shard), &l.off, &l.len)
		return l, err
	})
}

// readAt reads the bytes of a block without checking them.
func (st *Store) readAt(l location) (_ []byte, err error) {
	f, err := os.Open(st.files.path(l.shard))
	if err != nil {
		return nil, fmt.Errorf("read block: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	p := make([]byte, l.len)
	if _, err := f.ReadAt(p, l.off); err != nil {
		return nil, fmt.Errorf("read block at %d of %s: %w", l.off, l.shard, err)
	}
	return p, nil
}

// checkCopy reads a copy of a block and hashes it.
func (st *Store) checkCopy(l location, mh multihash.Multihash) error {
	data, err := st.readAt(l)
	if err != nil {
		return err
	}
	return CheckBlock(cid.NewCidV1(cid.Raw, mh), data)
}

// known is a shard as the index has it.
type known struct {
	shard
	size int64
}

const knownColumns = `id, cid, size, payload, payload_end`

func scanKnown(scan scanRow) (k known, err error) {
	err = scan(&k.id, (*cidColumn)(&k.cid), &k.size, &k.payload, &k.end)
	return k, err
}

// shards lists the shards in the index.
func (st *Store) shards(ctx context.Context) ([]known, error) {
	all, err := rowsOf(ctx, st.db.read, `SELECT `+knownColumns+` FROM shards ORDER BY id`, nil, scanKnown)
	if err != nil {
		return nil, fmt.Errorf("list shards: %w", err)
	}
	return all, nil
}

// shardAfter returns the next shard, or [sql.ErrNoRows].
func (st *Store) shardAfter(ctx context.Context, id int64) (known, error) {
	return scanKnown(st.db.read.QueryRowContext(ctx, `SELECT `+knownColumns+` FROM shards WHERE id > ? ORDER BY id LIMIT 1`, id).Scan)
}

// knows reports whether the index has a shard.
func (st *Store) knows(ctx context.Context, shardCID cid.Cid) (bool, error) {
	is, err := exists(ctx, st.db.read, `SELECT 1 FROM shards WHERE cid = ?`, shardCID.Bytes())
	if err != nil {
		return false, fmt.Errorf("look up shard: %w", err)
	}
	return is, nil
}
