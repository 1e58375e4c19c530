package store

import (
	"context"
	"io"
	"os"

	"github.com/ipfs/go-cid"
	"golang.org/x/time/rate"

	"github.com/carload/carload/internal/durable"
)

// rescan hashes a shard file again, no faster than the pace if there is one. If
// the returned file is not nil, the caller closes it.
func (st *Store) rescan(ctx context.Context, want cid.Cid, pace *rate.Limiter) (*scanResult, *os.File, error) {
	f, err := os.Open(st.files.path(want))
	if err != nil {
		return nil, nil, err
	}
	// Don't use the buffers for uploads: they may be waiting for slow clients,
	// and marking damage must not wait for those.
	if pace != nil {
		durable.Evict(f) // read what is really on the disk
	}
	res, err := st.scan(&paced{ctx, f, pace}, make([]byte, scanBufferBytes), nil, nil)
	if err == nil && !res.cid.Equals(want) {
		err = ErrDamaged
	}
	return res, f, err
}

// paceBytes is how much is read at a time.
const paceBytes = 256 << 10

// paced reads no faster than its pace.
type paced struct {
	ctx  context.Context //nolint:containedctx // it lives as long as the read of one file
	r    io.Reader
	pace *rate.Limiter
}

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	b = b[:min(len(b), paceBytes)]
	if p.pace == nil {
		if err := p.ctx.Err(); err != nil {
			return 0, err
		}
	} else if err := p.pace.WaitN(p.ctx, len(b)); err != nil {
		return 0, err
	}
	return p.r.Read(b)
}
