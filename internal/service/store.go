package service

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/semaphore"

	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/internal/sha256mb"
)

// store is the directory: shard files, and the database that says what is in
// them. Methods are safe for concurrent use.
type store struct {
	dir     string
	discard bool // leave out the payloads of leaves
	lock    *os.File
	read    *sql.DB
	write   *sql.DB // one connection
	salt    []byte
	hash    sha256mb.Pool
	buffers sync.Pool           // *[]byte of scanBufferBytes
	memory  *semaphore.Weighted // bytes of buffers in use

	// commit is held while a shard file is put in its place and made known to
	// the database, and while files are taken away. So a file that no row
	// names is one that nobody is about to name.
	commit sync.Mutex

	clockMu sync.Mutex
	last    int64 // guarded by clockMu
}

const (
	databaseName = "index.db"
	shardsDir    = "shards"
	incomingDir  = "incoming"
)

// openStore opens or creates the store and takes away what an earlier process
// left unfinished.
func openStore(ctx context.Context, dir string, discard bool, memory int64) (*store, error) {
	for _, d := range []string{dir, filepath.Join(dir, shardsDir), filepath.Join(dir, incomingDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("create store: %w", err)
		}
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	st := newStore(dir, discard, memory, lock)
	if err := st.open(ctx); err != nil {
		return nil, errors.Join(err, st.close())
	}
	return st, nil
}

func newStore(dir string, discard bool, memory int64, lock *os.File) *store {
	st := &store{dir: dir, discard: discard, lock: lock, memory: semaphore.NewWeighted(max(memory, scanBufferBytes))}
	st.buffers.New = func() any { b := make([]byte, scanBufferBytes); return &b }
	return st
}

func (st *store) open(ctx context.Context) error {
	path := filepath.Join(st.dir, databaseName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if left, err := st.hasShards(); err != nil {
			return err
		} else if left {
			return fmt.Errorf("open store %s: %w", st.dir, ErrIndexMissing)
		}
	}
	return st.openDatabase(ctx)
}

func (st *store) openDatabase(ctx context.Context) error {
	if err := st.clearIncoming(); err != nil {
		return err
	}
	path := filepath.Join(st.dir, databaseName)
	var err error
	if st.write, err = sql.Open("sqlite", dsn(path, "_txlock=immediate", "_pragma=cache_size(-16384)")); err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	st.write.SetMaxOpenConns(1)
	if err := st.migrate(ctx); err != nil {
		return err
	}
	if st.read, err = sql.Open("sqlite", dsn(path, "_pragma=query_only(1)")); err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	st.read.SetMaxOpenConns(8)
	st.read.SetMaxIdleConns(8)
	if err := durable.SyncDir(st.dir); err != nil {
		return err
	}
	return nil
}

func dsn(path string, params ...string) string {
	u := url.URL{Scheme: "file", Path: path}
	params = append([]string{
		"_pragma=busy_timeout(30000)",
		"_pragma=journal_mode(WAL)",
		"_pragma=synchronous(FULL)",
		"_pragma=foreign_keys(1)",
		"_pragma=journal_size_limit(67108864)",
		"_pragma=wal_autocheckpoint(4000)",
	}, params...)
	return "file:" + u.EscapedPath() + "?" + strings.Join(params, "&")
}

// migrate makes the tables of a new database.
func (st *store) migrate(ctx context.Context) error {
	return st.update(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
			return fmt.Errorf("read version of index: %w", err)
		}
		switch version {
		case schemaVersion:
			return tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = 'salt'`).Scan(&st.salt)
		case 0:
		default:
			return fmt.Errorf("the index has version %d, this program knows version %d", version, schemaVersion)
		}
		if _, err := tx.ExecContext(ctx, schema); err != nil {
			return fmt.Errorf("create index: %w", err)
		}
		st.salt = make([]byte, 32)
		if _, err := rand.Read(st.salt); err != nil {
			return fmt.Errorf("make salt: %w", err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO settings VALUES ('salt', ?)`, st.salt); err != nil {
			return fmt.Errorf("keep salt: %w", err)
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, schemaVersion))
		return err
	})
}

// buffer returns a buffer for reading a stream of this many bytes, -1 if that
// is unknown, when there is memory for it. The caller calls release.
func (st *store) buffer(ctx context.Context, length int64) (buf []byte, release func(), err error) {
	size := int64(scanBufferBytes)
	if length >= 0 && length+1 < size/4 {
		size = length + 1
	}
	if err := st.memory.Acquire(ctx, size); err != nil {
		return nil, nil, fmt.Errorf("wait for memory: %w", err)
	}
	if size < scanBufferBytes {
		return make([]byte, size), func() { st.memory.Release(size) }, nil
	}
	p := st.buffers.Get().(*[]byte)
	return *p, func() { st.buffers.Put(p); st.memory.Release(size) }, nil
}

// update runs f in the one transaction that may write.
func (st *store) update(ctx context.Context, f func(*sql.Tx) error) (err error) {
	tx, err := st.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	defer func() {
		if err != nil {
			if undo := tx.Rollback(); undo != nil && !errors.Is(undo, sql.ErrTxDone) {
				err = errors.Join(err, undo)
			}
		}
	}()
	if err := f(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}

func (st *store) close() error {
	var errs []error
	if st.read != nil {
		errs = append(errs, st.read.Close())
	}
	if st.write != nil {
		errs = append(errs, st.write.Close())
	}
	if st.lock != nil {
		errs = append(errs, st.lock.Close())
	}
	return errors.Join(errs...)
}

// now is the time in microseconds, later than all it returned before. So an
// order by time is total, and paging by time misses nothing.
func (st *store) now() int64 {
	st.clockMu.Lock()
	defer st.clockMu.Unlock()
	st.last = max(time.Now().UnixMicro(), st.last+1)
	return st.last
}

// timestamp is a time as the original's database wrote it.
func timestamp(micro int64) string {
	return time.UnixMicro(micro).UTC().Format("2006-01-02T15:04:05.000000+00:00")
}

func (st *store) shardPath(c cid.Cid) string {
	name := c.String()
	return filepath.Join(st.dir, shardsDir, name[len(name)-2:], name+".car")
}

func (st *store) hasShards() (bool, error) {
	found := false
	err := st.eachShardFile(func(cid.Cid, string) error {
		found = true
		return fs.SkipAll
	})
	return found, err
}

// eachShardFile calls f for each file that is named like a shard.
func (st *store) eachShardFile(f func(c cid.Cid, path string) error) error {
	err := filepath.WalkDir(filepath.Join(st.dir, shardsDir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, isCAR := strings.CutSuffix(d.Name(), ".car")
		if !d.Type().IsRegular() || !isCAR {
			return nil
		}
		c, err := cid.Decode(name)
		if err != nil || st.shardPath(c) != path {
			return nil //nolint:nilerr // not one of ours
		}
		return f(c, path)
	})
	if err != nil {
		return fmt.Errorf("list shards: %w", err)
	}
	return nil
}

// clearIncoming removes what was being received when a process ended.
func (st *store) clearIncoming() error {
	dir := filepath.Join(st.dir, incomingDir)
	left, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list incoming: %w", err)
	}
	for _, e := range left {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("clear incoming: %w", err)
		}
	}
	return nil
}
