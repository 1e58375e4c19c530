// Package uploadertest is a service for tests of uploads, with faults that
// happen when the test says so.
//
//	srv := uploadertest.NewServer(t, uploadertest.Options{})
//	srv.Script(uploadertest.Upload, uploadertest.Status(503), uploadertest.LoseReply)
//
// The first upload is refused. The reply to the second is lost after the shard
// has been stored. If a scripted fault does not happen, the test fails; so no
// test can pass because its fault missed.
package uploadertest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// Op is a kind of request.
type Op int

// The kinds of requests.
const (
	Upload  Op = iota // POST /upload
	Check             // GET /{cid}
	Block             // GET /ipfs/{cid}?format=raw
	Archive           // GET /ipfs/{cid}?format=car
	List              // GET /
	Commit            // for services that have a commit; this API does not
	Other
)

var opNames = [...]string{"upload", "check", "block", "archive", "list", "commit", "other"}

// String returns the name of the kind.
func (o Op) String() string { return opNames[o] }

// Options configure [NewServer].
type Options struct {
	// Handler serves requests without faults; nil means a [Store] in memory.
	Handler http.Handler
	// Token is the key that the Store requires; empty means "test-token".
	Token string
	// Kind classifies requests, for handlers with another API; nil means by the
	// API's paths.
	Kind func(*http.Request) Op
	// TLS makes the server use HTTPS.
	TLS *tls.Config
}

// Server is a service on a loopback port, with a script of faults.
type Server struct {
	URL   string
	Token string
	Store *Store // nil if Options.Handler is set

	handler http.Handler
	kind    func(*http.Request) Op
	srv     *httptest.Server
	closing context.Context //nolint:containedctx // done when the server is closed

	mu      sync.Mutex
	scripts map[Op][]Fault
	always  map[Op]Fault
	counts  map[Op]Count
	active  int        // number of requests being answered
	conns   int        // number of connections, including those whose request has not arrived
	quiet   *sync.Cond // signalled when active or conns is 0
}

// Count is a summary of the requests of one kind.
type Count struct {
	Requests int
	Bytes    int64 // bytes of request bodies that were read
	Faults   int   // number of requests with a fault
}

// NewServer starts a server. It is closed when the test ends. The test fails if
// faults are left in a script.
func NewServer(tb testing.TB, opts Options) *Server {
	tb.Helper()
	if opts.Token == "" {
		opts.Token = "test-token"
	}
	s := &Server{Token: opts.Token, handler: opts.Handler, kind: opts.Kind, scripts: map[Op][]Fault{}, always: map[Op]Fault{}, counts: map[Op]Count{}}
	s.quiet = sync.NewCond(&s.mu)
	var stop context.CancelFunc
	s.closing, stop = context.WithCancel(context.Background())
	if s.handler == nil {
		s.Store = NewStore(opts.Token)
		s.handler = s.Store
	}
	srv := httptest.NewUnstartedServer(s)
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.connected(1)
		case http.StateClosed, http.StateHijacked:
			s.connected(-1)
		}
	}
	// Tests cause failing handshakes on purpose.
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if opts.TLS != nil {
		srv.TLS = opts.TLS
		srv.StartTLS()
	} else {
		srv.Start()
	}
	s.URL, s.srv = srv.URL, srv
	tb.Cleanup(func() {
		stop()
		srv.CloseClientConnections()
		srv.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for op, left := range s.scripts {
			if n := len(left); n > 0 {
				tb.Errorf("uploadertest: %d faults scripted for requests of kind %q never happened", n, op)
			}
		}
	})
	return s
}

// Script adds faults for a kind of request. Each request takes the next fault.
// When none are left, requests are served normally. [Pass] serves one request
// normally.
//
// While there are faults for [Check], the reply to an upload does not say that
// the DAG is complete, so the client has to ask.
func (s *Server) Script(op Op, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scripts[op] = append(s.scripts[op], faults...)
}

// Always sets a fault for every request of a kind once its script is used up;
// nil removes it. The test does not fail if it never happens.
func (s *Server) Always(op Op, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always[op] = f
}

// Count returns a summary of the requests so far.
func (s *Server) Count(op Op) Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[op]
}

// Disconnect closes all connections and waits until no request is being
// answered, so that nothing arrives later from a request that a client gave up.
// Clients have to dial again.
func (s *Server) Disconnect() error {
	// The server may not have accepted a connection whose client is long gone.
	// It accepts them in order, so when it answers this invalid request, it has
	// accepted all earlier ones.
	conn, err := net.Dial("tcp", s.srv.Listener.Addr().String())
	if err != nil {
		return err
	}
	_, err = conn.Write([]byte("nothing\r\n\r\n"))
	if err == nil {
		_, err = io.ReadFull(conn, make([]byte, len("HTTP")))
	}
	if err = errors.Join(err, conn.Close()); err != nil {
		return err
	}
	s.srv.CloseClientConnections()
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.active > 0 || s.conns > 0 {
		s.quiet.Wait()
	}
	return nil
}

func (s *Server) connected(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns += n; s.conns == 0 {
		s.quiet.Broadcast()
	}
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active--; s.active == 0 {
		s.quiet.Broadcast()
	}
}

// ServeHTTP implements http.Handler, for tests with a server of their own.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind := s.kind
	if kind == nil {
		kind = opOf
	}
	op := kind(r)
	defer s.leave()
	s.mu.Lock()
	s.active++
	c := s.counts[op]
	c.Requests++
	fault := s.always[op]
	if script := s.scripts[op]; len(script) > 0 {
		fault, s.scripts[op] = script[0], script[1:]
	}
	if fault != nil {
		c.Faults++
	}
	s.counts[op] = c
	if op == Upload && fault == nil && s.kind == nil && (len(s.scripts[Check]) > 0 || s.always[Check] != nil) {
		fault = Reports("queued")
	}
	s.mu.Unlock()
	// The server does not notice that a client is gone while there is a body to
	// read. Whatever waits for that has to end with the server.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.closing, cancel)()
	r = r.WithContext(ctx)
	r.Body = &countedBody{r.Body, s, op}
	if fault != nil {
		fault(w, r, s.handler)
		return
	}
	s.handler.ServeHTTP(w, r)
}

func opOf(r *http.Request) Op {
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/upload":
		return Upload
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/ipfs/"):
		if r.URL.Query().Get("format") == "car" {
			return Archive
		}
		return Block
	case r.Method == http.MethodGet && r.URL.Path == "/":
		return List
	case r.Method == http.MethodGet && strings.Count(r.URL.Path, "/") == 1 && len(r.URL.Path) > len("/version"):
		return Check
	}
	return Other
}

type countedBody struct {
	io.ReadCloser
	s  *Server
	op Op
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	c := b.s.counts[b.op]
	c.Bytes += int64(n)
	b.s.counts[b.op] = c
	return n, err
}
