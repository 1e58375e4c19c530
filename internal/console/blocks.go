package console

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/internal/walk"
)

// blocks lets walks read the store.
type blocks struct{ st Store }

// Find implements walk.Blocks.
func (b blocks) Find(ctx context.Context, cids []cid.Cid) (walk.Places, error) {
	found, err := b.st.Find(ctx, cids)
	if err != nil {
		return nil, err
	}
	return places{found}, nil
}

type places struct{ *store.Batch }

// Read implements walk.Places.
func (p places) Read(ctx context.Context, i, j int, buf []byte) (int, error) {
	n, err := p.Batch.Read(ctx, i, j, buf)
	if errors.Is(err, store.ErrDamaged) || errors.Is(err, store.ErrNotHeld) {
		err = fmt.Errorf("%w: %w", walk.ErrMissing, err)
	}
	return n, err
}
