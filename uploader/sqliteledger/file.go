package sqliteledger

import (
	"context"
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

// kind is the kind of a file.
type kind int

const (
	other kind = iota
	ledger
	bolt
)

const (
	sqliteMagic = "SQLite format 3\x00"

	// journalSuffix is for the journal of databases that are not in WAL mode,
	// which no ledger ever has. SQLite would play it back.
	journalSuffix = "-journal"

	pageBytes = 4096 // SQLite's default, which new ledgers use

	// Offsets in the header of a database.
	headerBytes = 100
	pageCountAt = 28
	freeListAt  = 32
	appIDAt     = 68
)

// checkFiles returns an error if the ledger, or a file that belongs to it, is
// not a regular file. Opening a FIFO would wait, and a link might lead to a file
// that nobody wants changed.
func checkFiles(path string) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	for _, suffix := range []string{lockSuffix, claimSuffix, "-wal", "-shm", journalSuffix} {
		if info, err := os.Lstat(path + suffix); err == nil && (!info.Mode().IsRegular() || suffix == journalSuffix) {
			return fmt.Errorf("%q is not from carload: move it away", path+suffix)
		}
	}
	return nil
}

// kindOf looks at the beginning of a file. A file that looks like a ledger only
// after its first page is a damaged ledger.
func kindOf(path string) (kind, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%q is not a regular file", path)
	}
	if err != nil {
		return other, err
	}
	f, err := os.Open(path)
	if err != nil {
		return other, err
	}
	defer f.Close()
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

// The first bytes of pages of WITHOUT ROWID tables.
const (
	indexInner = 0x02
	indexLeaf  = 0x0a
)

// IsLedger reports whether a file is a ledger, of any version of carload, even
// if it is damaged.
func IsLedger(path string) (bool, error) {
	k, err := kindOf(path)
	return k == ledger || k == bolt, err
}

// openLock opens the lock file.
func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
}

// settle makes sure that there is a ledger at path, creates one if there is no
// file, and leaves the lock shared.
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

// settleOld carries over the ledger of an earlier carload at path, and leaves
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

// create creates a new ledger at path, where there is none. The caller has the
// lock.
func create(ctx context.Context, path string) error {
	tmp, err := build(ctx, path, nil)
	if err != nil {
		return err
	}
	return replace(tmp, path)
}

// replace replaces a ledger and its log with a new file, completely or not at
// all.
func replace(tmp, path string) error {
	// A leftover log of a removed ledger would be taken for ours.
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

// setAside replaces a file with a new one, and keeps the old one beside it.
func setAside(path, why, tmp string) (kept string, err error) {
	kept = path + "." + why + "-" + time.Now().UTC().Format("20060102T150405.000000000")
	// Keep both names until the new file takes the first one.
	if err := os.Link(path, kept); err != nil {
		if err = os.Rename(path, kept); err != nil { // the file system has no links
			return "", errors.Join(err, os.Remove(tmp))
		}
	}
	// The log that a crash has left belongs to it.
	if err := os.Rename(path+"-wal", kept+"-wal"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return kept, errors.Join(err, os.Remove(tmp))
	}
	return kept, replace(tmp, path)
}

// build makes a durable ledger beside path, and calls fill to fill it.
func build(ctx context.Context, path string, fill func(*sqlite.Writer) error) (tmp string, err error) {
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

func buildAt(ctx context.Context, path string, fill func(*sqlite.Writer) error) (err error) {
	db, err := sqlite.OpenWriter(ctx, path)
	if err != nil {
		return err
	}
	// The last connection to close writes the log into the file and removes it.
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.Update(ctx, func(tx *sqlite.Writer) error {
		for _, t := range tables {
			if _, err := tx.ExecContext(ctx, t.schema); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA application_id = %d; PRAGMA user_version = %d`, applicationID, version)); err != nil {
			return err
		}
		if fill == nil {
			return nil
		}
		return fill(tx)
	})
}
