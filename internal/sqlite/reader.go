package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"sync"
)

// Reader is a database that is read. It keeps its first queries prepared, so
// their texts should not depend on what is asked. The caller closes it.
type Reader struct {
	*sql.DB
	mu    sync.RWMutex
	stmts map[string]*sql.Stmt // guarded by mu
}

// keptQueries bounds the queries that are kept prepared, by each connection.
const keptQueries = 64

// Close closes the database, and the queries that were prepared for it.
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

// prepared returns nil for a query that is not kept prepared.
func (r *Reader) prepared(ctx context.Context, query string) *sql.Stmt {
	r.mu.RLock()
	s, full := r.stmts[query], len(r.stmts) >= keptQueries
	r.mu.RUnlock()
	if s != nil || full {
		return s
	}
	fresh, err := r.PrepareContext(context.WithoutCancel(ctx), query)
	if err != nil {
		return nil // asking without it says what is wrong
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s = r.stmts[query]; s != nil {
		_ = fresh.Close() // another was faster
		return s
	}
	r.stmts[query] = fresh
	return fresh
}

// QueryRowContext is that of [sql.DB].
func (r *Reader) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if s := r.prepared(ctx, query); s != nil {
		return s.QueryRowContext(ctx, args...)
	}
	return r.DB.QueryRowContext(ctx, query, args...)
}

// QueryContext is that of [sql.DB].
func (r *Reader) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if s := r.prepared(ctx, query); s != nil {
		return s.QueryContext(ctx, args...)
	}
	return r.DB.QueryContext(ctx, query, args...)
}
