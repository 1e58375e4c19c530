package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/carload/carload/car/piece"
	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/internal/sha256mb"
)

// DefaultBufferBytes allows 30 large shards to be received at a time.
const DefaultBufferBytes = 128 << 20

// Options configure [Open]. Only Dir is required.
type Options struct {
	Dir string

	// Discard checks shards and tracks which DAGs are complete, but does not
	// keep the payloads of leaves. It is for load tests: such a store cannot
	// serve what was uploaded. Once a store has shards, it must always be
	// opened in the same way.
	Discard bool

	// BufferBytes limits the memory for checking incoming shards; 0 means
	// DefaultBufferBytes. A large shard takes 4.25 MiB while it comes in fast.
	// A shard that comes in slowly, or for which there is no buffer, takes 64
	// KiB, and a buffer for a short time at its end.
	BufferBytes int64

	Logger *slog.Logger // nil discards the log
}

// Store is a directory of shard files, with an index of what is in them. It is
// safe for concurrent use.
type Store struct {
	files   files
	journal *journal // nil if the store has no journal
	db      database
	discard bool // don't keep the payloads of leaves
	log     *slog.Logger
	lock    *os.File
	salt    []byte // for signing tokens
	hash    sha256mb.Pool
	pieces  piece.Pool
	piecing *semaphore.Weighted // held while a piece is computed
	callers callers
	buffers sync.Pool           // *[]byte of scanBufferBytes
	memory  *semaphore.Weighted // bytes of buffers in use
	fast    *semaphore.Weighted // the part of memory that is used while bytes come in

	// commit is held for reading while a shard file is renamed and recorded in
	// the database, and for writing while files are removed. So with the write
	// lock held, nobody is about to record a file that has no row.
	commit    sync.RWMutex
	accepting named // one accept at a time for each shard
	turns     turns

	collecting sync.Mutex    // one collection at a time
	crowded    chan struct{} // signals that a quota waits for a collection

	mu     sync.RWMutex // held for reading while the store is changed
	closed bool         // guarded by mu

	clockMu sync.Mutex
	last    int64 // guarded by clockMu
}

func newStore(opts Options) *Store {
	if opts.BufferBytes == 0 {
		opts.BufferBytes = DefaultBufferBytes
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	st := &Store{
		files: files{opts.Dir, new(openFiles), new(folders)}, discard: opts.Discard, log: opts.Logger,
		memory:  semaphore.NewWeighted(max(opts.BufferBytes, scanBufferBytes)),
		fast:    semaphore.NewWeighted(opts.BufferBytes / 4 * 3),
		piecing: semaphore.NewWeighted(1),
		turns:   defaultTurns, crowded: make(chan struct{}, 1),
	}
	st.buffers.New = func() any { b := make([]byte, scanBufferBytes); return &b }
	return st
}

// open opens the store in an existing directory. Rebuild says that the index is
// about to be rebuilt.
func open(ctx context.Context, opts Options, rebuild bool) (_ *Store, err error) {
	st := newStore(opts)
	if st.lock, err = lockDir(opts.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.Close())
		}
	}()
	if err := st.files.prepare(); err != nil {
		return nil, err
	}
	path := filepath.Join(opts.Dir, databaseName)
	if st.db, err = openDatabase(ctx, path); err != nil {
		return nil, err
	}
	if !opts.Discard {
		st.journal = &journal{files: st.files, log: st.log}
		st.db.write.before = st.journal.sync
	}
	if st.salt, err = (opening{opts.Discard, rebuild}).migrate(ctx, &st.db, st.files); err != nil {
		return nil, fmt.Errorf("open store %s: %w", opts.Dir, err)
	}
	if err := st.db.openReaders(path); err != nil {
		return nil, err
	}
	return st, durable.SyncDir(opts.Dir)
}

// Close waits for changes under way, and closes the store. It may be called
// more than once.
func (st *Store) Close() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		return nil
	}
	st.closed = true
	err := errors.Join(st.db.close(), st.journal.close(), st.files.open.close())
	if st.lock != nil {
		err = errors.Join(err, st.lock.Close())
	}
	return err
}

// change keeps the store from being closed during a change. The caller calls
// done.
func (st *Store) change() (done func(), err error) {
	st.mu.RLock()
	if st.closed {
		st.mu.RUnlock()
		return nil, ErrClosed
	}
	if st.db.write == nil {
		st.mu.RUnlock()
		return nil, ErrReadOnly
	}
	return st.mu.RUnlock, nil
}

// Ping reports whether the index answers.
func (st *Store) Ping(ctx context.Context) error { return st.db.read.PingContext(ctx) }

// bufferNow is buffer for a stream that may be slow. It does not wait for
// memory, and leaves some for streams that have been received completely.
func (st *Store) bufferNow(length int64) (buf []byte, release func(), ok bool) {
	size := bufferSize(length)
	if !st.fast.TryAcquire(size) {
		return nil, nil, false
	}
	if !st.memory.TryAcquire(size) {
		st.fast.Release(size)
		return nil, nil, false
	}
	buf, give := st.take(size)
	return buf, func() { give(); st.fast.Release(size) }, true
}

// bufferSize returns the size of a buffer for a stream of this length, or -1 if
// the length is unknown.
func bufferSize(length int64) int64 {
	if length >= 0 && length+1 < scanBufferBytes/4 {
		return length + 1
	}
	return scanBufferBytes
}

// buffer waits for memory, and returns a buffer for reading a stream of this
// length, or -1 if the length is unknown. The caller calls release.
func (st *Store) buffer(ctx context.Context, length int64) (buf []byte, release func(), err error) {
	size := bufferSize(length)
	if err := st.memory.Acquire(ctx, size); err != nil {
		return nil, nil, fmt.Errorf("wait for memory: %w", err)
	}
	buf, release = st.take(size)
	return buf, release, nil
}

// take makes a buffer whose memory has been acquired.
func (st *Store) take(size int64) (buf []byte, release func()) {
	if size < scanBufferBytes {
		return make([]byte, size), func() { st.memory.Release(size) }
	}
	p := st.buffers.Get().(*[]byte)
	return *p, func() { st.buffers.Put(p); st.memory.Release(size) }
}

// now returns the time in microseconds, but always later than in earlier calls.
// So times order events totally, and paging by time misses nothing.
func (st *Store) now() int64 {
	st.clockMu.Lock()
	defer st.clockMu.Unlock()
	st.last = max(time.Now().UnixMicro(), st.last+1)
	return st.last
}
