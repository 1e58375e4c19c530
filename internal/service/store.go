package service

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
	log     *slog.Logger
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
func openStore(ctx context.Context, opts Options) (*store, error) {
	for _, d := range []string{opts.Dir, filepath.Join(opts.Dir, shardsDir), filepath.Join(opts.Dir, incomingDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("create store: %w", err)
		}
	}
	lock, err := lockDir(opts.Dir)
	if err != nil {
		return nil, err
	}
	st := newStore(opts, lock)
	if err := st.open(ctx, false); err != nil {
		return nil, errors.Join(err, st.close())
	}
	return st, nil
}

func newStore(opts Options, lock *os.File) *store {
	st := &store{
		dir: opts.Dir, discard: opts.Discard, log: opts.Logger, lock: lock,
		memory: semaphore.NewWeighted(max(opts.BufferBytes, scanBufferBytes)),
	}
	st.buffers.New = func() any { b := make([]byte, scanBufferBytes); return &b }
	return st
}

// open opens the index or makes a new one; rebuild says that it is about to be
// made anew from the shards.
func (st *store) open(ctx context.Context, rebuild bool) error {
	if err := st.clearIncoming(); err != nil {
		return err
	}
	path := filepath.Join(st.dir, databaseName)
	var err error
	if st.write, err = sql.Open("sqlite", dsn(path, "_txlock=immediate", "_pragma=cache_size(-16384)")); err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	st.write.SetMaxOpenConns(1)
	if err := st.migrate(ctx, rebuild); err != nil {
		return fmt.Errorf("open store %s: %w", st.dir, err)
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

// migrate makes the tables of a new database, and sees whether an old one may
// be used.
func (st *store) migrate(ctx context.Context, rebuild bool) error {
	return st.update(ctx, func(tx *sql.Tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
			return fmt.Errorf("read version of index: %w", err)
		}
		switch version {
		case schemaVersion:
		case 1:
			if _, err := tx.ExecContext(ctx, fromVersion1); err != nil {
				return fmt.Errorf("bring index to version %d: %w", schemaVersion, err)
			}
		case 0:
			// The database may be there without tables: making it was
			// interrupted.
			if left, err := st.hasShards(); err != nil {
				return err
			} else if left && !rebuild {
				return ErrIndexMissing
			}
			if err := createIndex(ctx, tx); err != nil {
				return fmt.Errorf("create index: %w", err)
			}
		default:
			return fmt.Errorf("the index has version %d, this program knows version %d", version, schemaVersion)
		}
		if err := tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = 'salt'`).Scan(&st.salt); err != nil {
			return fmt.Errorf("read salt: %w", err)
		}
		return st.admit(ctx, tx, rebuild)
	})
}

func createIndex(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return err
	}
	salt := make([]byte, 32)
	if _, err := rand.Read(salt); err != nil {
		return fmt.Errorf("make salt: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO settings VALUES ('salt', ?)`, salt); err != nil {
		return fmt.Errorf("keep salt: %w", err)
	}
	_, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, schemaVersion))
	return err
}

// The settings that are there or not. A store that discards must not be taken
// for one that keeps payloads, and an index that is being rebuilt not for a
// whole one.
const (
	settingDiscard    = "discard"
	settingRebuilding = "rebuilding"
)

// admit compares what the store is with what it is opened for. A store that
// has no shards yet becomes what it is opened as.
func (st *store) admit(ctx context.Context, tx *sql.Tx, rebuild bool) error {
	var discards, rebuilding, empty bool
	const has = `EXISTS (SELECT 1 FROM settings WHERE name = ?)`
	err := tx.QueryRowContext(ctx, `SELECT `+has+`, `+has+`, NOT EXISTS (SELECT 1 FROM shards)`, settingDiscard, settingRebuilding).
		Scan(&discards, &rebuilding, &empty)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	switch {
	case discards && rebuild:
		return ErrDiscards
	case rebuild:
		return set(ctx, tx, settingRebuilding)
	case rebuilding:
		return ErrRebuilding
	case discards == st.discard:
		return nil
	case empty && st.discard:
		return set(ctx, tx, settingDiscard)
	case empty:
		return unset(ctx, tx, settingDiscard)
	case discards:
		return ErrDiscards
	}
	return ErrKeeps
}

func set(ctx context.Context, tx *sql.Tx, name string) error {
	if _, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO settings VALUES (?, x'')`, name); err != nil {
		return fmt.Errorf("write setting %s: %w", name, err)
	}
	return nil
}

func unset(ctx context.Context, tx *sql.Tx, name string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM settings WHERE name = ?`, name); err != nil {
		return fmt.Errorf("remove setting %s: %w", name, err)
	}
	return nil
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
