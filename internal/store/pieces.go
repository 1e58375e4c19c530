package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/car/piece"
	"github.com/carload/carload/internal/sha256mb"
)

// Piece returns the Filecoin piece of a shard. The first call computes it, and
// the store keeps it. The error matches [ErrNotFound] if there is no such shard
// or it is known to be damaged, and [ErrDamaged] if it turns out to be damaged.
func (st *Store) Piece(ctx context.Context, shardCID cid.Cid) (piece.Piece, error) {
	p, known, err := st.knownPiece(ctx, shardCID)
	if err != nil || known {
		return p, err
	}
	if st.discard {
		return piece.Piece{}, fmt.Errorf("piece of shard %s: %w", shardCID, ErrDiscards)
	}
	// Compute only one at a time, to leave the other cores to uploads.
	if err := st.piecing.Acquire(ctx, 1); err != nil {
		return piece.Piece{}, fmt.Errorf("piece of shard %s: %w", shardCID, err)
	}
	defer st.piecing.Release(1)
	if again, known, err := st.knownPiece(ctx, shardCID); err != nil || known {
		return again, err // another caller computed it
	}
	done, err := st.change()
	if err != nil {
		return piece.Piece{}, err
	}
	defer done()
	if p.Commitment, err = st.computePiece(ctx, shardCID, p.RawSize); err != nil {
		return piece.Piece{}, fmt.Errorf("piece of shard %s: %w", shardCID, err)
	}
	if _, err := st.db.exec(ctx, `INSERT OR REPLACE INTO pieces VALUES (?, ?)`, shardCID.Bytes(), p.Commitment[:]); err != nil {
		return piece.Piece{}, fmt.Errorf("keep piece of shard %s: %w", shardCID, err)
	}
	return p, nil
}

// soundShards are the shards that are not known to be damaged, with their
// pieces if known.
const soundShards = `FROM shards s LEFT JOIN pieces p ON p.cid = s.cid WHERE NOT EXISTS (SELECT 1 FROM damage d WHERE d.shard = s.id)`

// knownPiece looks up the piece of a shard. If the piece is not known, the
// result has only the size.
func (st *Store) knownPiece(ctx context.Context, shardCID cid.Cid) (p piece.Piece, known bool, err error) {
	var commitment []byte
	err = st.db.read.QueryRowContext(ctx, `SELECT s.size, p.commitment `+soundShards+` AND s.cid = ?`, shardCID.Bytes()).Scan(&p.RawSize, &commitment)
	if errors.Is(err, sql.ErrNoRows) {
		err = ErrNotFound
	}
	if err != nil {
		return p, false, fmt.Errorf("look up shard %s: %w", shardCID, err)
	}
	return p, copy(p.Commitment[:], commitment) == len(p.Commitment), nil
}

// computePiece computes the piece of a shard. At the same time it checks the
// shard against its CID, because the piece of damaged bytes would be kept for
// good.
func (st *Store) computePiece(ctx context.Context, shardCID cid.Cid, size int64) (commitment [32]byte, err error) {
	f, err := os.Open(st.files.path(shardCID))
	if err != nil {
		return commitment, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var digest sha256mb.Digest
	p, err := st.pieces.Read(io.TeeReader(contextReader{ctx, f}, &digest))
	if err != nil {
		return commitment, err
	}
	if p.RawSize != size || car.CID(digest.Sum256()) != shardCID {
		return commitment, ErrDamaged
	}
	return p.Commitment, nil
}

// contextReader reads until its context is done.
type contextReader struct {
	ctx context.Context //nolint:containedctx // it lives as long as the read of one file
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

// PieceFile is an open shard with its piece. The caller closes it. Reading does
// not check the bytes: whoever gets them can do that with the piece CID.
type PieceFile struct {
	*os.File
	Shard   cid.Cid
	Piece   piece.Piece
	Created time.Time
	Version int // of the CAR
}

// OpenPiece opens a shard with this piece. A raw size of -1 means any: shards
// that differ only in zeros at the end have the same commitment. The error
// matches [ErrNotFound] if [Store.Piece] has not been called for such a shard.
func (st *Store) OpenPiece(ctx context.Context, want piece.Piece) (*PieceFile, error) {
	type found struct {
		shard         cid.Cid
		size, created int64
		version       int
	}
	all, err := rowsOf(ctx, st.db.read, `SELECT s.cid, s.size, s.created, 1 + (s.payload > 0) `+soundShards+` AND p.commitment = ? AND (? < 0 OR s.size = ?) ORDER BY s.id LIMIT 8`,
		[]any{want.Commitment[:], want.RawSize, want.RawSize}, func(scan scanRow) (f found, err error) {
			err = scan((*cidColumn)(&f.shard), &f.size, &f.created, &f.version)
			return f, err
		})
	if err != nil {
		return nil, fmt.Errorf("look up piece: %w", err)
	}
	err = ErrNotFound
	for _, f := range all {
		file, errOpen := os.Open(st.files.path(f.shard))
		if errOpen == nil {
			return &PieceFile{file, f.shard, piece.Piece{Commitment: want.Commitment, RawSize: f.size}, time.UnixMicro(f.created), f.version}, nil
		}
		if !isDamage(errOpen) {
			err = errOpen
		}
	}
	return nil, fmt.Errorf("piece: %w", err)
}

// Shards lists the shards that are not known to be damaged.
func (st *Store) Shards(ctx context.Context) ([]cid.Cid, error) {
	all, err := rowsOf(ctx, st.db.read, `SELECT s.cid `+soundShards+` ORDER BY s.id`, nil, scanCID)
	if err != nil {
		return nil, fmt.Errorf("list shards: %w", err)
	}
	return all, nil
}
