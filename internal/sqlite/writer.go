package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// Writer is a database for writing, on one connection. It keeps the statements
// that it met first prepared, so a statement's text should be constant and its
// values passed as arguments. Its methods check the context beforehand; they do
// not interrupt a statement. A Writer is for one goroutine at a time. The caller
// closes it.
type Writer struct {
	db    *sql.DB
	conn  *sql.Conn
	stmts map[string]*sql.Stmt
}

// keptStatements is the most statements that a Writer keeps prepared. Programs
// have fewer, not counting those whose text depends on the arguments.
const keptStatements = 512

// OpenWriter opens the database at path.
func OpenWriter(ctx context.Context, path string, params ...string) (*Writer, error) {
	db, err := open(path, params...)
	if err != nil {
		return nil, err
	}
	conn, err := db.Conn(context.WithoutCancel(ctx))
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Writer{db: db, conn: conn, stmts: make(map[string]*sql.Stmt)}, nil
}

// Close closes the database and its prepared statements.
func (w *Writer) Close() error {
	var errs []error
	for _, s := range w.stmts {
		errs = append(errs, s.Close())
	}
	clear(w.stmts)
	return errors.Join(append(errs, w.conn.Close(), w.db.Close())...)
}

// Update runs f in a transaction. If Update returns nil, the transaction is
// committed and on the disk; if it returns an error, it is rolled back.
func (w *Writer) Update(ctx context.Context, f func(*Writer) error) (err error) {
	if _, err := w.ExecContext(ctx, `BEGIN IMMEDIATE`); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	committed := false
	defer func() {
		if !committed { // SQLite may have rolled it back already
			_, _ = w.ExecContext(context.WithoutCancel(ctx), `ROLLBACK`)
		}
	}()
	if err := f(w); err != nil {
		return err
	}
	if _, err := w.ExecContext(ctx, `COMMIT`); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	committed = true
	return nil
}

// prepared returns the prepared statement, or nil if the Writer does not keep
// it prepared.
func (w *Writer) prepared(ctx context.Context, query string) *sql.Stmt {
	if s := w.stmts[query]; s != nil || len(w.stmts) >= keptStatements || isScript(query) {
		return s
	}
	s, err := w.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil // running the statement unprepared will report the error
	}
	w.stmts[query] = s
	return s
}

// ExecContext runs a statement.
func (w *Writer) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	if s := w.prepared(ctx, query); s != nil {
		return s.ExecContext(ctx, args...)
	}
	return w.conn.ExecContext(ctx, query, args...)
}

// QueryContext runs a statement that returns rows.
func (w *Writer) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	if s := w.prepared(ctx, query); s != nil {
		return s.QueryContext(ctx, args...)
	}
	return w.conn.QueryContext(ctx, query, args...)
}

// QueryRowContext runs a statement that returns one row.
func (w *Writer) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if ended(ctx) != nil {
		return w.conn.QueryRowContext(ctx, query, args...) // its Scan reports the error
	}
	ctx = context.WithoutCancel(ctx)
	if s := w.prepared(ctx, query); s != nil {
		return s.QueryRowContext(ctx, args...)
	}
	return w.conn.QueryRowContext(ctx, query, args...)
}

// isScript reports whether a query has several statements.
func isScript(query string) bool { return strings.Contains(query, ";") }

// ended returns the context's error if it has ended, or nil.
func ended(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	default:
		return nil
	}
}
