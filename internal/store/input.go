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
)

// input reads a file once from its beginning to its end through one buffer,
// hashes it and passes it on.
type input struct {
	src    io.Reader
	sink   io.Writer // gets each byte as it is read; may be nil
	kept   keeper    // gets sections as they are found; may be nil
	moving func() error
	pool   *sha256mb.Pool

	digest     sha256mb.Digest // of the whole file
	buf        []byte
	start, end int
	read       int64 // bytes of the file read so far
	ended      bool
}

// keeper gets what a CAR consists of, for stores that do not keep all of it.
type keeper interface {
	keep(off int64, p []byte) error
}

// fill makes room and reads until the buffer is full or the file ends.
func (s *input) fill() error {
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
	case errors.Is(err, io.EOF), err == io.ErrUnexpectedEOF: // the latter of ReadFull; one that is wrapped is the source's
		s.ended = true
	case err != nil:
		if s.sink == nil {
			return err
		}
		_, failed := s.sink.Write(fresh) // whoever goes on has all that came
		return errors.Join(err, failed)
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
		if err := s.moving(); err != nil {
			return nil, err
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
