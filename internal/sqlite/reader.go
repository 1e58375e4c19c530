package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"sync"
)

// Reader is a database for reading. It keeps the queries that it met first
// prepared, so a query's text should be constant and its values passed as
// arguments. The caller closes it.
type Reader struct {
	*sql.DB
	mu    sync.RWMutex
	stmts map[string]*sql.Stmt // guarded by mu
}

// keptQueries limits how many queries each connection keeps prepared.
const keptQueries = 64

// Close closes the database and its prepared queries.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, s := range r.stmts {
		errs = append(errs, s.Close())
	}
	clear(r.stmts)
	return errors.Join(append(errs, r.DB.Close())...)
}

// prepared returns the prepared query, or nil if the query is not kept
// prepared.
func (r *Reader) prepared(ctx context.Context, query string) *sql.Stmt {
	r.mu.RLock()
	s, full := r.stmts[query], len(r.stmts) >= keptQueries
	r.mu.RUnlock()
	if s != nil || full {
		return s
	}
	fresh, err := r.PrepareContext(context.WithoutCancel(ctx), query)
	if err != nil {
		return nil // running the query unprepared will report the error
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s = r.stmts[query]; s != nil {
		_ = fresh.Close() // another goroutine was faster
		return s
	}
	r.stmts[query] = fresh
	return fresh
}

// QueryRowContext is [sql.DB.QueryRowContext] with a prepared query.
func (r *Reader) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if s := r.prepared(ctx, query); s != nil {
		return s.QueryRowContext(ctx, args...)
	}
	return r.DB.QueryRowContext(ctx, query, args...)
}

// QueryContext is [sql.DB.QueryContext] with a prepared query.
func (r *Reader) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if s := r.prepared(ctx, query); s != nil {
		return s.QueryContext(ctx, args...)
	}
	return r.DB.QueryContext(ctx, query, args...)
}
