package store

import (
	"errors"
	"io"

	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/internal/sha256mb"
)

const (
	// MaxBlockBytes is the size of the largest block that is accepted.
	MaxBlockBytes = 2 << 20
	maxCIDBytes   = 4 << 10
	// scanBytes has room for four sections of 1 MiB, so that they can be hashed
	// in parallel lanes, and for the largest section that is allowed.
	scanBytes = 4<<20 + 256<<10
	// scanBufferBytes has room for scanBytes from any offset in a page.
	scanBufferBytes = scanBytes + durable.AlignBytes
	// scanHalfBytes has room for the largest section from any offset in a page.
	scanHalfBytes = scanBufferBytes / 2 &^ (durable.AlignBytes - 1)
)

// input reads a file once from beginning to end through one buffer. It hashes
// the file and passes it on.
type input struct {
	src    io.Reader
	sink   io.Writer    // gets the bytes as they are read; may be nil
	kept   keeper       // gets sections as they are found; may be nil
	moving func() error // called before bytes in the buffer are overwritten
	pool   *sha256mb.Pool

	digest     sha256mb.Digest // of the whole file
	hashing    *sha256mb.Write // adds the bytes read last to digest
	buf        []byte
	halves     bool // the header is done, and the halves of the buffer take turns
	from, to   int  // the part of the buffer that is being filled
	start, end int
	read       int64 // bytes of the file read so far
	ended      bool
}

// keeper gets the parts of a CAR, for stores that do not keep all of it.
type keeper interface {
	keep(off int64, p []byte) error
}

// fill makes room in the buffer, and reads until it is full or the file ends.
func (s *input) fill() error {
	if s.ended {
		return nil
	}
	// While one half waits for data from the client, the bytes of the other
	// half may still be being hashed, together with other uploads. Blocks stay
	// in the buffer until both halves are full, so that many are hashed at
	// once.
	switch {
	case s.halves && s.to == scanHalfBytes:
		s.from, s.to = scanHalfBytes, 2*scanHalfBytes
	case s.halves && s.from == scanHalfBytes:
		s.from, s.to = 0, scanHalfBytes
	default: // overwrites the bytes read last
		s.waitHashed()
		s.from, s.to = 0, len(s.buf)
		if s.halves {
			s.to = scanHalfBytes
		}
	}
	// Put each byte at the same offset within a page as in the file, so that it
	// can be written to the disk directly.
	at := s.from
	if len(s.buf) == scanBufferBytes {
		at += int(s.position() % durable.AlignBytes)
	}
	s.end = at + copy(s.buf[at:s.to], s.buf[s.start:s.end])
	s.start = at
	n, err := io.ReadFull(s.src, s.buf[s.end:s.to])
	fresh := s.buf[s.end : s.end+n]
	s.end += n
	s.read += int64(n)
	switch {
	case errors.Is(err, io.EOF), err == io.ErrUnexpectedEOF: // ReadFull returns the latter bare; a wrapped one is from the source
		s.ended = true
	case err != nil:
		if s.sink == nil {
			return err
		}
		_, failed := s.sink.Write(fresh) // whoever continues needs all bytes that came
		return errors.Join(err, failed)
	}
	// While the file is written and its blocks are hashed, these bytes are
	// hashed with them and with other uploads.
	s.waitHashed()
	s.hashing = s.pool.Start(&s.digest, fresh)
	if s.sink != nil {
		if _, err := s.sink.Write(fresh); err != nil {
			return err
		}
	}
	return nil
}

// waitHashed waits until everything that was read is in the digest. Until then
// the bytes must not change.
func (s *input) waitHashed() {
	if s.hashing != nil {
		s.hashing.Wait()
		s.hashing = nil
	}
}

// position returns the offset in the file up to which it has been parsed.
func (s *input) position() int64 { return s.read - int64(s.end-s.start) }

// drain reads what follows the CARv1. The index of a CARv2 matters only for the
// CID of the file.
func (s *input) drain() error {
	for s.start = s.end; !s.ended; s.start = s.end {
		if err := s.fill(); err != nil {
			return err
		}
	}
	return nil
}

// need makes n bytes available, or fewer at the end of the file.
func (s *input) need(n int) ([]byte, error) {
	if s.end-s.start < n && !s.ended {
		if s.to != scanHalfBytes {
			if err := s.moving(); err != nil {
				return nil, err
			}
		}
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
	return s.buf[s.start:s.end], nil
}

// advance skips p, the next bytes in the buffer.
func (s *input) advance(p []byte, keep bool) error {
	if keep && s.kept != nil {
		if err := s.kept.keep(s.position(), p); err != nil {
			return err
		}
	}
	s.start += len(p)
	return nil
}
