package car

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/sha256mb"
)

// openSources is how many sources a [Loader] keeps open.
const openSources = 16

// Loader reads blocks into memory and checks each against its CID. It keeps a
// few sources open until Close. The zero value is ready to use. A Loader is not
// safe for concurrent use.
type Loader struct {
	batch batch
	files openFiles
	out   [][]byte
}

// Load returns the payload of a block, which is valid until the next load. It
// reports bytes that do not match the CID as [Packer.Open]'s stream does.
func (l *Loader) Load(ctx context.Context, b Block) ([]byte, error) {
	out, err := l.LoadAll(ctx, []Block{b})
	if err != nil {
		return nil, err
	}
	return out[0], nil
}

// LoadAll returns the payloads of several blocks, hashed in parallel lanes. All
// are in memory at once, and are valid until the next load.
func (l *Loader) LoadAll(ctx context.Context, blocks []Block) ([][]byte, error) {
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	l.batch.reset()
	l.files.limit = openSources
	size := 0
	for i := range blocks {
		size += blocks[i].Size()
	}
	if cap(l.batch.buf) < size {
		l.batch.buf = make([]byte, 0, size)
	}
	for i := range blocks {
		if err := l.batch.read(&l.files, &blocks[i]); err != nil {
			return nil, err
		}
	}
	if err := l.batch.check(nil); err != nil {
		return nil, err
	}
	l.out = append(l.out[:0], l.batch.msgs...)
	return l.out, nil
}

// Read reads a block's bytes into p without checking them against the CID, and
// returns the filled slice. If p is too small, it allocates another.
func (l *Loader) Read(b Block, p []byte) ([]byte, error) {
	l.files.limit = openSources
	l.batch.reset()
	kept := l.batch.buf
	l.batch.buf = p[:0]
	err := l.batch.read(&l.files, &b)
	p, l.batch.buf = l.batch.buf, kept
	return p, err
}

// Mismatch returns the index of the first payload that does not match its CID,
// or -1. The payloads are hashed in parallel lanes. A CID with an unknown hash
// function is an error.
func Mismatch(cids []cid.Cid, payloads [][]byte) (int, error) {
	sums := make([][sha256mb.Size]byte, len(payloads))
	sha256mb.Sum(sums, payloads)
	for i, c := range cids {
		if ok, err := matches(c, payloads[i], &sums[i]); err != nil || !ok {
			return i, err
		}
	}
	return -1, nil
}

// Close closes the open sources. The loader can be used again.
func (l *Loader) Close() error { return l.files.close() }

// openFiles keeps the most recently used sources open.
type openFiles struct {
	limit int // at least 1
	open  []openFile
}

type openFile struct {
	source Source
	file   SourceFile
}

// get returns an open file of the source. A source that is not comparable is
// opened again for each block.
func (o *openFiles) get(src Source) (SourceFile, error) {
	known := reflect.ValueOf(src).Comparable()
	for i := range o.open {
		if known && o.open[i].source == src {
			f := o.open[i]
			copy(o.open[1:], o.open[:i])
			o.open[0] = f
			return f.file, nil
		}
	}
	if n := len(o.open); n > 0 && n >= o.limit {
		oldest := o.open[n-1].file
		o.open = o.open[:n-1]
		if err := oldest.Close(); err != nil {
			return nil, err
		}
	}
	f, err := src.Open()
	if err != nil {
		return nil, fmt.Errorf("open source: %w", err)
	}
	o.open = append(o.open, openFile{})
	copy(o.open[1:], o.open)
	o.open[0] = openFile{src, f}
	return f, nil
}

func (o *openFiles) close() error {
	var err error
	for _, f := range o.open {
		err = errors.Join(err, f.file.Close())
	}
	clear(o.open)
	o.open = o.open[:0]
	return err
}

// read appends the payload of blk to the batch.
func (b *batch) read(files *openFiles, blk *Block) error {
	start := len(b.buf)
	buf := append(b.buf, blk.Head...)
	if blk.Length > 0 {
		f, err := files.get(blk.Source)
		if err != nil {
			return err
		}
		from := len(buf)
		buf = grow(buf, blk.Length)
		n, err := f.ReadAt(buf[from:], blk.Offset)
		switch {
		case n == blk.Length:
		case err == nil || errors.Is(err, io.EOF):
			return &SourceChangedError{blk.Source.Name(), blk.Offset + int64(n), "it ends there"}
		default:
			return fmt.Errorf("read source %q at offset %d: %w", blk.Source.Name(), blk.Offset+int64(n), err)
		}
	}
	b.buf = append(buf, blk.Tail...)
	b.add(blk, start)
	return nil
}
