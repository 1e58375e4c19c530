// Package uploadertest is a service to upload to in tests, with faults that
// happen when the test says so.
//
//	srv := uploadertest.NewServer(t, uploadertest.Options{})
//	srv.Script(uploadertest.Upload, uploadertest.Status(503), uploadertest.LoseReply)
//
// The first upload is then refused, and the reply to the second is lost after
// the shard was stored. A fault that was scripted and did not happen fails the
// test, so a test can't pass because its fault missed.
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
	Commit            // of services that have one; the API has not
	Other
)

var opNames = [...]string{"upload", "check", "block", "archive", "list", "commit", "other"}

// String is the name of the kind.
func (o Op) String() string { return opNames[o] }

// Options are the knobs of [NewServer].
type Options struct {
	// Handler serves what no fault meets; nil means a [Store] in memory.
	Handler http.Handler
	// Token is the key that a Store asks for; empty means "test-token".
	Token string
	// Kind tells the kinds of requests apart, for handlers that speak another
	// API; nil means by the API's paths.
	Kind func(*http.Request) Op
	// TLS makes the server speak HTTPS.
	TLS *tls.Config
}

// Server is a service on a loopback port, with a script of faults.
type Server struct {
	URL   string
	Token string
	Store *Store // nil if the handler is another

	handler http.Handler
	kind    func(*http.Request) Op
	srv     *httptest.Server
	closing context.Context //nolint:containedctx // done when the server is closed

	mu      sync.Mutex
	scripts map[Op][]Fault
	always  map[Op]Fault
	counts  map[Op]Count
	active  int        // requests that are being answered
	conns   int        // of which some may have a request that is not yet
	quiet   *sync.Cond // one of them is 0
}

// Count is what was asked for by one kind of request.
type Count struct {
	Requests int
	Bytes    int64 // of request bodies that were read
	Faults   int   // requests that met one
}

// NewServer starts a server. It is closed when the test ends; the test fails if
// there are faults left in a script.
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
	// Handshakes that fail are what tests are about.
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

// Script adds faults for requests of a kind: each request takes the next one.
// When there are none left, requests are served. [Pass] serves one before.
//
// While there are faults for [Check], the reply to an upload does not say that
// the DAG is complete, so that the client has to ask.
func (s *Server) Script(op Op, faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scripts[op] = append(s.scripts[op], faults...)
}

// Always makes every request of a kind meet a fault once its script is used
// up; nil ends that. It need not happen.
func (s *Server) Always(op Op, f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always[op] = f
}

// Count tells what was asked for so far.
func (s *Server) Count(op Op) Count {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[op]
}

// Disconnect closes all connections and waits until no request is being
// answered: what a client gave up on arrives no more. The client has to dial
// again.
func (s *Server) Disconnect() error {
	// The server may not have taken up a connection whose client has long gone.
	// It takes them in order, so it has taken all earlier ones when it answers
	// this one, whose request is none.
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

// ServeHTTP implements http.Handler, for tests that bring a server of their own.
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
	// The server does not see that a client is gone while there is a body to be
	// read: what waits for that has to end with the server.
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
