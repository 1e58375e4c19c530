package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"

	"github.com/ipfs/go-cid"
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

// Block returns a block after checking that its bytes are what its CID says.
// The error matches [ErrNotHeld] if no shard has it, and [ErrDamaged] if all
// copies are damaged or lost: then it has to be uploaded again.
func (st *Store) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	return st.readBlock(ctx, st.db.read, c)
}

// BlockSize returns the length of a block, or [ErrNotHeld].
func (st *Store) BlockSize(ctx context.Context, c cid.Cid) (int, error) {
	var n int
	err := st.db.read.QueryRowContext(ctx, `SELECT len FROM blocks WHERE mh = ? LIMIT 1`, []byte(c.Hash())).Scan(&n)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, ErrNotHeld
	}
	return n, err
}

// knows reports whether the index has a shard.
func (st *Store) knows(ctx context.Context, shardCID cid.Cid) (bool, error) {
	var is bool
	err := st.db.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM shards WHERE cid = ?)`, shardCID.Bytes()).Scan(&is)
	if err != nil {
		return false, fmt.Errorf("look up shard: %w", err)
	}
	return is, nil
}

// readBlock returns a block from a copy of it that is sound. If there is none,
// the error is ErrDamaged or ErrNotHeld.
func (st *Store) readBlock(ctx context.Context, q querier, c cid.Cid) ([]byte, error) {
	data, _, err := st.readCopy(ctx, q, c, copiesQuery+` ORDER BY b.shard`)
	return data, err
}

// readCopy goes through the copies of a block in the order of the query, and
// returns the first that is sound.
func (st *Store) readCopy(ctx context.Context, q querier, c cid.Cid, query string) ([]byte, location, error) {
	var damaged, gone []cid.Cid
	var failed error
	var tried location
	for _, limit := range []int{1, -1} { // but for damage the first will do
		copies, err := locate(ctx, q, query+` LIMIT ?`, []byte(c.Hash()), limit)
		if err != nil {
			return nil, location{}, fmt.Errorf("look up block %s: %w", c, err)
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
				return data, l, nil
			case errors.Is(err, fs.ErrNotExist):
				gone = append(gone, l.shard)
			case errors.Is(err, ErrDamaged), errors.Is(err, io.EOF), errors.Is(err, syscall.EIO):
				damaged = append(damaged, l.shard)
				st.log.LogAttrs(ctx, slog.LevelWarn, "a copy of a block is damaged",
					slog.String("block", c.String()), slog.String("shard", l.shard.String()), slog.Any("error", err))
			default:
				failed = err
			}
		}
	}
	if failed != nil {
		return nil, location{}, failed
	}
	for _, shard := range gone { // lost, unless it was collected in between
		known, err := st.knows(ctx, shard)
		if err != nil {
			return nil, location{}, err
		}
		if known {
			damaged = append(damaged, shard)
		}
	}
	if len(damaged) == 0 {
		return nil, location{}, fmt.Errorf("block %s: %w", c, ErrNotHeld)
	}
	return nil, location{}, fmt.Errorf("block %s has no sound copy among %d, of which one is in shard %s: %w", c, len(damaged), damaged[0], ErrDamaged)
}

// locate runs a query of the columns of copiesQuery. It holds no connection to
// the database when it returns, so the disk can be read at leisure.
func locate(ctx context.Context, q querier, query string, args ...any) ([]location, error) {
	var out []location
	err := eachRow(ctx, q, query, args, func(scan scanRow) error {
		var l location
		var raw []byte
		if err := scan(&l.id, &raw, &l.off, &l.len); err != nil {
			return err
		}
		var err error
		if l.shard, err = cid.Cast(raw); err != nil {
			return fmt.Errorf("CID of a shard in the index: %w", err)
		}
		out = append(out, l)
		return nil
	})
	return out, err
}

// readAt reads the bytes of a block, unchecked.
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
