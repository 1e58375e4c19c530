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
	// scanBytes takes four sections of 1 MiB, so that their digests can share the
	// lanes, and the largest section that may come.
	scanBytes = 4<<20 + 256<<10
	// scanBufferBytes is that from any place in a page on.
	scanBufferBytes = scanBytes + durable.AlignBytes
	// scanHalfBytes takes the largest section, from any place in a page on.
	scanHalfBytes = scanBufferBytes / 2 &^ (durable.AlignBytes - 1)
)

// input reads a file once from its beginning to its end through one buffer,
// hashes it and passes it on.
type input struct {
	src    io.Reader
	sink   io.Writer    // gets each byte as it is read; may be nil
	kept   keeper       // gets sections as they are found; may be nil
	moving func() error // called before bytes are overwritten
	pool   *sha256mb.Pool

	digest     sha256mb.Digest // of the whole file
	hashing    *sha256mb.Write // of what was read last, into digest
	buf        []byte
	halves     bool // the header is through: the halves of the buffer take turns
	from, to   int  // the part of the buffer that is filled
	start, end int
	read       int64 // bytes of the file read so far
	ended      bool
}

// keeper gets what a CAR consists of, for stores that do not keep all of it.
type keeper interface {
	keep(off int64, p []byte) error
}

// fill makes room and reads until that is full or the file ends.
func (s *input) fill() error {
	if s.ended {
		return nil
	}
	// While one half waits for its client, what is in the other may be in a lane
	// still, as company for other uploads. Blocks stay where they are until both
	// halves are full, so that they are many when they are hashed.
	switch {
	case s.halves && s.to == scanHalfBytes:
		s.from, s.to = scanHalfBytes, 2*scanHalfBytes
	case s.halves && s.from == scanHalfBytes:
		s.from, s.to = 0, scanHalfBytes
	default: // bytes of what was read last are overwritten
		s.waitHashed()
		s.from, s.to = 0, len(s.buf)
		if s.halves {
			s.to = scanHalfBytes
		}
	}
	// What is read goes to the disk from where a byte's place in its page is
	// that in the file.
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
	case errors.Is(err, io.EOF), err == io.ErrUnexpectedEOF: // the latter of ReadFull; one that is wrapped is the source's
		s.ended = true
	case err != nil:
		if s.sink == nil {
			return err
		}
		_, failed := s.sink.Write(fresh) // whoever goes on has all that came
		return errors.Join(err, failed)
	}
	// The file is written and its blocks are hashed meanwhile: they and those of
	// other uploads are company in the lanes.
	s.waitHashed()
	s.hashing = s.pool.Start(&s.digest, fresh)
	if s.sink != nil {
		if _, err := s.sink.Write(fresh); err != nil {
			return err
		}
	}
	return nil
}

// waitHashed returns when all that was read is part of the digest. Before that
// the bytes must not change.
func (s *input) waitHashed() {
	if s.hashing != nil {
		s.hashing.Wait()
		s.hashing = nil
	}
}

// position is how far into the file parsing has come.
func (s *input) position() int64 { return s.read - int64(s.end-s.start) }

// drain reads what follows the CARv1: the index of a CARv2 counts for the CID
// of the file and for nothing else.
func (s *input) drain() error {
	for s.start = s.end; !s.ended; s.start = s.end {
		if err := s.fill(); err != nil {
			return err
		}
	}
	return nil
}

// need makes n bytes available, fewer only at the end of the file.
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

// advance goes past p, the next bytes of the buffer.
func (s *input) advance(p []byte, keep bool) error {
	if keep && s.kept != nil {
		if err := s.kept.keep(s.position(), p); err != nil {
			return err
		}
	}
	s.start += len(p)
	return nil
}
