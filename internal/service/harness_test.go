package service_test

import (
	"bytes"
	"context"
	"encoding/binary"
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
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"

	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
)

// block is a block of a DAG made up by a test.
type block struct {
	c    cid.Cid
	data []byte
}

func blockOf(codec uint64, data []byte) block { return hashedBlock(codec, multihash.SHA2_256, data) }

func hashedBlock(codec, hash uint64, data []byte) block {
	mh, err := multihash.Sum(data, hash, -1)
	if err != nil {
		panic(err)
	}
	return block{cid.NewCidV1(codec, mh), data}
}

func raw(s string) block { return blockOf(cid.Raw, []byte(s)) }

// pbNode is a DAG-PB node with these children; tag makes it different from
// others that have the same.
func pbNode(tag string, children ...cid.Cid) block {
	var p []byte
	field := func(dst []byte, n int, v []byte) []byte {
		dst = append(dst, byte(n<<3|2))
		dst = binary.AppendUvarint(dst, uint64(len(v)))
		return append(dst, v...)
	}
	for _, c := range children {
		l := field(nil, 1, c.Bytes())
		l = field(l, 2, nil)
		l = append(l, 3<<3, 100)
		p = field(p, 2, l)
	}
	return blockOf(cid.DagProtobuf, field(p, 1, []byte(tag)))
}

// cborNode is a DAG-CBOR list of a string and these children.
func cborNode(tag string, children ...cid.Cid) block {
	p := []byte{0x99, 0, 0}
	binary.BigEndian.PutUint16(p[1:], uint16(len(children)+1))
	if len(children)+1 < 256 {
		p = []byte{0x98, byte(len(children) + 1)}
		if len(children)+1 < 24 {
			p = []byte{0x80 | byte(len(children)+1)}
		}
	}
	p = append(append(p, 0x60|byte(len(tag))), tag...)
	for _, c := range children {
		p = append(p, 0xd8, 42, 0x58, byte(c.ByteLen()+1), 0)
		p = append(p, c.Bytes()...)
	}
	return blockOf(cid.DagCBOR, p)
}

// carFile writes a CARv1 without checking anything.
func carFile(roots []cid.Cid, blocks ...block) []byte {
	h := []byte{0xa2, 0x65, 'r', 'o', 'o', 't', 's', 0x80 | byte(len(roots))}
	for _, r := range roots {
		h = append(h, 0xd8, 42, 0x58, byte(r.ByteLen()+1), 0)
		h = append(h, r.Bytes()...)
	}
	h = append(h, 0x67, 'v', 'e', 'r', 's', 'i', 'o', 'n', 1)
	out := append(varint.ToUvarint(uint64(len(h))), h...)
	for _, b := range blocks {
		out = append(out, sectionOf(b)...)
	}
	return out
}

func sectionOf(b block) []byte {
	out := varint.ToUvarint(uint64(b.c.ByteLen() + len(b.data)))
	out = append(out, b.c.Bytes()...)
	return append(out, b.data...)
}

// carOf is a CAR whose root is the first block.
func carOf(blocks ...block) []byte { return carFile([]cid.Cid{blocks[0].c}, blocks...) }

// options are those of a store and of a service over it.
type options struct {
	Dir          string
	Discard      bool
	BufferBytes  int64
	MaxBodyBytes int64
	Mode         string
	Version      string
	FetchFrom    []string
	IdleTimeout  time.Duration
	Logger       *slog.Logger
}

func (o options) store() store.Options {
	return store.Options{Dir: o.Dir, Discard: o.Discard, BufferBytes: o.BufferBytes, Logger: o.Logger}
}

func (o options) service() service.Options {
	return service.Options{
		MaxBodyBytes: o.MaxBodyBytes, Mode: o.Mode, Version: o.Version, FetchFrom: o.FetchFrom, IdleTimeout: o.IdleTimeout, Logger: o.Logger,
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

// openServer opens a store, makes a service over it, and no key.
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

// close may be called again.
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

// do sends a request with the key; header is pairs of names and values.
func (s *server) do(method, path string, body []byte, header ...string) *answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.http.URL+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
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
