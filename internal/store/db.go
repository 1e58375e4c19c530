package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/sqlite"
)

// database is the SQLite database of the index.
type database struct {
	read  *sqlite.Reader // sees committed data only
	write *writer        // nil if the store is read-only
}

// openDatabase opens a database for writing. Call openReaders once the tables
// exist.
func openDatabase(ctx context.Context, path string) (database, error) {
	if err := regularFiles(path); err != nil {
		return database{}, err
	}
	if err := private(path); err != nil {
		return database{}, err
	}
	db, err := sqlite.OpenWriter(ctx, path, "_pragma=cache_size(-65536)", "_pragma=wal_autocheckpoint(16000)")
	if err != nil {
		return database{}, fmt.Errorf("open index: %w", err)
	}
	return database{write: newWriter(db)}, nil //nolint:contextcheck // jobs have contexts of their own
}

// regularFiles returns an error if the index, or a file that SQLite looks for
// beside it, is not a regular file: opening a FIFO would wait.
func regularFiles(path string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		stat := os.Lstat
		if suffix == "" {
			stat = os.Stat // it may be a link to a faster disk
		}
		if info, err := stat(path + suffix); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("open index: %q is not a regular file: move it away", path+suffix)
		}
	}
	return nil
}

// private makes sure that no other user can read the index, which contains all
// names and the hashes of keys. SQLite gives its other files the same mode.
func private(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	if err := errors.Join(f.Chmod(0o600), f.Close()); err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	return nil
}

func (db *database) openReaders(path string) error {
	var err error
	if db.read, err = sqlite.OpenReader(path, 8); err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	return nil
}

func (db *database) close() error {
	var errs []error
	if db.read != nil {
		errs = append(errs, db.read.Close())
	}
	if db.write != nil {
		errs = append(errs, db.write.close())
	}
	return errors.Join(errs...)
}

// update runs f in a write transaction. There is only one at a time.
func (db *database) update(ctx context.Context, f func(*tx) error) error {
	if db.write == nil {
		return ErrReadOnly
	}
	return db.write.update(ctx, f)
}

// exec runs one statement that writes.
func (db *database) exec(ctx context.Context, query string, args ...any) (res sql.Result, err error) {
	err = db.update(ctx, func(tx *tx) (err error) {
		res, err = tx.ExecContext(ctx, query, args...)
		return err
	})
	return res, err
}

// execer is a transaction.
type execer interface {
	querier
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// scanRow is the Scan method of one row.
type scanRow func(...any) error

// eachRow calls f for each row of a query.
func eachRow(ctx context.Context, q querier, query string, args []any, f func(scanRow) error) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	return drainRows(rows, f)
}

// rowsOf returns the results of f for each row of a query.
func rowsOf[T any](ctx context.Context, q querier, query string, args []any, f func(scanRow) (T, error)) (out []T, err error) {
	err = eachRow(ctx, q, query, args, func(scan scanRow) error {
		v, err := f(scan)
		out = append(out, v)
		return err
	})
	return out, err
}

// exists reports whether a query of one column has any rows.
func exists(ctx context.Context, q querier, query string, args ...any) (is bool, err error) {
	err = q.QueryRowContext(ctx, `SELECT EXISTS (`+query+`)`, args...).Scan(&is)
	return is, err
}

// cidColumn scans a binary CID.
type cidColumn cid.Cid

// Scan implements sql.Scanner.
func (c *cidColumn) Scan(src any) error {
	raw, _ := src.([]byte)
	v, err := cid.Cast(raw)
	if err != nil {
		return fmt.Errorf("CID in the index: %w", err)
	}
	*c = cidColumn(v)
	return nil
}

func scanCID(scan scanRow) (c cid.Cid, err error) {
	err = scan((*cidColumn)(&c))
	return c, err
}

func drainRows(rows *sql.Rows, f func(scanRow) error) (err error) {
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := f(rows.Scan); err != nil {
			return err
		}
	}
	return rows.Err()
}

// statementRows is the most rows in one statement.
const statementRows = 256

// chunks calls f with as many items at a time as fit into one statement.
func chunks[T any](all []T, f func([]T) error) error {
	for len(all) > 0 {
		n := min(len(all), statementRows)
		if err := f(all[:n]); err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// statements runs the statements of a transaction.
type statements struct {
	ctx context.Context //nolint:containedctx // it lives as long as the transaction
	tx  execer
}

// sized calls f as often as necessary to cover all arguments. It replaces %s in
// the query with several times row. It uses only a few different counts, so
// that the statements can be kept prepared.
func sized(query, row string, n int, args []any, f func(query string, args []any) error) error {
	if n == 0 {
		return nil
	}
	for width := len(args) / n; n > 0; {
		rows := 1
		for _, size := range []int{statementRows, 32, 6, 2} {
			if n >= size {
				rows = size
				break
			}
		}
		if err := f(fmt.Sprintf(query, strings.Repeat(row+",", rows-1)+row), args[:rows*width]); err != nil {
			return err
		}
		n, args = n-rows, args[rows*width:]
	}
	return nil
}

// exec runs a statement in which %s stands for n times row.
func (x *statements) exec(query, row string, n int, args []any) error {
	return sized(query, row, n, args, func(query string, args []any) error {
		_, err := x.tx.ExecContext(x.ctx, query, args...)
		return err
	})
}

// query is exec for statements that return rows.
func (x *statements) query(query, row string, n int, args []any, f func(scanRow) error) error {
	return sized(query, row, n, args, func(query string, args []any) error {
		return eachRow(x.ctx, x.tx, query, args, f)
	})
}

// querier is what readers and transactions have in common.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}
