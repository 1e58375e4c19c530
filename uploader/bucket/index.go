package bucket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2/index"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// scanner notes where the blocks are in an archive as its bytes pass.
type scanner struct {
	offset  int64  // of the next byte
	skip    int64  // bytes until the next section
	begun   []byte // start of a section (its length and CID), or of the header (its length)
	at      int64  // offset of begun
	body    bool   // the header has passed
	records []index.Record
	err     error
}

// mostBegun is more than the length and the CID of a section take.
const mostBegun = 256

// note processes the next bytes.
func (s *scanner) note(p []byte) {
	for len(p) > 0 && s.err == nil {
		if s.skip > 0 {
			n := min(s.skip, int64(len(p)))
			s.skip -= n
			s.offset += n
			p = p[n:]
			continue
		}
		if len(s.begun) == 0 {
			s.at = s.offset
		}
		n := min(len(p), mostBegun-len(s.begun))
		had := len(s.begun)
		s.begun = append(s.begun, p[:n]...)
		used, ok := s.section(s.begun)
		if !ok {
			if len(s.begun) >= mostBegun {
				s.err = errors.New("a section without a CID")
			}
			s.offset += int64(n)
			p = p[n:]
			continue
		}
		// The start of the section is complete. The rest is skipped.
		taken := max(0, used-had)
		s.offset += int64(taken)
		p = p[taken:]
		s.begun = s.begun[:0]
	}
}

// section parses the start of a section and returns how many bytes of p it
// took. ok is false if p is too short.
func (s *scanner) section(p []byte) (used int, ok bool) {
	length, n := binary.Uvarint(p)
	if n <= 0 {
		return 0, false
	}
	if !s.body {
		s.body, s.skip = true, int64(length)
		return n, true
	}
	k, c, err := cid.CidFromBytes(p[n:])
	if err != nil {
		// A section shorter than its CID cannot be in one of our archives.
		return 0, false
	}
	s.records = append(s.records, index.Record{Cid: c, Offset: uint64(s.at)})
	s.skip = int64(length) - int64(k)
	return n + k, true
}

// index encodes the index.
func (s *scanner) index() ([]byte, error) {
	if s.err != nil || s.skip > 0 || len(s.begun) > 0 {
		return nil, fmt.Errorf("%w: %w", errBroken, errors.Join(s.err, io.ErrUnexpectedEOF))
	}
	x := index.NewMultihashSorted()
	if err := x.Load(s.records); err != nil {
		return nil, fmt.Errorf("index the shard: %w", err)
	}
	var out bytes.Buffer
	if _, err := index.WriteTo(x, &out); err != nil {
		return nil, fmt.Errorf("index the shard: %w", err)
	}
	return out.Bytes(), nil
}

// errBroken means that an archive ends within a block.
var errBroken = errors.New("the archive is truncated")

func (t *Target) putIndex(ctx context.Context, key string, blocks []byte) error {
	return t.putSmall(ctx, key+indexSuffix, "application/octet-stream", blocks)
}

// ensureIndex writes the index of a stored shard, unless it has one.
func (t *Target) ensureIndex(ctx context.Context, s *uploader.Shard, key string) error {
	_, err := t.head(ctx, key+indexSuffix)
	if !errors.Is(err, uploader.ErrNotFound) {
		return err
	}
	body := &scanned{s.Open(ctx), new(scanner)}
	_, err = body.WriteTo(io.Discard)
	if err = errors.Join(err, body.Close()); err != nil {
		return err
	}
	blocks, err := body.scan.index()
	if err != nil {
		return err
	}
	return t.putIndex(ctx, key, blocks)
}

// held is an upload whose blocks have been asked for.
type held struct {
	manifest *manifest

	mu      sync.Mutex
	indexes []shardIndex // by shard; empty until needed
}

// shardIndex knows where the sections of a shard begin.
type shardIndex struct {
	index.Index
	begins []uint64 // offsets of all sections, in order
}

// end returns the end of the section that begins at an offset.
func (x *shardIndex) end(at uint64, size int64) int64 {
	i, _ := slices.BinarySearch(x.begins, at+1)
	if i < len(x.begins) {
		return int64(min(x.begins[i], uint64(size)))
	}
	return size
}

// open finds the upload of a root.
func (t *Target) open(ctx context.Context, root cid.Cid) (*held, error) {
	t.mu.Lock()
	h := t.uploads[root]
	t.mu.Unlock()
	if h != nil {
		return h, nil
	}
	m, err := t.manifest(ctx, root)
	if err != nil {
		return nil, err
	}
	h = &held{manifest: m, indexes: make([]shardIndex, len(m.Shards))}
	t.mu.Lock()
	defer t.mu.Unlock()
	if known := t.uploads[root]; known != nil {
		return known, nil
	}
	t.uploads[root] = h
	return h, nil
}

// index returns the index of shard i.
func (t *Target) index(ctx context.Context, h *held, i int) (*shardIndex, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.indexes[i].Index != nil {
		return &h.indexes[i], nil
	}
	key := t.prefix + h.manifest.Shards[i].Key
	p, err := t.getSmall(ctx, key+indexSuffix, maxIndexBytes)
	var x shardIndex
	if err == nil {
		x, err = readIndex(p)
	}
	if errors.Is(err, uploader.ErrNotFound) || errors.Is(err, errNoIndex) {
		// The index only saves reading the shard. Make it from the shard.
		if p, err = t.scan(ctx, key); err == nil {
			x, err = readIndex(p)
		}
	}
	if err != nil {
		return nil, err
	}
	h.indexes[i] = x
	return &h.indexes[i], nil
}

var errNoIndex = errors.New("not an index of an archive")

// readIndex parses an index. The library trusts its input, so a panic is turned
// into an error.
func readIndex(p []byte) (x shardIndex, err error) {
	defer func() {
		if r := recover(); r != nil {
			x, err = shardIndex{}, fmt.Errorf("%w: %v", errNoIndex, r)
		}
	}()
	if x.Index, err = index.ReadFrom(bytes.NewReader(p)); err != nil {
		return shardIndex{}, fmt.Errorf("%w: %w", errNoIndex, err)
	}
	if all, ok := x.Index.(index.IterableIndex); ok {
		err = all.ForEach(func(_ multihash.Multihash, at uint64) error {
			x.begins = append(x.begins, at)
			return nil
		})
		if err != nil {
			return shardIndex{}, fmt.Errorf("%w: %w", errNoIndex, err)
		}
		slices.Sort(x.begins)
	}
	return x, nil
}

// scan makes the index of a shard by reading it.
func (t *Target) scan(ctx context.Context, key string) ([]byte, error) {
	body, err := t.get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	s := new(scanner)
	buf := make([]byte, 256<<10)
	for {
		n, err := body.Read(buf)
		s.note(buf[:n])
		if errors.Is(err, io.EOF) {
			return s.index()
		}
		if err != nil {
			return nil, err
		}
	}
}

// FetchBlock implements [uploader.BlockFetcher] with a ranged read. The block
// must be a root, or part of an upload whose root has been asked for before.
func (t *Target) FetchBlock(ctx context.Context, c cid.Cid, limit int) ([]byte, error) {
	t.mu.Lock()
	var uploads []*held
	for _, h := range t.uploads {
		uploads = append(uploads, h)
	}
	t.mu.Unlock()
	p, err := t.fetch(ctx, uploads, c, limit)
	if !errors.Is(err, uploader.ErrNotFound) {
		return p, err
	}
	h, herr := t.open(ctx, c)
	if again, _ := uploader.Retryable(herr); again {
		return nil, herr // this says nothing about the block
	}
	if herr != nil || slices.Contains(uploads, h) {
		return nil, err
	}
	return t.fetch(ctx, []*held{h}, c, limit)
}

func (t *Target) fetch(ctx context.Context, uploads []*held, c cid.Cid, limit int) ([]byte, error) {
	for _, h := range uploads {
		for i := range h.manifest.Shards {
			x, err := t.index(ctx, h, i)
			if errors.Is(err, uploader.ErrNotFound) || errors.Is(err, errBroken) {
				continue // the shard is gone or truncated; another one may have the block
			}
			if err != nil {
				return nil, err
			}
			at, err := index.GetFirst(x, c)
			if errors.Is(err, index.ErrNotFound) {
				continue
			}
			if err != nil {
				return nil, bulk.Permanent(err)
			}
			shard := &h.manifest.Shards[i]
			p, err := t.section(ctx, t.prefix+shard.Key, int64(at), x.end(at, shard.Size)-int64(at), c, limit)
			if errors.Is(err, uploader.ErrNotFound) {
				continue
			}
			return p, err
		}
	}
	return nil, fmt.Errorf("block %s: %w", c, uploader.ErrNotFound)
}

// section reads the payload of a section at an offset. bytesThere is its
// expected length.
func (t *Target) section(ctx context.Context, key string, at, bytesThere int64, c cid.Cid, limit int) ([]byte, error) {
	body, err := t.get(ctx, key, at, max(1, min(bytesThere, int64(limit)+mostBegun)))
	if err != nil {
		return nil, err
	}
	defer body.Close()
	in := bufio.NewReaderSize(body, 64<<10)
	wrong := fmt.Errorf("%w: there is no block %s at byte %d of %s", car.ErrCorrupt, c, at, key)
	length, err := binary.ReadUvarint(in)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	head := make([]byte, c.ByteLen())
	if length < uint64(len(head)) {
		return nil, wrong
	}
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	_, found, err := cid.CidFromBytes(head)
	size := length - uint64(len(head))
	switch {
	case err != nil || !bytes.Equal(found.Hash(), c.Hash()):
		return nil, wrong
	case size > uint64(limit):
		return nil, fmt.Errorf("%w: block %s has %d bytes in %s, more than %d", car.ErrCorrupt, c, size, key, limit)
	}
	p := make([]byte, size)
	if _, err := io.ReadFull(in, p); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return p, nil
}

// FetchArchive implements [uploader.ArchiveFetcher] for the root of an upload.
// It returns the shards one after the other, as one archive.
func (t *Target) FetchArchive(ctx context.Context, root cid.Cid) (io.ReadCloser, error) {
	h, err := t.open(ctx, root)
	if err != nil {
		return nil, err
	}
	return &whole{t: t, ctx: ctx, shards: h.manifest.Shards, head: bytes.NewReader(car.AppendHeader(nil, root))}, nil
}

// whole is an upload as one archive.
type whole struct {
	t      *Target
	ctx    context.Context //nolint:containedctx // of the request that the archive answers
	head   *bytes.Reader   // the header; empty once read
	shards []manifestShard // not opened yet
	body   io.ReadCloser   // of the current shard; nil between shards
	in     *bufio.Reader
}

// maxHeaderBytes is more than the header of a shard takes.
const maxHeaderBytes = 64 << 10

func (w *whole) Read(p []byte) (int, error) {
	if w.head.Len() > 0 {
		return w.head.Read(p)
	}
	for {
		if w.body == nil {
			if len(w.shards) == 0 {
				return 0, io.EOF
			}
			if err := w.next(); err != nil {
				return 0, err
			}
		}
		n, err := w.in.Read(p)
		if errors.Is(err, io.EOF) {
			_ = w.body.Close()
			w.body, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// next opens the next shard and skips its header.
func (w *whole) next() error {
	key := w.t.prefix + w.shards[0].Key
	body, err := w.t.get(w.ctx, key, 0, -1)
	if err != nil {
		return err
	}
	w.body, w.in, w.shards = body, bufio.NewReaderSize(body, 64<<10), w.shards[1:]
	length, err := binary.ReadUvarint(w.in)
	if err == nil && length > maxHeaderBytes {
		err = car.ErrMalformed
	}
	if err == nil {
		_, err = w.in.Discard(int(length))
	}
	if err != nil {
		return fmt.Errorf("the header of %s: %w", strings.TrimPrefix(key, w.t.prefix), err)
	}
	return nil
}

func (w *whole) Close() error {
	if w.body == nil {
		return nil
	}
	return w.body.Close()
}
