package service

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-varint"

	"github.com/carload/carload/internal/durable"
)

// incoming is a shard file that is being received. Whoever makes one either
// publishes it or removes it.
type incoming struct {
	st   *store
	f    *os.File
	out  *durable.Writer // nil if nothing is written by Write
	done bool            // it has the name of a shard
}

func (st *store) newIncoming() (*incoming, error) {
	f, err := os.CreateTemp(filepath.Join(st.dir, incomingDir), "*.part")
	if err != nil {
		return nil, fmt.Errorf("receive shard: %w", err)
	}
	return &incoming{st: st, f: f}, nil
}

// Write appends to the file of a shard that is received.
func (in *incoming) Write(p []byte) (int, error) {
	n, err := in.out.Write(p)
	if err != nil {
		return n, fmt.Errorf("receive shard: %w", err)
	}
	return n, nil
}

// keep writes p where it belongs, and leaves holes for what is not kept.
func (in *incoming) keep(off int64, p []byte) error {
	if _, err := in.f.WriteAt(p, off); err != nil {
		return fmt.Errorf("receive shard: %w", err)
	}
	return nil
}

// receive checks the CAR that src yields while writing it to a file.
func (st *store) receive(ctx context.Context, src io.Reader, length int64) (_ *incoming, _ *scanResult, err error) {
	in, err := st.newIncoming()
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.remove())
		}
	}()
	var res *scanResult
	if st.discard {
		res, err = st.scan(ctx, src, length, nil, in)
	} else {
		in.out = durable.NewWriter(in.f)
		res, err = st.scan(ctx, src, length, in, nil)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := res.conclude(); err != nil {
		return nil, nil, err
	}
	return in, res, nil
}

// sync makes the bytes of the file durable.
func (in *incoming) sync(size int64) error {
	if in.st.discard {
		if err := in.f.Truncate(size); err != nil {
			return fmt.Errorf("receive shard: %w", err)
		}
	}
	flush := in.f.Sync
	if in.out != nil {
		flush = in.out.Sync
	}
	if err := flush(); err != nil {
		return fmt.Errorf("sync shard: %w", err)
	}
	return nil
}

// publish gives the synced file its name. The caller holds st.commit.
func (in *incoming) publish(c cid.Cid) error {
	path := in.st.shardPath(c)
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o700); err == nil {
		if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("publish shard: %w", err)
	}
	if err := os.Rename(in.f.Name(), path); err != nil {
		return fmt.Errorf("publish shard: %w", err)
	}
	in.done = true
	return durable.SyncDir(dir)
}

// remove closes the file, and removes it unless it was published. It may be
// called again.
func (in *incoming) remove() error {
	if in.f == nil {
		return nil
	}
	f := in.f
	in.f = nil
	err := f.Close()
	if !in.done {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// shard is a shard file that the database knows or is about to.
type shard struct {
	id      int64
	cid     cid.Cid
	payload int64 // where the CARv1 begins
	end     int64 // and ends
}

// section is a block within a shard file.
type section struct {
	c   cid.Cid
	off int64 // of the payload, in the file
	len int
}

// sections reads the framing of a shard file and goes past the payloads.
type sections struct {
	f      io.ReaderAt
	off    int64
	end    int64
	window []byte
	base   int64 // offset of window in the file
	block  []byte
}

const windowBytes = 64 << 10

// newSections begins at the first block of the CARv1 in f.
func newSections(f io.ReaderAt, payload, end int64) (*sections, error) {
	s := &sections{f: f, off: payload, end: end, window: make([]byte, 0, windowBytes)}
	p, err := s.peek(varint.MaxLenUvarint63)
	if err != nil {
		return nil, err
	}
	n, size, err := varint.FromUvarint(p)
	if err != nil || n > uint64(end-payload-int64(size)) {
		return nil, fmt.Errorf("shard has no header: %w", errCutShard)
	}
	s.off += int64(size) + int64(n)
	return s, nil
}

var errCutShard = errors.New("shard is cut or not a CAR")

// peek returns up to n bytes from the current offset on.
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

// next returns the next section, or io.EOF.
func (s *sections) next() (section, error) {
	if s.off >= s.end {
		return section{}, io.EOF
	}
	p, err := s.peek(varint.MaxLenUvarint63 + maxCIDBytes)
	if err != nil {
		return section{}, err
	}
	n, prefix, err := varint.FromUvarint(p)
	if err != nil || n == 0 || n > uint64(s.end-s.off-int64(prefix)) {
		return section{}, fmt.Errorf("section at offset %d: %w", s.off, errCutShard)
	}
	size, c, err := cid.CidFromBytes(p[prefix:])
	if err != nil || uint64(size) > n {
		return section{}, fmt.Errorf("section at offset %d: %w", s.off, errCutShard)
	}
	sec := section{c: c, off: s.off + int64(prefix+size), len: int(n) - size}
	s.off += int64(prefix) + int64(n)
	return sec, nil
}

// data returns the payload of a section, valid until the next call.
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

// querier is what *sql.DB and *sql.Tx have in common.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// removeShard takes a shard file away. The caller holds st.commit.
func (st *store) removeShard(c cid.Cid) error {
	path := st.shardPath(c)
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove shard: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}
