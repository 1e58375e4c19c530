package car

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/car/piece"
	"github.com/carload/carload/internal/sha256mb"
)

// batchBytes is how much of an archive is read and hashed at a time: four
// leaves of 1 MiB with their framing fill the four lanes of a core.
const batchBytes = 4<<20 + 4096

// smallBytes is the largest archive that uses a small batch, so that many small
// archives can be open at the same time.
const smallBytes = 256 << 10

// batchBlocks is the most blocks in a batch: what is kept about a tiny block
// takes much more memory than the block.
const batchBlocks = 4096

// Archive is the recipe of a CARv1 file with one root. Size must be the exact
// length of that file, as [NewArchive] computes it.
type Archive struct {
	Root   cid.Cid
	Blocks List
	Size   int64
}

// NewArchive makes the recipe of an archive and computes its size.
func NewArchive(root cid.Cid, blocks List) Archive {
	size := HeaderSize(root)
	for i := range blocks.Len() {
		b := blocks.At(i)
		size += b.SectionSize()
	}
	return Archive{Root: root, Blocks: blocks, Size: size}
}

// Packer opens archives. All archives opened by one Packer share its hashing
// lanes and buffers, so a program needs only one. The zero value is ready to
// use. A Packer is safe for concurrent use.
type Packer struct {
	// Pieces makes streams also compute the Filecoin piece of their bytes,
	// which costs more than all other hashing. Set it before the first use.
	Pieces bool

	lanes   sha256mb.Pool
	pieces  piece.Pool
	batches sync.Pool // of *batch
	small   sync.Pool // of *batch, for archives of smallBytes at most
}

// pool returns the pool of batches for an archive, and the size of their
// buffers.
func (p *Packer) pool(a Archive) (_ *sync.Pool, room int) {
	if a.Size <= smallBytes {
		return &p.small, smallBytes
	}
	return &p.batches, batchBytes
}

// Open returns the bytes of a, from the first byte on. The stream holds one
// batch of a few MiB and one open source, whatever the size of the archive. The
// caller closes the stream. Cancelling ctx makes reads fail.
func (p *Packer) Open(ctx context.Context, a Archive) *Stream {
	pool, room := p.pool(a)
	b, ok := pool.Get().(*batch)
	if !ok {
		b = &batch{room: make([]byte, room+pageBytes)}
	}
	b.reset()
	b.alignTo(0)
	b.buf = AppendHeader(b.buf, a.Root)
	s := &Stream{ctx: ctx, packer: p, archive: a, batch: b, files: openFiles{limit: 1}}
	if p.Pieces {
		s.pieces = p.pieces.NewHasher()
	}
	return s
}

// Stream is the bytes of an [Archive]. It checks each block before handing it
// out. After the last byte, CID returns the CID of the whole file and Piece its
// piece. A Stream is not safe for concurrent use.
type Stream struct {
	ctx     context.Context //nolint:containedctx // a stream is one read of one request, as http.Request is
	packer  *Packer
	archive Archive
	next    int // first block not yet in a batch
	batch   *batch
	rest    []byte // what Read has not handed out yet
	given   int64  // bytes handed out
	digest  sha256mb.Digest
	hashing *sha256mb.Write // of the last batch, added to digest
	pieces  *piece.Hasher   // nil if no piece was asked for, and after Close
	piece   *piece.Piece    // of all bytes
	files   openFiles
	err     error
}

// Read implements io.Reader. The error is io.EOF after exactly Size bytes.
func (s *Stream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	s.given += int64(n)
	return n, nil
}

// WriteTo implements io.WriterTo: it passes whole batches to w without copying.
func (s *Stream) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if len(s.rest) == 0 {
			if err := s.fill(); errors.Is(err, io.EOF) {
				return total, nil
			} else if err != nil {
				return total, err
			}
		}
		n, err := w.Write(s.rest)
		s.rest = s.rest[n:]
		s.given += int64(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// CID returns the CID of the archive's bytes (codec 0x0202). It is known once
// the last byte has been read; until then ok is false.
func (s *Stream) CID() (c cid.Cid, ok bool) {
	if !s.complete() {
		return cid.Undef, false
	}
	s.waitHashed()
	return CID(s.digest.Sum256()), true
}

// complete reports whether the last byte was read.
func (s *Stream) complete() bool {
	return errors.Is(s.err, io.EOF) || s.given == s.archive.Size && s.next == s.archive.Blocks.Len()
}

// Piece returns the Filecoin piece of the archive's bytes. ok is false before
// the last byte has been read, and always if [Packer.Pieces] is not set.
func (s *Stream) Piece() (p piece.Piece, ok bool) {
	if s.piece == nil && s.pieces != nil && s.complete() {
		p := s.pieces.Sum()
		s.piece = &p
	}
	if s.piece == nil {
		return piece.Piece{}, false
	}
	return *s.piece, true
}

// waitHashed waits until the last batch is part of the digest.
func (s *Stream) waitHashed() {
	if s.hashing != nil {
		s.hashing.Wait()
		s.hashing = nil
	}
}

// Close releases what the stream holds. Reads fail afterwards.
func (s *Stream) Close() error {
	err := s.files.close()
	// A lane may still be hashing the batch, for this stream or for another.
	s.waitHashed()
	if s.pieces != nil {
		s.Piece() // not possible later
		s.pieces.Close()
		s.pieces = nil
	}
	if s.batch != nil {
		pool, _ := s.packer.pool(s.archive)
		pool.Put(s.batch)
		s.batch, s.rest = nil, nil
	}
	if s.err == nil {
		s.err = errors.New("read of a closed archive")
	}
	return err
}

// fill puts the next batch of checked bytes into s.rest.
func (s *Stream) fill() error {
	if s.err != nil {
		return s.err
	}
	s.err = s.nextBatch()
	return s.err
}

func (s *Stream) nextBatch() error {
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	s.waitHashed()
	if s.given > 0 {
		s.batch.reset()
		s.batch.alignTo(s.given)
	}
	for s.next < s.archive.Blocks.Len() {
		b := s.archive.Blocks.At(s.next)
		if len(s.batch.buf) > 0 && len(s.batch.buf)+int(b.SectionSize()) > batchBytes || len(s.batch.blocks) == batchBlocks {
			break
		}
		if err := s.read(&b); err != nil {
			return err
		}
		s.next++
	}
	if len(s.batch.buf) == 0 {
		if s.given != s.archive.Size {
			return fmt.Errorf("archive of %s has %d bytes, not the announced %d", s.archive.Root, s.given, s.archive.Size)
		}
		return io.EOF
	}
	// The hash of the whole file is one long stream, which alone would leave
	// lanes idle. It shares them with the hashes of the blocks and with other
	// streams, and runs on while the caller takes this batch. nextBatch waits
	// for it.
	s.hashing = s.packer.lanes.Start(&s.digest, s.batch.buf)
	if err := s.batch.check(&s.packer.lanes); err != nil {
		return err
	}
	if s.given+int64(len(s.batch.buf)) > s.archive.Size {
		return fmt.Errorf("archive of %s is longer than the %d bytes announced", s.archive.Root, s.archive.Size)
	}
	if s.pieces != nil {
		if _, err := s.pieces.Write(s.batch.buf); err != nil {
			return fmt.Errorf("archive of %s: %w", s.archive.Root, err)
		}
	}
	s.rest = s.batch.buf
	return nil
}

// read appends the section of b to the batch.
func (s *Stream) read(b *Block) error {
	buf := binary.AppendUvarint(s.batch.buf, uint64(b.Cid.ByteLen()+b.Size()))
	s.batch.buf = append(buf, b.Cid.KeyString()...)
	return s.batch.read(&s.files, b)
}

// grow extends b by n bytes whose values are unspecified.
func grow(b []byte, n int) []byte {
	if len(b)+n <= cap(b) {
		return b[:len(b)+n]
	}
	return append(b, make([]byte, n)...)
}

// batch is a run of sections in one buffer, and what it takes to check them.
type batch struct {
	buf    []byte
	room   []byte // what buf is a slice of, if alignment matters
	blocks []batchBlock
	msgs   [][]byte
	sums   [][sha256mb.Size]byte
}

type batchBlock struct {
	cid        cid.Cid
	source     Source
	offset     int64
	claimed    bool
	start, end int // of the payload in buf
}

func (b *batch) reset() {
	clear(b.blocks) // let go of the sources
	clear(b.msgs)
	b.buf, b.blocks, b.msgs, b.sums = b.buf[:0], b.blocks[:0], b.msgs[:0], b.sums[:0]
}

// pageBytes is the alignment that direct writes to a disk need. If each byte of
// a batch has the same offset within its page as in the file, whole batches can
// be written without another copy. A large slice from make begins on a page.
const pageBytes = 4096

// alignTo begins the batch where the byte at this file offset belongs.
func (b *batch) alignTo(off int64) { b.buf = b.room[off%pageBytes:][:0] }

func (b *batch) add(blk *Block, start int) {
	b.blocks = append(b.blocks, batchBlock{blk.Cid, blk.Source, blk.Offset, blk.Claimed, start, len(b.buf)})
}

// check compares every payload of the batch with its CID. If lanes is not nil,
// the payloads share its lanes with writes that were started there.
func (b *batch) check(lanes *sha256mb.Pool) error {
	b.sum(lanes)
	for i := range b.blocks {
		blk := &b.blocks[i]
		ok, err := matches(blk.cid, b.msgs[i], &b.sums[i])
		switch {
		case err != nil:
			return err
		case ok:
		case blk.claimed:
			return fmt.Errorf("%w: %s at offset %d of archive %q", ErrCorrupt, blk.cid, blk.offset, blk.source.Name())
		case blk.source != nil:
			return &SourceChangedError{blk.source.Name(), blk.offset, "its bytes are no longer those of block " + blk.cid.String()}
		default:
			return fmt.Errorf("%w: %s, held in memory", ErrCorrupt, blk.cid)
		}
	}
	return nil
}

// sum hashes the payloads of the batch.
func (b *batch) sum(lanes *sha256mb.Pool) {
	for i := range b.blocks {
		b.msgs = append(b.msgs, b.buf[b.blocks[i].start:b.blocks[i].end])
	}
	for len(b.sums) < len(b.msgs) {
		b.sums = append(b.sums, [sha256mb.Size]byte{})
	}
	lanes.Sum(b.sums, b.msgs)
}

// matches reports whether data, whose SHA-256 is sum, has the multihash of c.
func matches(c cid.Cid, data []byte, sum *[sha256mb.Size]byte) (bool, error) {
	// Compare the usual CIDs in place: a CIDv0 is a bare SHA-256 multihash, a
	// CIDv1 puts the version and a one-byte codec before it.
	key := c.KeyString()
	if len(key) == 36 && key[0] == 1 {
		key = key[2:]
	}
	if len(key) == 34 && key[0] == multihash.SHA2_256 && key[1] == sha256mb.Size {
		return key[2:] == string(sum[:]), nil
	}
	mh := c.Hash()
	dec, err := multihash.Decode(mh)
	if err != nil {
		return false, fmt.Errorf("block %s: %w", c, err)
	}
	if err := checkDigest(dec.Code, dec.Length); err != nil {
		return false, fmt.Errorf("block %s: %w", c, err)
	}
	got, err := multihash.Sum(data, dec.Code, dec.Length)
	if err != nil {
		return false, fmt.Errorf("block %s: hash function 0x%x: %w", c, dec.Code, err)
	}
	return bytes.Equal(got, mh), nil
}
