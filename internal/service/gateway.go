package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/service/gateway"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/internal/walk"
)

// newGateway puts the gateway in front of another handler.
func (s *Service) newGateway(api http.Handler) (http.Handler, error) {
	return gateway.New(content{s.st, s.log}, gateway.Options{
		Hosts: s.opts.GatewayHosts, MaxRequests: max(1, s.opts.MaxConns/4*3), MaxBytes: s.opts.MaxResponseBytes,
		Registry: s.opts.Registry, Logger: s.log,
	}, api)
}

// content is the store as the gateway reads it.
type content struct {
	st  *store.Store
	log *slog.Logger
}

// Complete implements gateway.Store.
func (c content) Complete(ctx context.Context, root cid.Cid) (bool, error) {
	return c.st.Complete(ctx, root)
}

// Find implements walk.Blocks.
func (c content) Find(ctx context.Context, cids []cid.Cid) (walk.Places, error) {
	b, err := c.st.Find(ctx, cids)
	if err != nil {
		return nil, err
	}
	_ = c.lost(ctx, b.Absent) // reading the block will report the error
	return places{b, c}, nil
}

// lost turns the error for a damaged block into one for a block that is not
// held. Then clients learn that they must upload it again, rather than try
// again later.
func (c content) lost(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, store.ErrDamaged):
		c.log.LogAttrs(ctx, slog.LevelError, "a block is damaged and must be uploaded again", slog.Any("error", err), requestID(ctx))
	case !errors.Is(err, store.ErrNotHeld):
		return err
	}
	return fmt.Errorf("%w: %w", walk.ErrMissing, err)
}

type places struct {
	*store.Batch
	c content
}

// Read implements walk.Places.
func (p places) Read(ctx context.Context, i, j int, buf []byte) (int, error) {
	n, err := p.Batch.Read(ctx, i, j, buf)
	if err != nil {
		err = p.c.lost(ctx, err)
	}
	return n, err
}
