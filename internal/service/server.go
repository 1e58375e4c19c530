package service

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// Timeouts for the headers of a request and for the next request. Clients keep
// idle connections in a pool. They must give them up before the server does, or
// else an upload may pick a connection that is being closed.
const (
	HeaderTimeout = time.Minute // also runs from the start of a connection
	IdleTimeout   = 2 * time.Minute
)

// reserveConns are additional connections for health checks.
const reserveConns = 8

// ServerOptions configure [NewServer].
type ServerOptions struct {
	MaxConns int          // concurrent connections; 0 means DefaultMaxConns
	TLS      *tls.Config  // nil for plain HTTP
	Logger   *slog.Logger // for errors of connections; nil discards them
}

// Server is an HTTP server that limits its connections. When there are too
// many, it closes the one that has been idle longest. If all are busy, it
// accepts a few more, on which it answers /healthz, and 503 to everything else.
type Server struct {
	http *http.Server
	door *door
}

// NewServer makes a server for the handler of a [Service]. Its timeouts apply
// to silence, not to how long a body takes.
func NewServer(h http.Handler, opts ServerOptions) *Server {
	if opts.MaxConns == 0 {
		opts.MaxConns = DefaultMaxConns
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	d := &door{max: opts.MaxConns}
	return &Server{door: d, http: &http.Server{
		Handler:           d.guard(h),
		ConnContext:       withConn,
		TLSConfig:         opts.TLS,
		ReadHeaderTimeout: HeaderTimeout,
		IdleTimeout:       IdleTimeout,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(opts.Logger.Handler(), slog.LevelWarn),
	}}
}

// Serve serves a listener until the server is shut down or closed. It then
// returns nil.
func (s *Server) Serve(l net.Listener) error {
	var err error
	if l = (doorListener{l, s.door}); s.http.TLSConfig != nil {
		err = s.http.ServeTLS(l, "", "")
	} else {
		err = s.http.Serve(l)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown accepts no more connections, and waits for running requests until
// the context ends.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close closes the server and its connections at once.
func (s *Server) Close() error { return s.http.Close() }

// door counts connections, and closes idle ones if there are too many.
type door struct {
	max int

	mu      sync.Mutex
	conns   int       // guarded by mu; within the limit
	free    list.List // guarded by mu; of *conn within the limit that are idle, longest idle first
	reserve list.List // guarded by mu; of *conn beyond it, oldest first
}

type doorListener struct {
	net.Listener
	door *door
}

// Accept implements net.Listener.
func (l doorListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.door.admit(c), nil
}

func (d *door) admit(nc net.Conn) *conn {
	c := &conn{Conn: nc, door: d}
	var out *conn
	d.mu.Lock()
	if d.conns >= d.max && d.free.Len() > 0 {
		out = d.free.Front().Value.(*conn)
		out.leave()
	}
	if c.extra = d.conns >= d.max; !c.extra {
		d.conns++
		c.at = d.free.PushBack(c)
	} else {
		if d.reserve.Len() >= reserveConns {
			out = d.reserve.Front().Value.(*conn)
			out.leave()
		}
		c.at = d.reserve.PushBack(c)
	}
	d.mu.Unlock()
	if out != nil {
		_ = out.Conn.Close() // an idle connection loses nothing
	}
	return c
}

// conn is a connection that the door counts.
type conn struct {
	net.Conn
	door  *door
	extra bool // it is beyond the limit; does not change

	// Guarded by the door's mutex.
	at   *list.Element // in one of the door's lists
	busy int           // running requests
	left bool
}

// leave stops counting a connection. The caller holds door.mu.
func (c *conn) leave() {
	if c.left {
		return
	}
	c.left = true
	if c.extra {
		c.door.reserve.Remove(c.at)
		return
	}
	c.door.conns--
	if c.at != nil {
		c.door.free.Remove(c.at)
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.door.mu.Lock()
	c.leave()
	c.door.mu.Unlock()
	return c.Conn.Close()
}

// CloseWrite lets net/http make sure that the last reply arrives.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// work adds to the number of running requests.
func (c *conn) work(requests int) {
	c.door.mu.Lock()
	defer c.door.mu.Unlock()
	c.busy += requests
	switch {
	case c.left || c.extra:
	case c.busy > 0 && c.at != nil:
		c.door.free.Remove(c.at)
		c.at = nil
	case c.busy == 0 && c.at == nil:
		c.at = c.door.free.PushBack(c)
	}
}

type connKey struct{}

func withConn(ctx context.Context, nc net.Conn) context.Context {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	return context.WithValue(ctx, connKey{}, nc)
}

// dispensable marks the connection as idle, as what the request still does may
// be cut off. The caller calls resume when that is over.
func dispensable(ctx context.Context) (resume func()) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return func() {}
	}
	c.work(-1)
	return func() { c.work(1) }
}

// guard tells the door which connections have running requests.
func (d *door) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := r.Context().Value(connKey{}).(*conn)
		switch {
		case !ok:
		case !c.extra:
			c.work(1)
			defer c.work(-1)
		case r.URL.Path != healthPath:
			w.Header().Set("Retry-After", "2")
			w.Header().Set("Connection", "close")
			_ = writePlain(w, http.StatusServiceUnavailable, "503 too many connections\n")
			hearOut(http.NewResponseController(w), r.Body)
			return
		default:
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}
