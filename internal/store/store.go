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

// DefaultBufferBytes lets 30 large shards be received at a time.
const DefaultBufferBytes = 128 << 20

// Options are the knobs of [Open]. Only Dir has to be set.
type Options struct {
	Dir string

	// Discard checks shards and keeps track of what is complete, but leaves
	// out the payloads of leaves. It is for load tests: such a store cannot
	// give back what was uploaded. A store that has shards is opened only as
	// what it is.
	Discard bool

	// BufferBytes bounds the memory that is used together to check what is
	// received; 0 means DefaultBufferBytes. A large shard takes 4.25 MiB while it
	// comes in fast. Shards that come in slowly, or are too many for that, take
	// 64 KiB, and some memory for a moment when all of them is there.
	BufferBytes int64

	Logger *slog.Logger // nil means none
}

// Store is a directory: shard files, and the index that says what is in them.
// Methods are safe for concurrent use.
type Store struct {
	files   files
	journal *journal // nil if no shard goes there
	db      database
	discard bool // leave out the payloads of leaves
	log     *slog.Logger
	lock    *os.File
	salt    []byte // of tokens
	hash    sha256mb.Pool
	pieces  piece.Pool
	piecing *semaphore.Weighted // who computes a piece
	buffers sync.Pool           // *[]byte of scanBufferBytes
	memory  *semaphore.Weighted // bytes of buffers in use
	fast    *semaphore.Weighted // those of them that are held while bytes come in

	// commit is held for reading while a shard file is put in its place and made
	// known to the database, and for writing while files are taken away. So a file
	// that no row names is one that nobody is about to name.
	commit    sync.RWMutex
	accepting named // one at a time of each shard
	turns     turns

	collecting sync.Mutex    // one collection at a time
	crowded    chan struct{} // somebody waits for one

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

// open opens the store in a directory that is there; rebuild says that the index
// is about to be made anew.
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

// Close waits for those who are changing the store, and closes it. It may be
// called again.
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

// change says that the store is about to be changed, so that it is not closed
// meanwhile. The caller calls done.
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

// bufferNow is buffer for a stream that may be waited for. It takes what memory
// there is now, and leaves some for streams that are there already.
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

// bufferSize is how large a buffer is for a stream of this many bytes, -1 if that
// is unknown.
func bufferSize(length int64) int64 {
	if length >= 0 && length+1 < scanBufferBytes/4 {
		return length + 1
	}
	return scanBufferBytes
}

// buffer returns a buffer for reading a stream of this many bytes, -1 if that
// is unknown, when there is memory for it. The caller calls release.
func (st *Store) buffer(ctx context.Context, length int64) (buf []byte, release func(), err error) {
	size := bufferSize(length)
	if err := st.memory.Acquire(ctx, size); err != nil {
		return nil, nil, fmt.Errorf("wait for memory: %w", err)
	}
	buf, release = st.take(size)
	return buf, release, nil
}

// take makes a buffer whose memory is counted already.
func (st *Store) take(size int64) (buf []byte, release func()) {
	if size < scanBufferBytes {
		return make([]byte, size), func() { st.memory.Release(size) }
	}
	p := st.buffers.Get().(*[]byte)
	return *p, func() { st.buffers.Put(p); st.memory.Release(size) }
}

// now is the time in microseconds, later than all it returned before. So an
// order by time is total, and paging by time misses nothing.
func (st *Store) now() int64 {
	st.clockMu.Lock()
	defer st.clockMu.Unlock()
	st.last = max(time.Now().UnixMicro(), st.last+1)
	return st.last
}
