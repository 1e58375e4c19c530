package uploader

import (
	"context"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car/piece"
)

// ShardPiece is the Filecoin piece of a shard.
type ShardPiece struct {
	Archive cid.Cid // its CAR CID
	Piece   piece.Piece
}

// keepPiece keeps the piece of shard i, whose bytes were read, if it was asked
// for.
func (j *job) keepPiece(i int, s stream) {
	if p, ok := s.Piece(); ok && j.pieces != nil {
		c, _ := s.CID()
		j.pieces[i] = ShardPiece{c, p}
	}
}

// piece is what is known of the piece of shard i.
func (j *job) piece(i int) *piece.Piece {
	if j.pieces == nil {
		return nil
	}
	p := j.pieces[i].Piece
	return &p
}

// readHeld makes the piece of a shard that the target has, as this archive if
// that is known.
func (j *job) readHeld(ctx context.Context, i int, archive cid.Cid) error {
	c, err := j.read(ctx, i)
	if err != nil {
		return &ShardError{Name: j.name, Index: i, Count: len(j.plan.Shards), Err: err}
	}
	if archive.Defined() && c != archive {
		return j.send(ctx, i) // what is there is something else
	}
	j.isHeld(i, archive)
	return nil
}
