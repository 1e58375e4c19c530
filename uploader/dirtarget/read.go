package dirtarget

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
)

// reader finds blocks in the files of uploads whose roots were asked for.
type reader struct {
	mu      sync.Mutex
	uploads map[cid.Cid]*indexed
}

// indexed is the index of an upload's files.
type indexed struct {
	index *car.Index
	stamp string // changes when the files do
}

// FetchBlock implements [uploader.BlockFetcher]. The block must be a root, or
// part of an upload whose root was asked for before. It indexes the files of
// the upload, which reads only a small part of them.
func (t *Target) FetchBlock(ctx context.Context, c cid.Cid, limit int) ([]byte, error) {
	b, err := t.find(ctx, c)
	if err != nil {
		return nil, err
	}
	if b.Size() > limit {
		return nil, fmt.Errorf("%w: block %s has %d bytes in %q, more than %d", car.ErrCorrupt, c, b.Size(), b.Source.Name(), limit)
	}
	if b.Length == 0 {
		return []byte{}, nil
	}
	f, err := b.Source.Open()
	if err != nil {
		return nil, fmt.Errorf("block %s: %w: %w", c, uploader.ErrNotFound, err)
	}
	defer f.Close()
	p := make([]byte, b.Length)
	if n, err := f.ReadAt(p, b.Offset); n < len(p) {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("block %s: %w: %q ends within it", c, uploader.ErrNotFound, b.Source.Name())
		}
		return nil, err
	}
	return p, nil
}

// find finds a block in the known uploads, or in the upload whose root it is.
func (t *Target) find(ctx context.Context, c cid.Cid) (car.Block, error) {
	r := &t.reader
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, u := range r.uploads {
		if b, ok := u.index.Find(c); ok {
			return b, nil
		}
	}
	// c may be a root, and the known uploads may have changed.
	for _, root := range append([]cid.Cid{c}, slices.Collect(maps.Keys(r.uploads))...) {
		if err := t.look(ctx, root); err != nil {
			return car.Block{}, err
		}
		if u := r.uploads[root]; u != nil {
			if b, ok := u.index.Find(c); ok {
				return b, nil
			}
		}
	}
	return car.Block{}, fmt.Errorf("block %s: %w", c, uploader.ErrNotFound)
}

// look indexes the files of an upload, unless they are unchanged. The caller
// holds the lock.
func (t *Target) look(ctx context.Context, root cid.Cid) error {
	entries, err := os.ReadDir(t.dir)
	if err != nil {
		return err
	}
	var paths []string
	var stamp strings.Builder
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), root.String()+"-") || filepath.Ext(e.Name()) != ".car" {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		paths = append(paths, filepath.Join(t.dir, e.Name()))
		fmt.Fprintln(&stamp, e.Name(), info.Size(), info.ModTime().UnixNano())
	}
	known := t.reader.uploads[root]
	if len(paths) == 0 && known == nil || known != nil && known.stamp == stamp.String() {
		return nil
	}
	x := new(car.Index)
	for _, path := range paths {
		src, err := chunker.OpenFile(path)
		if err == nil {
			_, err = x.Add(ctx, src)
		}
		if errors.Is(err, car.ErrMalformed) {
			return fmt.Errorf("%w: %q: %w", car.ErrCorrupt, path, err)
		}
		if err != nil {
			return err
		}
	}
	if t.reader.uploads == nil {
		t.reader.uploads = map[cid.Cid]*indexed{}
	}
	t.reader.uploads[root] = &indexed{x, stamp.String()}
	return nil
}

var _ uploader.BlockFetcher = (*Target)(nil)
