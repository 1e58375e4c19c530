package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-varint"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/sha256mb"
)

// Builder writes blocks into a new shard. The root need not be known until the
// end; only the length of its CID must be.
type Builder struct {
	in      *Incoming
	w       *bufio.Writer
	off     int64
	payload int64
	at      map[cid.Cid]span
}

// span is where a block is in the shard being written.
type span struct {
	off int64
	len int
}

// NewBuilder begins a shard. The final root must have a CID of the same length
// as root. The caller closes the builder.
func (st *Store) NewBuilder(root cid.Cid) (*Builder, error) {
	f, err := st.files.create()
	if err != nil {
		return nil, err
	}
	in := &Incoming{st: st, f: f}
	b := &Builder{in: in, w: bufio.NewWriterSize(f, 256<<10), at: make(map[cid.Cid]span)}
	header := car.AppendHeader(nil, root)
	b.off = int64(len(header))
	if _, err := b.w.Write(header); err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return b, nil
}

// Add writes a block, unless it was written before. It does not check the bytes
// against the CID. The error matches [ErrBlockTooLarge] if the block is too
// large for an uploaded shard.
func (b *Builder) Add(c cid.Cid, data []byte) error {
	if len(data) > MaxBlockBytes {
		return fmt.Errorf("%w: %s has %d bytes, the limit is %d", ErrBlockTooLarge, c, len(data), MaxBlockBytes)
	}
	if _, ok := b.at[c]; ok {
		return nil
	}
	raw := c.Bytes()
	head := append(varint.ToUvarint(uint64(len(raw)+len(data))), raw...)
	if _, err := b.w.Write(head); err != nil {
		return err
	}
	if _, err := b.w.Write(data); err != nil {
		return err
	}
	b.at[c] = span{off: b.off + int64(len(head)), len: len(data)}
	b.off += int64(len(head) + len(data))
	b.payload += int64(len(data))
	return nil
}

// Get returns a block that was added, or [ErrNotHeld].
func (b *Builder) Get(c cid.Cid) ([]byte, error) {
	l, ok := b.at[c]
	if !ok {
		return nil, ErrNotHeld
	}
	if err := b.w.Flush(); err != nil {
		return nil, err
	}
	p := make([]byte, l.len)
	if _, err := b.in.f.ReadAt(p, l.off); err != nil {
		return nil, fmt.Errorf("read back block: %w", err)
	}
	return p, nil
}

// Bytes returns the length of the file so far.
func (b *Builder) Bytes() int64 { return b.off }

// Payload returns the total length of the blocks so far.
func (b *Builder) Payload() int64 { return b.payload }

// Finish writes the root into the header and hashes the file. Size is the size
// of the DAG, or -1 if unknown. The result is valid until the builder is
// closed.
func (b *Builder) Finish(ctx context.Context, root cid.Cid, size int64) (*Incoming, error) {
	if err := b.w.Flush(); err != nil {
		return nil, err
	}
	if _, err := b.in.f.WriteAt(car.AppendHeader(nil, root), 0); err != nil {
		return nil, fmt.Errorf("write root: %w", err)
	}
	carCID, err := b.in.st.hashFile(ctx, io.NewSectionReader(b.in.f, 0, b.off))
	if err != nil {
		return nil, err
	}
	b.in.Root, b.in.Bytes, b.in.DAGSize = root, b.off, size
	b.in.shard = shard{cid: carCID, payload: 0, end: b.off}
	return b.in, b.in.secure()
}

// Close removes the file, unless it became part of the store. It may be called
// more than once.
func (b *Builder) Close() error { return b.in.Close() }

// hashFile returns the CID of a CAR file.
func (st *Store) hashFile(ctx context.Context, r *io.SectionReader) (cid.Cid, error) {
	buf, release, err := st.buffer(ctx, r.Size())
	if err != nil {
		return cid.Undef, err
	}
	defer release()
	var digest sha256mb.Digest
	for {
		n, err := io.ReadFull(r, buf)
		st.hash.Write(&digest, buf[:n])
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return car.CID(digest.Sum256()), nil
		case err != nil:
			return cid.Undef, fmt.Errorf("hash shard: %w", err)
		}
	}
}
