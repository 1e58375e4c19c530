package service

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

type requestIDKey struct{}

// requestID returns the attribute that links the log lines of a request.
func requestID(ctx context.Context) slog.Attr {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return slog.String("request", id)
}

// observe counts and logs requests, gives each an ID, and recovers from panics.
func (s *Service) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if id == "" || len(id) > 128 || strings.ContainsFunc(id, func(c rune) bool { return c < '!' || c > '~' }) {
			id = rand.Text()
		}
		ctx := context.WithValue(r.Context(), requestIDKey{}, id)
		rec := &recorder{ResponseWriter: w}
		rec.Header().Set("X-Request-Id", id)
		start := time.Now()
		// Clear the deadline left from the previous request.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		defer func() {
			failed := recover()
			_ = rec.extend()                                     // for what net/http has still buffered
			if failed != nil && failed != http.ErrAbortHandler { //nolint:errorlint // a panic value
				s.log.LogAttrs(ctx, slog.LevelError, "panic", slog.Any("panic", failed),
					slog.String("stack", string(debug.Stack())), requestID(ctx))
			}
			took := time.Since(start)
			s.metrics.request(r.Method, rec.status, rec.sent, took)
			s.log.LogAttrs(ctx, slog.LevelInfo, "request",
				slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", rec.status),
				slog.Duration("took", took), slog.Int64("sent", rec.sent), requestID(ctx))
			if failed != nil {
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(rec, r.WithContext(ctx))
	})
}

// stallTime is how long a client may take to receive stallBytes of a reply.
const (
	stallTime  = time.Minute
	stallBytes = 256 << 10
)

// recorder records the status of a reply. It hangs up on a client that does not
// read it.
type recorder struct {
	http.ResponseWriter
	status int
	sent   int64

	mu   sync.Mutex
	gone bool // guarded by mu; the recorder has hung up
}

// HangUp ends the current write and the reply.
func (r *recorder) HangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = true
	_ = http.NewResponseController(r.ResponseWriter).SetWriteDeadline(time.Now()) // see extend
}

// extend gives the client time to receive the next write.
func (r *recorder) extend() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.gone {
		return http.ErrAbortHandler
	}
	// Some wrappers and tests support no deadline; then clients may stall.
	_ = http.NewResponseController(r.ResponseWriter).SetWriteDeadline(time.Now().Add(stallTime))
	return nil
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 || r.status < 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n := 0
	for n < len(p) {
		if err := r.extend(); err != nil {
			return n, err
		}
		k, err := r.ResponseWriter.Write(p[n:min(len(p), n+stallBytes)])
		n += k
		r.sent += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// Flush implements http.Flusher.
func (r *recorder) Flush() {
	if f, ok := r.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}
