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

// Cacheable is an [Input] whose description can be kept in the ledger. CacheKey
// changes whenever the source may have changed. It is empty if that is unknown.
type Cacheable interface {
	CacheKey() string
	// Restore makes the DAG from the result of its MarshalBinary.
	Restore(description []byte) (DAG, error)
}

// cachedBytes is the smallest payload whose description is kept: hashing less
// again is faster than making the description durable.
const cachedBytes = 8 << 20

// descriptionShare limits a description to this fraction of the payload. With
// tiny blocks it would be larger, and cost more memory and time than hashing
// again.
const descriptionShare = 64

// CacheKey implements [Cacheable].
func (f *fileInput) CacheKey() string {
	if f.opts.Mode || f.opts.ModTime {
		return "" // the description of such a DAG can't be kept
	}
	return keyWith(fileKey(f.src.Name()), f.opts.Profile)
}

// keyWith returns the key of a source described with this profile, or "" if the
// source has no key.
func keyWith(source string, profile chunker.Profile) string {
	if profile == (chunker.Profile{}) {
		profile = chunker.UnixFSv1()
	}
	text, err := json.Marshal(profile)
	if source == "" || err != nil {
		return ""
	}
	return source + " profile " + string(text)
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

// cacheKey returns the key of an input, or "".
func cacheKey(in Input) string {
	if c, ok := in.(Cacheable); ok {
		return c.CacheKey()
	}
	return ""
}

// restore makes the DAG of an input from its description in the ledger. It
// returns nil if there is no usable one.
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
		u.opts.Logger.Warn("can't use the description in the ledger: describing the source again", "upload", in.Name(), "err", err)
		return nil, nil
	}
	return dag, nil
}

// keep saves the description of a DAG, if the source had the same key before
// and after it was described.
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
