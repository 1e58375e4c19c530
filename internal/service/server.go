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

// How long a server waits for the head of a request, and for the next one. A
// client's pool keeps connections that were made and are not used yet, and must
// be the first to give them up: otherwise an upload takes one that is being
// closed.
const (
	HeaderTimeout = time.Minute // runs from the beginning of a connection as well
	IdleTimeout   = 2 * time.Minute
)

// reserveConns are connections beyond the bound, for checks of health.
const reserveConns = 8

// ServerOptions are the knobs of [NewServer].
type ServerOptions struct {
	MaxConns int          // connections at a time; 0 means DefaultMaxConns
	TLS      *tls.Config  // nil for plain HTTP
	Logger   *slog.Logger // of what goes wrong with connections; nil means none
}

// Server is an HTTP server whose connections are bounded. When there are too
// many it hangs up on the one that has had no request at work for longest. If
// all have one, a few more are taken, which get an answer to /healthz and are
// told to come back later for anything else.
type Server struct {
	http *http.Server
	door *door
}

// NewServer makes a server for what a [Service] serves. It has timeouts on
// silence, and none on how long a body may take.
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

// Serve answers on a listener until the server is shut down or closed, which is
// no error.
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

// Shutdown takes no more connections, and waits for the requests that are at
// work until the context ends.
func (s *Server) Shutdown(ctx context.Context) error { return s.http.Shutdown(ctx) }

// Close ends the server and its connections at once.
func (s *Server) Close() error { return s.http.Close() }

// door counts connections, and shows out those that can be done without.
type door struct {
	max int

	mu      sync.Mutex
	conns   int       // guarded by mu; within the bound
	free    list.List // guarded by mu; of *conn within the bound that have no request at work, oldest first
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
		_ = out.Conn.Close() // nobody reads what is lost
	}
	return c
}

// conn is a connection that the door knows.
type conn struct {
	net.Conn
	door  *door
	extra bool // it is beyond the bound; does not change

	// Guarded by the door's mutex.
	at   *list.Element // in one of the door's lists
	busy int           // requests that are at work
	left bool
}

// leave takes a connection out of what the door counts, which is locked.
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

// CloseWrite is how net/http sees to it that the last reply arrives.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// work notes that requests begin and end.
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

// dispensable says that what a request still does may be cut off. The caller
// calls resume when that is over.
func dispensable(ctx context.Context) (resume func()) {
	c, ok := ctx.Value(connKey{}).(*conn)
	if !ok {
		return func() {}
	}
	c.work(-1)
	return func() { c.work(1) }
}

// guard tells the door of the requests that are at work.
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
