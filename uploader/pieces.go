package uploader

import (
	"context"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car/piece"
)

// ShardPiece is the Filecoin piece of a shard.
type ShardPiece struct {
	CID   cid.Cid // CAR CID of the shard
	Piece piece.Piece
}

// keepPiece stores the piece of shard i, if pieces are wanted. All bytes of s
// must have been read.
func (j *job) keepPiece(i int, s stream) {
	if p, ok := s.Piece(); ok && j.pieces != nil {
		c, _ := s.CID()
		j.pieces[i] = ShardPiece{c, p}
	}
}

// piece returns the piece of shard i, or nil if pieces are not wanted.
func (j *job) piece(i int) *piece.Piece {
	if j.pieces == nil {
		return nil
	}
	p := j.pieces[i].Piece
	return &p
}

// pieceKey is the key under which the ledger keeps the piece of an archive, so
// that it is computed only once.
func pieceKey(archive cid.Cid) string { return "piece of " + archive.String() }

// knowsPiece takes the piece of shard i from the ledger, if it is there.
func (j *job) knowsPiece(ctx context.Context, i int, archive cid.Cid) (bool, error) {
	if !archive.Defined() {
		return false, nil
	}
	kept, err := j.u.opts.Ledger.Description(ctx, pieceKey(archive))
	if err != nil || kept == nil {
		return false, ledgerError(err)
	}
	c, err := cid.Cast(kept)
	if err != nil {
		return false, nil //nolint:nilerr // it is computed again
	}
	p, err := piece.Parse(c)
	if err != nil || p.RawSize != j.plan.Shards[i].Size {
		return false, nil //nolint:nilerr // it is computed again
	}
	j.pieces[i] = ShardPiece{archive, p}
	return true, nil
}

// savePiece saves the piece of shard i in the ledger.
func (j *job) savePiece(ctx context.Context, i int) error {
	if j.pieces == nil || !j.pieces[i].CID.Defined() {
		return nil
	}
	p := j.pieces[i]
	return ledgerError(j.u.opts.Ledger.SaveDescription(ctx, pieceKey(p.CID), p.Piece.V2().Bytes()))
}

// readHeld determines the piece of a shard that the target holds. The archive
// is its CAR CID, if known.
func (j *job) readHeld(ctx context.Context, i int, archive cid.Cid) error {
	known, err := j.knowsPiece(ctx, i, archive)
	if err != nil {
		return err
	}
	if known {
		j.isHeld(i, archive)
		return nil
	}
	c, err := j.read(ctx, i)
	if err != nil {
		return &ShardError{Name: j.name, Index: i, Count: len(j.plan.Shards), Err: err}
	}
	if archive.Defined() && c != archive {
		return j.send(ctx, i) // the target holds something else
	}
	if err := j.savePiece(ctx, i); err != nil {
		return err
	}
	j.isHeld(i, archive)
	return nil
}
