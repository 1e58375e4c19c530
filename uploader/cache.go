package uploader

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/carload/carload/chunker"
)

// Cacheable is an [Input] whose description can be kept in the ledger. The key
// changes whenever the source may have changed; it is empty if nobody knows.
type Cacheable interface {
	CacheKey() string
	// Restore makes the DAG of what its MarshalBinary returned.
	Restore(plan []byte) (DAG, error)
}

// cachedBytes is the least payload whose description is kept: less is sooner
// hashed again than made durable.
const cachedBytes = 8 << 20

// CacheKey implements [Cacheable].
func (f *fileInput) CacheKey() string {
	if f.opts.Mode || f.opts.ModTime {
		return "" // their plans can't be kept
	}
	profile := f.opts.Profile
	if profile == (chunker.Profile{}) {
		profile = chunker.UnixFSv1()
	}
	file := fileKey(f.src.Name())
	recipe, err := json.Marshal(profile)
	if file == "" || err != nil {
		return ""
	}
	return file + " profile " + string(recipe)
}

// Restore implements [Cacheable].
func (f *fileInput) Restore(plan []byte) (DAG, error) {
	return chunker.RestoreFile(f.src, plan)
}

// cacheKey is the key of an input, empty if there is none.
func cacheKey(in Input) string {
	if c, ok := in.(Cacheable); ok {
		return c.CacheKey()
	}
	return ""
}

// restore makes the DAG of an input of what the ledger knows; nil if that is
// nothing of use.
func (u *Uploader) restore(ctx context.Context, in Input, key string) (DAG, error) {
	c, ok := in.(Cacheable)
	if s, sized := in.(Sized); !ok || key == "" || u.opts.Rehash || sized && s.Size() < cachedBytes {
		return nil, nil
	}
	plan, err := u.opts.Ledger.Plan(ctx, key)
	if err != nil {
		return nil, ledgerError(err)
	}
	if len(plan) == 0 {
		return nil, nil
	}
	dag, err := c.Restore(plan)
	if err != nil {
		u.opts.Logger.Warn("the ledger's plan can't be used; describing the source again", "upload", in.Name(), "err", err)
		return nil, nil
	}
	return dag, nil
}

// keep remembers a DAG that was described, if the source had the key before
// and after.
func (u *Uploader) keep(ctx context.Context, in Input, key string, dag DAG) error {
	m, ok := dag.(encoding.BinaryMarshaler)
	if !ok || key == "" || dag.Size() < cachedBytes || cacheKey(in) != key {
		return nil
	}
	plan, err := m.MarshalBinary()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("plan of %q: %w", in.Name(), err)
	}
	return ledgerError(u.opts.Ledger.SavePlan(ctx, key, plan))
}
