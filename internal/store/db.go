package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/sqlite"
)

// database is the SQLite file of the index.
type database struct {
	read  *sql.DB
	write *sql.DB // one connection
}

// openDatabase opens a file for writing; openReaders follows when its tables
// are there.
func openDatabase(path string) (database, error) {
	write, err := sqlite.OpenWriter(path, "_pragma=cache_size(-16384)")
	if err != nil {
		return database{}, fmt.Errorf("open index: %w", err)
	}
	return database{write: write}, nil
}

func (db *database) openReaders(path string) (err error) {
	if db.read, err = sqlite.OpenReader(path, 8); err != nil {
		return fmt.Errorf("open index: %w", err)
	}
	return nil
}

func (db *database) close() error {
	var errs []error
	for _, c := range []*sql.DB{db.read, db.write} {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(errs...)
}

// update runs f in the one transaction that may write.
func (db *database) update(ctx context.Context, f func(*sql.Tx) error) error {
	return sqlite.Update(ctx, db.write, f)
}

// querier is what *sql.DB and *sql.Tx have in common.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// scanRow is the method Scan of one row.
type scanRow func(...any) error

// eachRow calls f for each row of a query.
func eachRow(ctx context.Context, q querier, query string, args []any, f func(scanRow) error) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	return drainRows(rows, f)
}

// rowsOf returns what f makes of each row of a query.
func rowsOf[T any](ctx context.Context, q querier, query string, args []any, f func(scanRow) (T, error)) (out []T, err error) {
	err = eachRow(ctx, q, query, args, func(scan scanRow) error {
		v, err := f(scan)
		out = append(out, v)
		return err
	})
	return out, err
}

// exists runs a query of one column that says whether something is there.
func exists(ctx context.Context, q querier, query string, args ...any) (is bool, err error) {
	err = q.QueryRowContext(ctx, `SELECT EXISTS (`+query+`)`, args...).Scan(&is)
	return is, err
}

// cidColumn is a CID in its binary form.
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

// statementRows is how many rows go into one statement.
const statementRows = 256

// chunks calls f with as many keys at a time as go into one statement.
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

// statements runs the statements of one transaction, and prepares those that
// come often.
type statements struct {
	ctx   context.Context //nolint:containedctx // they live as long as their transaction
	tx    *sql.Tx
	stmts map[string]prepared
}

// prepared is a statement that its transaction closes.
type prepared interface {
	ExecContext(ctx context.Context, args ...any) (sql.Result, error)
	QueryContext(ctx context.Context, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, args ...any) *sql.Row
}

func (x *statements) prepare(query string) (prepared, error) {
	if s, ok := x.stmts[query]; ok {
		return s, nil
	}
	s, err := x.tx.PrepareContext(x.ctx, query)
	if err != nil {
		return nil, fmt.Errorf("prepare %.40q: %w", query, err)
	}
	x.stmts[query] = s
	return s, nil
}

// exec runs a statement whose %s stands for n times row.
func (x *statements) exec(query, row string, n int, args []any) error {
	query = fmt.Sprintf(query, strings.Repeat(row+",", n-1)+row)
	if n < statementRows {
		_, err := x.tx.ExecContext(x.ctx, query, args...)
		return err
	}
	s, err := x.prepare(query)
	if err != nil {
		return err
	}
	_, err = s.ExecContext(x.ctx, args...)
	return err
}

// query is exec for statements that return rows.
func (x *statements) query(query, row string, n int, args []any, f func(scanRow) error) error {
	query = fmt.Sprintf(query, strings.Repeat(row+",", n-1)+row)
	if n < statementRows {
		return eachRow(x.ctx, x.tx, query, args, f)
	}
	s, err := x.prepare(query)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(x.ctx, args...)
	if err != nil {
		return err
	}
	return drainRows(rows, f)
}
