package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-varint"
)

// shard is a shard file that is in the database, or is about to be.
type shard struct {
	id      int64
	cid     cid.Cid
	payload int64   // where the CARv1 begins
	end     int64   // where it ends
	runs    []int64 // where runs of sections begin, except the first; nil if that is not known
}

// section is a block in a shard file.
type section struct {
	c     cid.Cid
	key   nodeKey
	first uint64 // firstOf the multihash
	off   int64  // of the payload in the file
	len   int
}

// firstOf returns the first eight bytes of a multihash.
func firstOf(mh string) uint64 {
	var p [8]byte
	copy(p[:], mh)
	return binary.BigEndian.Uint64(p[:])
}

// sections reads the framing of a shard file and skips the payloads.
type sections struct {
	f      io.ReaderAt // not used if window is the whole file
	off    int64
	end    int64
	window []byte
	base   int64 // offset of window in the file
	block  []byte
}

const windowBytes = 64 << 10

// newSections starts at the first block of the CARv1 in f.
func newSections(f io.ReaderAt, payload, end int64) (*sections, error) {
	s := &sections{f: f, off: payload, end: end, window: make([]byte, 0, windowBytes)}
	return s, s.skipHeader()
}

// sectionsOf is newSections for a file that is in memory.
func sectionsOf(file []byte, payload, end int64) (*sections, error) {
	s := &sections{off: payload, end: end, window: file[:end]}
	return s, s.skipHeader()
}

func (s *sections) skipHeader() error {
	p, err := s.peek(varint.MaxLenUvarint63)
	if err != nil {
		return err
	}
	n, size, err := varint.FromUvarint(p)
	if err != nil || n > uint64(s.end-s.off-int64(size)) {
		return fmt.Errorf("shard has no header: %w", errCutShard)
	}
	s.off += int64(size) + int64(n)
	return nil
}

var errCutShard = errors.New("shard is truncated or not a CAR")

// peek returns up to n bytes from the current offset.
func (s *sections) peek(n int) ([]byte, error) {
	n = int(min(int64(n), s.end-s.off))
	if at := s.off - s.base; at < 0 || at+int64(n) > int64(len(s.window)) {
		size := int(min(int64(cap(s.window)), s.end-s.off))
		s.window, s.base = s.window[:size], s.off
		if _, err := s.f.ReadAt(s.window, s.off); err != nil {
			s.window = s.window[:0]
			return nil, fmt.Errorf("read shard: %w", err)
		}
	}
	at := int(s.off - s.base)
	return s.window[at : at+n], nil
}

// frame returns the start of the next section, the length of the prefix before
// it, and its own length. The start has at least this many bytes, unless the
// file ends before.
func (s *sections) frame(least int) (section []byte, before, n int64, err error) {
	p, err := s.peek(varint.MaxLenUvarint63 + least)
	if err != nil {
		return nil, 0, 0, err
	}
	length, prefix, err := varint.FromUvarint(p)
	if err != nil || length == 0 || length > uint64(s.end-s.off-int64(prefix)) {
		return nil, 0, 0, fmt.Errorf("section at offset %d: %w", s.off, errCutShard)
	}
	return p[prefix:], int64(prefix), int64(length), nil
}

// next returns the next section, or io.EOF at the end.
func (s *sections) next() (section, error) {
	if s.off >= s.end {
		return section{}, io.EOF
	}
	p, before, n, err := s.frame(maxCIDBytes)
	if err != nil {
		return section{}, err
	}
	size, c, err := cid.CidFromBytes(p)
	if err != nil || int64(size) > n {
		return section{}, fmt.Errorf("section at offset %d: %w", s.off, errCutShard)
	}
	key := keyOf(c)
	sec := section{c: c, key: key, first: firstOf(key.mh), off: s.off + before + int64(size), len: int(n) - size}
	s.off += before + n
	return sec, nil
}

// data returns the payload of a section. It is valid until the next call.
func (s *sections) data(sec section) ([]byte, error) {
	if cap(s.block) < sec.len {
		s.block = make([]byte, sec.len)
	}
	p := s.block[:sec.len]
	if at := sec.off - s.base; at >= 0 && at+int64(sec.len) <= int64(len(s.window)) {
		copy(p, s.window[at:])
		return p, nil
	}
	if _, err := s.f.ReadAt(p, sec.off); err != nil {
		return nil, fmt.Errorf("read shard: %w", err)
	}
	return p, nil
}
