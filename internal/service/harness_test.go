package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/internal/store/storetest"
)

type block = storetest.Block

var (
	blockOf, hashedBlock, raw = storetest.BlockOf, storetest.HashedBlock, storetest.Raw
	pbNode, cborNode          = storetest.PBNode, storetest.CBORNode
	carFile, carOf            = storetest.CARFile, storetest.CAROf
	flip                      = storetest.Flip
)

// options configure a store and a service over it.
type options struct {
	Dir          string
	Discard      bool
	BufferBytes  int64
	MaxBodyBytes int64
	Mode         string
	Version      string
	FetchFrom    []string
	Hosts        []string
	GatewayHosts []string
	AnyHost      bool
	MaxConns     int
	Console      func(http.Handler) http.Handler
	IdleTimeout  time.Duration
	Logger       *slog.Logger
}

func (o options) store() store.Options {
	return store.Options{Dir: o.Dir, Discard: o.Discard, BufferBytes: o.BufferBytes, Logger: o.Logger}
}

func (o options) service() service.Options {
	return service.Options{
		MaxBodyBytes: o.MaxBodyBytes, Mode: o.Mode, Version: o.Version, FetchFrom: o.FetchFrom,
		Hosts: o.Hosts, GatewayHosts: o.GatewayHosts, AnyHost: o.AnyHost, MaxConns: o.MaxConns, Console: o.Console, IdleTimeout: o.IdleTimeout, Logger: o.Logger,
	}
}

// server is a service over real HTTP, with a key.
type server struct {
	t     testing.TB
	st    *store.Store
	svc   *service.Service
	http  *httptest.Server
	token string
}

func newServer(t testing.TB, opts options) *server {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	s, err := openServer(t, opts)
	if err != nil {
		t.Fatal(err)
	}
	_, s.token, err = s.st.CreateKey(context.Background(), store.KeyOptions{Name: "test"})
	if err != nil && !errors.Is(err, store.ErrKeyExists) {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	return s
}

// openServer opens a store and makes a service over it, but no key.
func openServer(t testing.TB, opts options) (*server, error) {
	st, err := store.Open(context.Background(), opts.store())
	if err != nil {
		return nil, err
	}
	svc, err := service.New(context.Background(), st, opts.service())
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	return &server{t: t, st: st, svc: svc, http: newHTTP(svc)}, nil
}

func newHTTP(svc *service.Service) *httptest.Server { return httptest.NewServer(svc.Handler()) }

// close may be called more than once.
func (s *server) close() {
	s.http.Close()
	if err := errors.Join(s.svc.Close(), s.st.Close()); err != nil {
		s.t.Error(err)
	}
}

// answer is a reply, decoded if it is JSON.
type answer struct {
	status int
	header http.Header
	raw    []byte
	OK     bool
	Value  json.RawMessage
	Error  struct{ Code, Message string }
}

type upload struct {
	CID     string
	Created string
	Type    string
	Scope   string
	Files   []struct{ Name, Type string }
	Size    int64
	Name    string
	Parts   []string
	Pin     struct {
		CID, Created, Status string
		Size                 *int64
	}
	Deals []any
}

func (a *answer) upload(t testing.TB) upload {
	t.Helper()
	var u upload
	if a.status != http.StatusOK || !a.OK {
		t.Fatalf("got %d %s", a.status, a.raw)
	}
	if err := json.Unmarshal(a.Value, &u); err != nil {
		t.Fatal(err)
	}
	return u
}

// do sends a request with the key. Header has pairs of names and values.
func (s *server) do(method, path string, body []byte, header ...string) *answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.http.URL+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		if header[i+1] == "" {
			req.Header.Del(header[i])
		}
	}
	res, err := s.http.Client().Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() {
		if err := res.Body.Close(); err != nil {
			s.t.Error(err)
		}
	}()
	a := &answer{status: res.StatusCode, header: res.Header}
	if a.raw, err = io.ReadAll(res.Body); err != nil {
		s.t.Fatal(err)
	}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") && len(a.raw) > 0 {
		if err := json.Unmarshal(a.raw, a); err != nil {
			s.t.Fatalf("%v in %s", err, a.raw)
		}
	}
	return a
}

func (s *server) putCAR(body []byte) *answer {
	s.t.Helper()
	return s.do("POST", "/upload/", body, "Content-Type", "application/car")
}

func (s *server) status(root cid.Cid) string {
	s.t.Helper()
	a := s.do("GET", "/check/"+root.String(), nil)
	var v struct{ Pin struct{ Status string } }
	if err := json.Unmarshal(a.Value, &v); err != nil {
		s.t.Fatalf("%v in %s", err, a.raw)
	}
	return v.Pin.Status
}

func fsck(t *testing.T, s *server) *store.FsckReport {
	t.Helper()
	r, err := s.st.Fsck(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}
