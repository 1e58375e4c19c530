package uploader

import (
	"context"
	"crypto/sha256"
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
	Restore(description []byte) (DAG, error)
}

// cachedBytes is the least payload whose description is kept: less is sooner
// hashed again than made durable.
const cachedBytes = 8 << 20

// descriptionShare is which share of the payload a description may be to be kept. That
// of tiny blocks is larger, and costs more memory and time than hashing again.
const descriptionShare = 64

// CacheKey implements [Cacheable].
func (f *fileInput) CacheKey() string {
	if f.opts.Mode || f.opts.ModTime {
		return "" // their descriptions can't be kept
	}
	return keyWith(fileKey(f.src.Name()), f.opts.Profile)
}

// keyWith is the key of a source that is described in this way, empty if there is
// none of the source.
func keyWith(source string, profile chunker.Profile) string {
	if profile == (chunker.Profile{}) {
		profile = chunker.UnixFSv1()
	}
	recipe, err := json.Marshal(profile)
	if source == "" || err != nil {
		return ""
	}
	return source + " profile " + string(recipe)
}

// CacheKey implements [Cacheable].
func (s *sourceInput) CacheKey() string {
	v, ok := s.src.(interface{ Version() string })
	if !ok || s.opts.Mode || s.opts.ModTime {
		return ""
	}
	return keyWith(fmt.Sprintf("source %q version %q size %d", s.src.Name(), v.Version(), s.src.Size()), s.opts.Profile)
}

// Restore implements [Cacheable].
func (s *sourceInput) Restore(description []byte) (DAG, error) {
	return chunker.RestoreFile(s.src, description)
}

// Restore implements [Cacheable].
func (f *fileInput) Restore(description []byte) (DAG, error) {
	return chunker.RestoreFile(f.src, description)
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
	description, err := u.opts.Ledger.Description(ctx, key)
	if err != nil {
		return nil, ledgerError(err)
	}
	if len(description) == 0 {
		return nil, nil
	}
	dag, err := c.Restore(description)
	if err != nil {
		u.opts.Logger.Warn("the ledger's description can't be used; describing the source again", "upload", in.Name(), "err", err)
		return nil, nil
	}
	return dag, nil
}

// keep remembers a DAG that was described, if the source had the key before
// and after.
func (u *Uploader) keep(ctx context.Context, in Input, key string, dag DAG) error {
	m, ok := dag.(encoding.BinaryMarshaler)
	if !ok || key == "" || dag.Size() < cachedBytes || int64(dag.Len())*sha256.Size > dag.Size()/descriptionShare || cacheKey(in) != key {
		return nil
	}
	description, err := m.MarshalBinary()
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("description of %q: %w", in.Name(), err)
	}
	return ledgerError(u.opts.Ledger.SaveDescription(ctx, key, description))
}
