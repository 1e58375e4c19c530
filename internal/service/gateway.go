package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/gateway"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/store"
)

// newGateway returns what puts the gateway in front of another handler: it
// takes /ipfs/ and the names {cid}.ipfs.localhost.
func (s *Service) newGateway() (func(http.Handler) http.Handler, error) {
	bs := blockstore{s.st, s.log}
	backend, err := gateway.NewBlocksBackend(blockservice.New(bs, nil))
	if err != nil {
		return nil, fmt.Errorf("make gateway: %w", err)
	}
	cfg := gateway.Config{
		DeserializedResponses: true,
		NoDNSLink:             true,
		MetricsRegistry:       s.opts.Registry,
		PublicGateways: map[string]*gateway.PublicGateway{
			"localhost": {
				Paths: []string{"/ipfs"}, UseSubdomains: true, NoDNSLink: true, DeserializedResponses: true,
			},
		},
	}
	content := gateway.NewHandler(cfg, backend)
	return func(api http.Handler) http.Handler {
		paths := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, "/ipfs/") {
				content.ServeHTTP(w, r)
				return
			}
			api.ServeHTTP(w, r)
		})
		names := gateway.NewHostnameHandler(cfg, backend, content)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.Contains(r.Host, ".ipfs.") {
				names.ServeHTTP(w, r)
				return
			}
			paths.ServeHTTP(w, r)
		})
	}, nil
}

// blockstore gives boxo read access to the blocks of the store.
type blockstore struct {
	st  *store.Store
	log *slog.Logger
}

var errReadOnly = errors.New("the gateway does not change blocks")

// DeleteBlock fails.
func (blockstore) DeleteBlock(context.Context, cid.Cid) error { return errReadOnly }

// Put fails.
func (blockstore) Put(context.Context, blocks.Block) error { return errReadOnly }

// PutMany fails.
func (blockstore) PutMany(context.Context, []blocks.Block) error { return errReadOnly }

// AllKeysChan fails.
func (blockstore) AllKeysChan(context.Context) (<-chan cid.Cid, error) { return nil, errReadOnly }

// Has reports whether a block is held.
func (b blockstore) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := b.GetSize(ctx, c)
	if ipld.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// GetSize returns the length of a block.
func (b blockstore) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	if inline, ok := links.Identity(c); ok {
		return len(inline), nil
	}
	n, err := b.st.BlockSize(ctx, c)
	if errors.Is(err, store.ErrNotHeld) {
		return 0, ipld.ErrNotFound{Cid: c}
	}
	return n, err
}

// Get returns a block after checking that it is what its CID says. A block all
// of whose copies are damaged is not found: then clients know that it has to be
// sent again, and not that they should try later.
func (b blockstore) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	if inline, ok := links.Identity(c); ok {
		return blocks.NewBlockWithCid(inline, c)
	}
	data, err := b.st.Block(ctx, c)
	switch {
	case errors.Is(err, store.ErrDamaged):
		b.log.LogAttrs(ctx, slog.LevelError, "a block is damaged, and has to be uploaded again", slog.Any("error", err), requestID(ctx))
		return nil, ipld.ErrNotFound{Cid: c}
	case errors.Is(err, store.ErrNotHeld):
		return nil, ipld.ErrNotFound{Cid: c}
	case err != nil:
		return nil, err
	}
	return blocks.NewBlockWithCid(data, c)
}
