package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/durable"
)

// Incoming is a shard that was received and checked, but is not part of the
// store yet. [Store.Accept] makes it so. Whoever gets an Incoming must close
// it.
type Incoming struct {
	Root    cid.Cid
	Bytes   int64  // size of the file
	DAGSize int64  // size of everything below the root, as the root claims it; -1 if unknown
	Upload  Upload // that Accept made it part of
	shard   shard

	st      *Store
	f       *os.File        // nil if small is all there is
	out     *durable.Writer // nil if Write is not used
	written int64           // bytes written to it
	small   []byte          // the bytes of a small shard, for the journal; its file is not synced
	release func()          // gives back the memory of small; may be nil
	done    bool            // the file has the name of the shard
}

// Receive reads a CAR from src, checks it, and writes it to a file. Length is
// the CAR's length, or -1 if unknown. If the CAR is wrong, the error is a
// [CARError]. Errors of src are returned unchanged. Src must not return a bare
// [io.EOF] or [io.ErrUnexpectedEOF] unless the CAR ends there.
func (st *Store) Receive(ctx context.Context, src io.Reader, length int64) (_ *Incoming, err error) {
	if st.db.write == nil {
		return nil, ErrReadOnly
	}
	in := &Incoming{st: st}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.Close())
		}
	}()
	var res *scanResult
	switch {
	case 0 <= length && length <= slowBytes && st.journal.room(length):
		res, err = st.receiveSmall(in, src, length)
	case st.discard:
		res, err = st.receiveFrame(ctx, in, src, length)
	default:
		res, err = st.receive(ctx, in, src, length)
	}
	if err != nil {
		return nil, err
	}
	if err := res.conclude(); err != nil {
		return nil, err
	}
	in.Root, in.Bytes, in.DAGSize = res.root, res.size, res.facts.size
	in.shard = shard{cid: res.cid, payload: res.payload, end: res.payloadEnd, runs: res.runs}
	return in, in.secure()
}

// receiveSmall reads a small CAR into memory, which takes no more of it than a
// slow upload does.
func (st *Store) receiveSmall(in *Incoming, src io.Reader, length int64) (*scanResult, error) {
	buf := make([]byte, length+1)
	res, err := st.scan(src, buf, nil, nil)
	if err != nil {
		return nil, err
	}
	if res.size > length {
		return nil, fmt.Errorf("receive shard: it is longer than the %d bytes announced", length)
	}
	in.small = buf[:res.size]
	return res, nil
}

// receiveFrame checks a CAR as it comes in, and keeps everything but the
// payloads.
func (st *Store) receiveFrame(ctx context.Context, in *Incoming, src io.Reader, length int64) (*scanResult, error) {
	buf, release, err := st.buffer(ctx, length)
	if err != nil {
		return nil, err
	}
	defer release()
	if in.f, err = st.files.create(); err != nil {
		return nil, err
	}
	return st.scan(src, buf, nil, in)
}

// receive writes a CAR to the file and checks it. A CAR that comes in fast is
// checked at the same time. If it is slow, or if other uploads are using all
// the buffers, the whole CAR is written first and checked afterwards. So no
// upload holds a buffer while it waits for its client, or waits for a buffer
// while its client is sending.
func (st *Store) receive(ctx context.Context, in *Incoming, src io.Reader, length int64) (*scanResult, error) {
	f, err := st.files.create()
	if err != nil {
		return nil, err
	}
	in.f, in.out = f, durable.NewWriter(f)
	buf, release, ok := st.bufferNow(length)
	if ok {
		res, err := st.scan(&fastOnly{src: src}, buf, in, nil)
		if err == nil && len(buf) < scanBufferBytes && st.journal.room(res.size) && res.size < int64(len(buf)) {
			in.small, in.release = buf[:res.size], release
			return res, nil
		}
		release()
		if !errors.Is(err, errSlow) {
			return res, err
		}
	}
	if _, err := io.CopyBuffer(writerOnly{in}, readerOnly{src}, make([]byte, slowBytes)); err != nil {
		return nil, err
	}
	if err := in.sync(); err != nil { // read back below, so it must be written
		return nil, err
	}
	in.out = nil
	if buf, release, err = st.buffer(ctx, in.written); err != nil {
		return nil, err
	}
	defer release()
	return st.scan(io.NewSectionReader(in.f, 0, in.written), buf, nil, nil)
}

// slowBytes is the buffer of a slow upload.
const slowBytes = 64 << 10

// An upload slower than this may not keep a large buffer.
const (
	fastBytes = 8 << 20 // per fastTime
	fastTime  = time.Second
)

// errSlow ends the scan of a CAR that comes in too slowly.
var errSlow = errors.New("the shard comes in too slowly to be checked on the way")

// fastOnly reads from src as long as src is fast.
type fastOnly struct {
	src   io.Reader
	since time.Time
	bytes int64
}

// Read implements io.Reader.
func (r *fastOnly) Read(p []byte) (int, error) {
	switch spent := time.Since(r.since); {
	case r.since.IsZero():
		r.since = time.Now()
	case spent > fastTime && r.bytes < fastBytes:
		return 0, errSlow
	case spent > fastTime:
		r.since, r.bytes = time.Now(), 0
	}
	n, err := r.src.Read(p)
	r.bytes += int64(n)
	return n, err
}

// readerOnly and writerOnly hide other methods, so that io.Copy uses its
// buffer.
type (
	readerOnly struct{ io.Reader }
	writerOnly struct{ io.Writer }
)

// Write appends to the file of the shard being received.
func (in *Incoming) Write(p []byte) (int, error) {
	n, err := in.out.Write(p)
	in.written += int64(n)
	if err != nil {
		return n, fmt.Errorf("receive shard: %w", err)
	}
	return n, nil
}

// keep writes p at its place in the file. The parts that are not kept become
// holes.
func (in *Incoming) keep(off int64, p []byte) error {
	if _, err := in.f.WriteAt(p, off); err != nil {
		return fmt.Errorf("receive shard: %w", err)
	}
	return nil
}

// secure makes the file durable, or reads its bytes back for the journal.
func (in *Incoming) secure() error {
	if !in.st.journal.room(in.Bytes) {
		if err := in.spill(); err != nil {
			return err
		}
		return in.sync()
	}
	if in.small != nil {
		return nil
	}
	// A file this short went through the page cache, so it can be read before a
	// sync.
	in.small = make([]byte, in.Bytes)
	if _, err := in.f.ReadAt(in.small, 0); err != nil {
		return fmt.Errorf("read back shard: %w", err)
	}
	return nil
}

// spill makes sure that a small shard is in a file, because the journal is full.
func (in *Incoming) spill() (err error) {
	small := in.small
	if in.small = nil; small == nil || in.f != nil {
		return nil
	}
	if in.f, err = in.st.files.create(); err != nil {
		return err
	}
	if _, err := in.f.Write(small); err != nil {
		return fmt.Errorf("receive shard: %w", err)
	}
	return nil
}

// sync makes the bytes of the file durable.
func (in *Incoming) sync() error {
	if in.st.discard {
		if err := in.f.Truncate(in.Bytes); err != nil {
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

// publish gives the file the shard's name. The caller holds commit.
func (in *Incoming) publish() (err error) {
	if in.f == nil {
		in.done, err = in.st.files.put(in.shard.cid, in.small)
		return err
	}
	if in.small != nil && in.st.files.has(in.shard.cid, in.small) {
		return nil // the existing file may be durable; this one is not
	}
	in.done, err = in.st.files.publish(in.f.Name(), in.shard.cid, in.small == nil)
	return err
}

// Close closes the file, and removes it unless it became part of the store. It
// may be called more than once.
func (in *Incoming) Close() error {
	if in.release != nil {
		in.release()
		in.release = nil
	}
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
