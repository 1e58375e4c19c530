package sqliteledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/carload/carload/internal/sqlite"
)

// Report is the result of a [Repair].
type Report struct {
	Kept int    // rows that could be read: uploads, receipts, suspects, descriptions
	Lost int    // places that could not be read
	Old  string // path of the old file
}

// Repair makes a new ledger at path from what can be read of the old one, which
// is kept beside it. Lost receipts cost little, since the service is asked what
// it holds. No process may have the ledger open.
func Repair(ctx context.Context, path string) (Report, error) {
	r, err := repair(ctx, path)
	if err != nil {
		return r, fmt.Errorf("repair ledger %q: %w", path, explain(path, err))
	}
	return r, nil
}

func repair(ctx context.Context, path string) (r Report, err error) {
	if _, err := os.Stat(path); err != nil {
		return r, err
	}
	if err := checkFiles(path); err != nil {
		return r, err
	}
	l, err := openLock(path + lockSuffix)
	if err != nil {
		return r, err
	}
	defer l.Close()
	if ok, err := tryLock(l, true); err != nil || !ok {
		return r, errors.Join(err, unless(ok))
	}
	k, err := kindOf(path)
	if err != nil {
		return r, err
	}
	if k == bolt {
		return carryOver(ctx, path, true)
	}
	// Opening a database writes its log into the file. Do that to a copy.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".ledger-*.tmp")
	if err != nil {
		return r, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // only a copy
	copied := filepath.Join(dir, "ledger")
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(ctx, path+suffix, copied+suffix); err != nil && (suffix == "" || !errors.Is(err, os.ErrNotExist)) {
			return r, err
		}
	}
	tmp, err := build(ctx, path, func(tx *sqlite.Writer) error {
		there, err := r.salvage(ctx, copied, tx)
		if there || err != nil {
			return err
		}
		// The first page has the names and root pages of the tables, which are
		// the same in every ledger.
		r = Report{Lost: 1}
		if err := newHead(ctx, copied); err != nil {
			return err
		}
		_, err = r.salvage(ctx, copied, tx)
		return err
	})
	if err != nil {
		return r, err
	}
	r.Old, err = setAside(path, "damaged", tmp)
	return r, err
}

// salvage copies the intact rows. It returns false if there is not even a
// table.
func (r *Report) salvage(ctx context.Context, from string, tx *sqlite.Writer) (there bool, err error) {
	db, err := sqlite.OpenReader(from, 1)
	if err != nil {
		return false, err
	}
	defer db.Close()
	for _, t := range tables {
		if t == verifiedTable && !hasVerified(ctx, db) {
			continue // not in earlier versions
		}
		if !t.isTrue(ctx, db) {
			r.Lost++
			continue
		}
		seen := map[string]bool{}
		var failed error
		// An unreadable page ends a query. Read what is behind it from the
		// other end.
		for _, order := range []string{"", fmt.Sprintf("ORDER BY %s DESC, %s DESC", t.columns[0].name, t.columns[1].name)} {
			lost := 0
			err := each(ctx, db, t, order, nil, func(values row) error {
				key := fmt.Sprint(values[:2])
				if seen[key] {
					return nil
				}
				seen[key] = true
				if t.sound(values) != nil {
					lost++
					return nil
				}
				r.Kept++
				failed = t.put(ctx, tx, values...)
				return failed
			}, func(error) error { lost++; return nil })
			if failed != nil {
				return there, failed
			}
			there = there || err == nil || len(seen) > 0
			if order == "" {
				r.Lost += lost
			}
			if err == nil {
				break
			}
			r.Lost++
		}
	}
	return there, nil
}

// isTrue reports whether the database has the table as carload makes it.
func (t table) isTrue(ctx context.Context, db *sqlite.Reader) bool {
	var is bool
	err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ? AND octet_length(sql) < 4096 AND sql = ?)`, t.name, t.schema).Scan(&is)
	return is && err == nil
}

// newHead replaces the first page of a file with that of a new ledger, adjusted
// to the number of pages.
func newHead(ctx context.Context, path string) error {
	tmp, err := build(ctx, path, nil)
	if err != nil {
		return err
	}
	head := make([]byte, pageBytes)
	f, err := os.Open(tmp)
	if err != nil {
		return err
	}
	_, err = io.ReadFull(f, head)
	if err = errors.Join(err, f.Close(), os.Remove(tmp)); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	binary.BigEndian.PutUint32(head[pageCountAt:], uint32(info.Size()/pageBytes))
	clear(head[freeListAt:][:8])
	old, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = old.WriteAt(head, 0)
	return errors.Join(err, old.Close())
}

// copyFile copies a file until ctx is done: a sparse one may be far larger than
// the disk.
func copyFile(ctx context.Context, from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for err == nil {
		if err = context.Cause(ctx); err == nil {
			_, err = io.CopyN(dst, src, 64<<20)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, dst.Close())
}
