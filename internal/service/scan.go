package service

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	_ "github.com/multiformats/go-multihash/register/all" // blocks may name any of the accepted functions
	"github.com/multiformats/go-varint"
	"github.com/spaolacci/murmur3"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/internal/sha256mb"
)

const (
	maxBlockBytes = 2 << 20
	maxCIDBytes   = 4 << 10
	// scanBytes takes four sections of 1 MiB, so that their digests can share the
	// lanes, and the largest section that may come.
	scanBytes = 4<<20 + 256<<10
	// scanBufferBytes is that from any place in a page on.
	scanBufferBytes = scanBytes + durable.AlignBytes
	scanBatch       = 1024
)

// scanner checks a CAR as it comes in, in the order in which the original
// checks it, so that a file with several faults gets the same answer. It holds
// one buffer; blocks are hashed where they lie in it.
type scanner struct {
	src  io.Reader
	sink io.Writer // gets each byte as it is read; may be nil
	kept keeper    // gets sections as they are found; may be nil
	pool *sha256mb.Pool

	digest     sha256mb.Digest // of the whole file
	buf        []byte
	start, end int
	read       int64 // bytes of the file read so far
	ended      bool
	limit      int64 // end of the CARv1 in the file; -1 if the end of the file is

	pending []scanned
	msgs    [][]byte
	sums    [][sha256mb.Size]byte

	result scanResult
}

// keeper is told what a CAR consists of, for stores that do not keep all of it.
type keeper interface {
	keep(off int64, p []byte) error
}

type scanned struct {
	c    cid.Cid
	data []byte
}

// scanResult is what is known of a CAR after it was checked.
type scanResult struct {
	root       cid.Cid
	facts      rootFacts
	blocks     int
	size       int64
	cid        cid.Cid // of the file
	payload    int64   // where the CARv1 begins in the file
	payloadEnd int64
}

// scan checks the CAR that src yields, block by block. Its length may be given
// as -1 if it is unknown. Errors of the CAR are API errors; those of src and
// the sink are returned as they are.
func (st *store) scan(ctx context.Context, src io.Reader, length int64, sink io.Writer, kept keeper) (*scanResult, error) {
	buf, release, err := st.buffer(ctx, length)
	if err != nil {
		return nil, err
	}
	defer release()
	s := &scanner{src: src, sink: sink, kept: kept, pool: &st.hash, buf: buf, limit: -1}
	if err := s.run(); err != nil {
		return nil, err
	}
	return &s.result, nil
}

func (s *scanner) run() error {
	if err := s.header(); err != nil {
		return err
	}
	for {
		more, err := s.section()
		if err != nil {
			// What came before in the file is reported before.
			if earlier := s.verify(); earlier != nil {
				return earlier
			}
			return err
		}
		if !more {
			break
		}
		if len(s.pending) == scanBatch {
			if err := s.verify(); err != nil {
				return err
			}
		}
	}
	if err := s.verify(); err != nil {
		return err
	}
	s.result.payloadEnd = s.position()
	if err := s.drain(); err != nil {
		return err
	}
	s.result.size = s.read
	s.result.cid = car.CID(s.digest.Sum256())
	return nil
}

// conclude makes the checks of an upload that need the whole file.
func (r *scanResult) conclude() error {
	switch {
	case r.blocks == 0:
		return thrown("empty CAR")
	case r.facts.size == noRoot:
		return thrown("missing root block")
	case r.facts.links > 0 && r.blocks < 2:
		return thrown("CAR must contain at least one non-root block")
	case r.facts.err != nil:
		return thrown("%v", r.facts.err)
	}
	if r.root.Prefix().Codec == codecRaw && r.blocks > 1 {
		r.facts.size = -1 // the original knows the size of a raw root only when it is alone
	}
	return nil
}

const noRoot = -2

// fill makes room and reads until the buffer is full or the file ends.
func (s *scanner) fill() error {
	if s.ended {
		return nil
	}
	if s.start > 0 {
		// What is read goes to the disk from where a byte's place in its page is
		// that in the file.
		at := int(s.position() % durable.AlignBytes)
		if len(s.buf) < scanBufferBytes {
			at = 0
		}
		s.end = at + copy(s.buf[at:], s.buf[s.start:s.end])
		s.start = at
	}
	n, err := io.ReadFull(s.src, s.buf[s.end:])
	fresh := s.buf[s.end : s.end+n]
	s.end += n
	s.read += int64(n)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && !isBodyError(err):
		s.ended = true
	case err != nil:
		return err
	}
	// The file is written meanwhile, and other uploads find company for their
	// digests in the lanes.
	hashing := s.pool.Start(&s.digest, fresh)
	defer hashing.Wait()
	if s.sink != nil {
		if _, err := s.sink.Write(fresh); err != nil {
			return err
		}
	}
	return nil
}

func isBodyError(err error) bool {
	var b *bodyError
	return errors.As(err, &b)
}

// position is how far into the file parsing has come.
func (s *scanner) position() int64 { return s.read - int64(s.end-s.start) }

// drain reads what follows the CARv1: the index of a CARv2 counts for the CID
// of the file and for nothing else.
func (s *scanner) drain() error {
	for s.start = s.end; !s.ended; s.start = s.end {
		if err := s.fill(); err != nil {
			return err
		}
	}
	return nil
}

// need makes n bytes available, fewer only at the end of the file.
func (s *scanner) need(n int) ([]byte, error) {
	if s.end-s.start < n && !s.ended {
		if err := s.verify(); err != nil { // blocks move
			return nil, err
		}
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
	return s.buf[s.start:s.end], nil
}

func isPragma(p []byte) bool {
	return bytes.HasPrefix(p, []byte("\x0a\xa1\x67version\x02"))
}

const pragmaBytes = 11

func (s *scanner) header() error {
	s.result.facts.size = noRoot
	p, err := s.need(len(s.buf))
	if err != nil {
		return err
	}
	if isPragma(p) {
		if err := s.enterV2(p[pragmaBytes:]); err != nil {
			return err
		}
		if p, err = s.need(len(s.buf)); err != nil {
			return err
		}
	}
	s.result.payload = s.position()
	n, size, err := varint.FromUvarint(p)
	switch {
	case err != nil:
		return thrown("Unexpected end of data")
	case n == 0:
		return thrown("Invalid CAR header (zero length)")
	case n > uint64(len(p)-size):
		if n > scanBytes-varint.MaxLenUvarint63 {
			return thrown("Invalid CAR header (%d bytes is too long)", n)
		}
		return thrown("Unexpected end of data")
	}
	whole := p[:size+int(n)]
	r, err := car.NewReader(bytes.NewReader(whole), car.ReaderOptions{})
	switch {
	case err != nil:
		return thrown("Invalid CAR header format: %v", err)
	case r.Version != 1:
		return thrown("Invalid CAR version: %d", r.Version)
	case len(r.Roots) == 0:
		return thrown("missing roots")
	case len(r.Roots) > 1:
		return thrown("too many roots")
	}
	s.result.root = r.Roots[0]
	return s.advance(whole, true)
}

// enterV2 goes from the fixed header of a CARv2 to the CARv1 in it.
func (s *scanner) enterV2(p []byte) error {
	const fixed = 40
	if len(p) < fixed {
		return thrown("Unexpected end of data")
	}
	at, size := binary.LittleEndian.Uint64(p[16:]), binary.LittleEndian.Uint64(p[24:])
	if at < pragmaBytes+fixed || at > 1<<40 || size == 0 || size > 1<<40 {
		return thrown("Invalid CAR version 2 header")
	}
	for s.position() < int64(at) {
		skip := min(int64(at)-s.position(), int64(s.end-s.start))
		if skip == 0 {
			if s.ended {
				return thrown("Unexpected end of data")
			}
			if _, err := s.need(1); err != nil {
				return err
			}
			continue
		}
		if err := s.advance(s.buf[s.start:s.start+int(skip)], true); err != nil {
			return err
		}
	}
	s.limit = int64(at + size)
	return nil
}

// advance goes past p, the next bytes of the buffer.
func (s *scanner) advance(p []byte, keep bool) error {
	if keep && s.kept != nil {
		if err := s.kept.keep(s.position(), p); err != nil {
			return err
		}
	}
	s.start += len(p)
	return nil
}

// section parses the next section and leaves its block to be verified. It
// reports false at the end of the CAR.
func (s *scanner) section() (bool, error) {
	if s.limit >= 0 && s.position() >= s.limit {
		return false, nil
	}
	p, err := s.need(varint.MaxLenUvarint63)
	if err != nil {
		return false, err
	}
	if len(p) == 0 {
		if s.limit >= 0 {
			return false, thrown("Unexpected end of data")
		}
		return false, nil
	}
	n, prefix, err := varint.FromUvarint(p)
	switch {
	case errors.Is(err, varint.ErrUnderflow):
		return false, thrown("Unexpected end of data")
	case err != nil:
		return false, thrown("Invalid CAR section (%v)", err)
	case n == 0:
		return false, thrown("Invalid CAR section (zero length)")
	}
	size := prefix + int(min(n, maxBlockBytes+maxCIDBytes+1))
	if p, err = s.need(size); err != nil {
		return false, err
	}
	used, c, err := cid.CidFromBytes(p[prefix:min(size, len(p))])
	if err != nil {
		if len(p) < size {
			return false, thrown("Unexpected end of data")
		}
		return false, thrown("Invalid CAR section (%v)", err)
	}
	if payload := n - uint64(used); n > uint64(used) && payload > maxBlockBytes {
		return false, thrown("block too big: %d > %d", payload, maxBlockBytes)
	}
	if n > maxBlockBytes+maxCIDBytes {
		return false, thrown("Invalid CAR section (a CID of %d bytes)", used)
	}
	if len(p) < size || s.limit >= 0 && s.position()+int64(size) > s.limit {
		return false, thrown("Unexpected end of data")
	}
	data := p[prefix+used : size : size]
	s.pending = append(s.pending, scanned{c, data})
	s.result.blocks++
	if s.result.facts.size == noRoot && c.Equals(s.result.root) {
		s.result.facts = inspectRoot(c, data)
	}
	if err := s.advance(p[:prefix+used], true); err != nil {
		return false, err
	}
	return true, s.advance(data, hasLinks(c.Prefix().Codec))
}

// accepted are the hash functions of the original's block validator.
func accepted(code uint64) bool {
	switch code {
	case multihash.SHA2_256, multihash.SHA2_512, murmur3x64128, murmur3x32,
		multihash.BLAKE2B_MIN + 31, blake2s256,
		multihash.SHA3_224, multihash.SHA3_256, multihash.SHA3_384, multihash.SHA3_512,
		multihash.SHAKE_128, multihash.SHAKE_256,
		multihash.KECCAK_224, multihash.KECCAK_256, multihash.KECCAK_384, multihash.KECCAK_512:
		return true
	}
	return false
}

const (
	murmur3x32    = 0x23
	murmur3x64128 = 0x1022
	blake2s256    = 0xb260
)

// verify hashes the pending blocks, those of SHA-256 side by side, and reports
// the first that does not match.
func (s *scanner) verify() error {
	defer func() { s.pending = s.pending[:0] }()
	s.msgs = s.msgs[:0]
	for _, b := range s.pending {
		if b.c.Prefix().MhType == multihash.SHA2_256 {
			s.msgs = append(s.msgs, b.data)
		}
	}
	if cap(s.sums) < len(s.msgs) {
		s.sums = make([][sha256mb.Size]byte, scanBatch)
	}
	sums := s.sums[:len(s.msgs)]
	sha256mb.Sum(sums, s.msgs)
	for _, b := range s.pending {
		var sum []byte
		if b.c.Prefix().MhType == multihash.SHA2_256 {
			sum, sums = sums[0][:], sums[1:]
		}
		if err := matches(b.c, b.data, sum); err != nil {
			return err
		}
	}
	return nil
}

// matches checks a block against its CID; sum is its SHA-256 if that is asked.
func matches(c cid.Cid, data, sum []byte) error {
	d, err := multihash.Decode(c.Hash())
	if err != nil {
		return invalidCAR("failed hash verification: %s: %v", c, err)
	}
	if !accepted(d.Code) {
		return invalidCAR("failed hash verification: %s: multihash code %d is not supported", c, d.Code)
	}
	if d.Code != multihash.SHA2_256 {
		if sum, err = digestOf(d.Code, data); err != nil {
			return invalidCAR("failed hash verification: %s: multihash code %d is not supported", c, d.Code)
		}
	}
	if !bytes.Equal(sum, d.Digest) {
		return invalidCAR("failed hash verification: %s: CID hash does not match bytes", c)
	}
	return nil
}

func digestOf(code uint64, data []byte) ([]byte, error) {
	switch code { // two that go-multihash does not know
	case murmur3x32:
		return binary.BigEndian.AppendUint32(nil, murmur3.Sum32(data)), nil
	case murmur3x64128:
		hi, lo := murmur3.Sum128(data)
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, hi), lo), nil
	}
	mh, err := multihash.Sum(data, code, -1)
	if err != nil {
		return nil, fmt.Errorf("hash block: %w", err)
	}
	d, err := multihash.Decode(mh)
	if err != nil {
		return nil, fmt.Errorf("hash block: %w", err)
	}
	return d.Digest, nil
}
