package sqliteledger

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/internal/sqlite"
	"github.com/carload/carload/uploader"
)

// kind is what a file is.
type kind int

const (
	other kind = iota
	ledger
	bolt
)

const (
	sqliteMagic = "SQLite format 3\x00"
	pageBytes   = 4096 // SQLite's default, in which a ledger is made

	// Places in the header of a database.
	headerBytes = 100
	pageCountAt = 28
	freeListAt  = 32
	appIDAt     = 68
)

// kindOf looks at the beginning of a file. One that only looks like a ledger
// behind its first page is a ledger, too: it is damaged.
func kindOf(path string) (kind, error) {
	f, err := os.Open(path)
	if err != nil {
		return other, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return other, err
	}
	p := make([]byte, maxBoltPage+boltHead)
	n, err := io.ReadFull(f, p)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return other, err
	}
	switch p = p[:n]; {
	case n >= headerBytes && string(p[:len(sqliteMagic)]) == sqliteMagic && binary.BigEndian.Uint32(p[appIDAt:]) == applicationID:
		return ledger, nil
	case isBolt(p):
		return bolt, nil
	case n > pageBytes && info.Size()%pageBytes == 0 && (p[pageBytes] == indexLeaf || p[pageBytes] == indexInner):
		return ledger, nil
	}
	return other, nil
}

// The first bytes of pages of tables without row numbers.
const (
	indexInner = 0x02
	indexLeaf  = 0x0a
)

// IsLedger tells whether a file is a ledger, of this version of carload or
// another, even if it is damaged.
func IsLedger(path string) (bool, error) {
	k, err := kindOf(path)
	return k == ledger || k == bolt, err
}

// openLock opens a file that is there to be locked.
func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
}

// settle sees to it that there is a file at path, makes a new ledger if there
// is none, and leaves the lock shared.
func settle(ctx context.Context, path string, l *os.File) error {
	for {
		if ok, err := lock(ctx, l, false); err != nil || !ok {
			return errors.Join(err, unless(ok))
		}
		info, err := os.Stat(path)
		switch {
		case err == nil && info.Size() < pageBytes:
			return damaged("the file has %d bytes", info.Size()) // SQLite would take it for a new one
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if ok, err := lock(ctx, l, true); err != nil || !ok {
			return errors.Join(err, unless(ok))
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			if err := create(ctx, path); err != nil {
				return err
			}
		}
	}
}

// settleOld carries over what an earlier carload has left at path, and leaves
// the lock shared.
func settleOld(ctx context.Context, path string, l *os.File) error {
	if ok, err := lock(ctx, l, true); err != nil || !ok {
		return errors.Join(err, unless(ok))
	}
	k, err := kindOf(path)
	if err == nil && k == bolt {
		_, err = carryOver(ctx, path, false)
	}
	if err != nil {
		return err
	}
	return settle(ctx, path, l)
}

func unless(ok bool) error {
	if ok {
		return nil
	}
	return uploader.ErrLedgerLocked
}

// create puts a new ledger at path, where there is none. The caller has the
// lock.
func create(ctx context.Context, path string) error {
	tmp, err := build(ctx, path, nil)
	if err != nil {
		return err
	}
	return replace(tmp, path)
}

// replace puts a new file in the place of a ledger and what belongs to it. It
// is there completely or not at all.
func replace(tmp, path string) error {
	// The log of a ledger that somebody has removed would be taken for ours.
	for _, suffix := range []string{"-wal", "-shm"} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, os.Remove(tmp))
		}
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return durable.SyncDir(filepath.Dir(path))
}

// setAside puts a new file in the place of one that is kept beside it.
func setAside(path, why, tmp string) (kept string, err error) {
	kept = path + "." + why + "-" + time.Now().UTC().Format("20060102T150405.000000000")
	// Both names are there until the new file takes the first.
	if err := os.Link(path, kept); err != nil {
		if err = os.Rename(path, kept); err != nil { // a file system without links
			return "", errors.Join(err, os.Remove(tmp))
		}
	}
	// What a crash has left in the log belongs to it.
	if err := os.Rename(path+"-wal", kept+"-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return kept, errors.Join(err, os.Remove(tmp))
	}
	return kept, replace(tmp, path)
}

// build makes a ledger beside path, durable, and has fill put into it what it
// is to have.
func build(ctx context.Context, path string, fill func(*sql.Tx) error) (tmp string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".ledger-*.tmp") // mode 0600
	if err != nil {
		return "", err
	}
	tmp = f.Name()
	if err = f.Close(); err == nil {
		err = buildAt(ctx, tmp, fill)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(tmp))
	}
	return tmp, nil
}

func buildAt(ctx context.Context, path string, fill func(*sql.Tx) error) (err error) {
	db, err := sqlite.OpenWriter(path)
	if err != nil {
		return err
	}
	// The last one to close it writes the log into the file, and removes it.
	defer func() { err = errors.Join(err, db.Close()) }()
	return sqlite.Update(ctx, db, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, schema+fmt.Sprintf(`PRAGMA application_id = %d; PRAGMA user_version = %d`, applicationID, version)); err != nil {
			return err
		}
		if fill == nil {
			return nil
		}
		return fill(tx)
	})
}
