package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"

	"github.com/carload/carload/car"
	dag "github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/sha256mb"
)

// scanBatch is the most blocks that are hashed at once.
const scanBatch = 1024

// scanner checks a CAR as it comes in. It checks in the same order as the
// original service, so that a file with several faults gets the same answer. It
// holds one buffer, and hashes blocks in place.
type scanner struct {
	*input
	limit     int64 // end of the CARv1 in the file; -1 if it extends to the end
	runLength int   // sections in a run

	pending []scanned
	msgs    [][]byte
	sums    [][sha256mb.Size]byte

	result scanResult
}

type scanned struct {
	c    cid.Cid
	data []byte
}

// scanResult is what scanning a CAR found out about it.
type scanResult struct {
	root       cid.Cid
	facts      rootFacts
	blocks     int
	runs       []int64 // see shard
	size       int64
	cid        cid.Cid // of the file
	payload    int64   // offset of the CARv1 in the file
	payloadEnd int64
}

// scan reads a CAR from src and checks it block by block in the buffer. If the
// CAR is wrong, the error is a [CARError]. Errors of src and sink are returned
// unchanged.
func (st *Store) scan(src io.Reader, buf []byte, sink io.Writer, kept keeper) (*scanResult, error) {
	s := &scanner{input: &input{src: src, sink: sink, kept: kept, pool: &st.hash, buf: buf}, limit: -1, runLength: st.turns.run, result: scanResult{runs: []int64{}}}
	s.moving = s.verify // blocks must be hashed before they are overwritten
	defer s.waitHashed()
	if err := s.run(); err != nil {
		return nil, err
	}
	return &s.result, nil
}

func (s *scanner) run() error {
	if err := s.header(); err != nil {
		return err
	}
	s.halves = len(s.buf) == scanBufferBytes
	for {
		more, err := s.section()
		if err != nil {
			// Report faults in the order of the file.
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
	s.waitHashed()
	s.result.size = s.read
	s.result.cid = car.CID(s.digest.Sum256())
	return nil
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
		return fault(FaultCut)
	case n == 0:
		return fault(FaultNoHeader)
	case n > uint64(len(p)-size):
		if n > scanBytes-varint.MaxLenUvarint63 {
			return fault(FaultLongHeader, n)
		}
		return fault(FaultCut)
	}
	whole := p[:size+int(n)]
	r, err := car.NewReader(bytes.NewReader(whole), car.ReaderOptions{})
	switch {
	case err != nil:
		return fault(FaultHeader, err)
	case r.Version != 1:
		return fault(FaultVersion, r.Version)
	case len(r.Roots) == 0:
		return fault(FaultNoRoots)
	case len(r.Roots) > 1:
		return fault(FaultManyRoots)
	}
	s.result.root = r.Roots[0]
	return s.advance(whole, true)
}

// enterV2 skips from the fixed header of a CARv2 to the CARv1 inside.
func (s *scanner) enterV2(p []byte) error {
	const fixed = 40
	if len(p) < fixed {
		return fault(FaultCut)
	}
	at, size := binary.LittleEndian.Uint64(p[16:]), binary.LittleEndian.Uint64(p[24:])
	if at < pragmaBytes+fixed || at > 1<<40 || size == 0 || size > 1<<40 {
		return fault(FaultVersion2)
	}
	for s.position() < int64(at) {
		skip := min(int64(at)-s.position(), int64(s.end-s.start))
		if skip == 0 {
			if s.ended {
				return fault(FaultCut)
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

// section parses the next section and queues its block for verification. It
// returns false at the end of the CAR.
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
			return false, fault(FaultCut)
		}
		return false, nil
	}
	n, prefix, err := varint.FromUvarint(p)
	switch {
	case errors.Is(err, varint.ErrUnderflow):
		return false, fault(FaultCut)
	case err != nil:
		return false, fault(FaultSection, err)
	case n == 0:
		return false, fault(FaultEmptySection)
	}
	size := prefix + int(min(n, MaxBlockBytes+maxCIDBytes+1))
	if p, err = s.need(size); err != nil {
		return false, err
	}
	used, c, err := cid.CidFromBytes(p[prefix:min(size, len(p))])
	if err != nil {
		if len(p) < size {
			return false, fault(FaultCut)
		}
		return false, fault(FaultSection, err)
	}
	if payload := n - uint64(used); n > uint64(used) && payload > MaxBlockBytes {
		return false, fault(FaultBigBlock, payload, MaxBlockBytes)
	}
	if n > MaxBlockBytes+maxCIDBytes {
		return false, fault(FaultLongCID, used)
	}
	if len(p) < size || s.limit >= 0 && s.position()+int64(size) > s.limit {
		return false, fault(FaultCut)
	}
	data := p[prefix+used : size : size]
	s.pending = append(s.pending, scanned{c, data})
	if s.result.blocks > 0 && s.result.blocks%s.runLength == 0 {
		s.result.runs = append(s.result.runs, s.position())
	}
	s.result.blocks++
	if s.result.facts.size == noRoot && c.Equals(s.result.root) {
		s.result.facts = inspectRoot(c, data)
	}
	if err := s.advance(p[:prefix+used], true); err != nil {
		return false, err
	}
	inner := hasLinks(c.Prefix().Codec)
	if inner {
		if err := checkLinks(c, data); err != nil {
			return false, err
		}
	}
	return true, s.advance(data, inner)
}

// Each link and each block costs the index some rows, however few bytes it has.
// So their number is limited by the size of the block or file. Useful CIDs stay
// far below the limit: one with SHA-256 has 36 bytes. A few more are allowed
// for very small files.
const (
	leastLinkBytes = 24
	spareLinks     = 256
)

// checkLinks refuses a node with too many links for its size.
func checkLinks(c cid.Cid, data []byte) error {
	bound, n := len(data)/leastLinkBytes+spareLinks, 0
	if len(data)/4 <= bound { // no link is shorter than 4 bytes
		return nil
	}
	// A block that does not decode has no links.
	_ = dag.OfCodec(c.Prefix().Codec, data, func(cid.Cid) error { n++; return nil })
	if n > bound {
		return fault(FaultManyLinks, c, n, len(data))
	}
	return nil
}

// verify hashes the pending blocks, SHA-256 ones in parallel lanes, and reports
// the first that does not match its CID.
func (s *scanner) verify() error {
	defer func() { s.pending = s.pending[:0] }()
	s.msgs = s.msgs[:0]
	for _, b := range s.pending {
		if b.c.Prefix().MhType == multihash.SHA2_256 {
			s.msgs = append(s.msgs, b.data)
		}
	}
	s.sums = slices.Grow(s.sums[:0], len(s.msgs))[:len(s.msgs)]
	sums := s.sums
	s.pool.Sum(sums, s.msgs)
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

// conclude makes the checks of an upload that need the whole file.
func (r *scanResult) conclude() error {
	switch {
	case r.blocks == 0:
		return fault(FaultEmpty)
	case r.facts.size == noRoot:
		return fault(FaultNoRoot)
	case int64(r.blocks) > r.size/leastLinkBytes+spareLinks:
		return fault(FaultManyBlocks, r.blocks, r.size)
	case r.facts.links && r.blocks < 2:
		return fault(FaultRootAlone)
	case r.facts.err != nil:
		return fault(FaultRoot, r.facts.err)
	}
	if r.root.Prefix().Codec == dag.Raw && r.blocks > 1 {
		r.facts.size = -1 // the original knows the size of a raw root only if it is the only block
	}
	return nil
}
