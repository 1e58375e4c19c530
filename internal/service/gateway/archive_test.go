package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"github.com/ipfs/boxo/blockservice"
	boxo "github.com/ipfs/boxo/gateway"
	"github.com/ipfs/go-cid"
	cbor "github.com/ipfs/go-ipld-cbor"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/carload/carload/internal/service/gateway"
	"github.com/carload/carload/internal/walk"
)

// server is our gateway over blocks in memory.
func server(t testing.TB, m *memory, opts gateway.Options) *httptest.Server {
	t.Helper()
	opts.Registry = prometheus.NewRegistry()
	opts.Logger = slog.New(slog.DiscardHandler)
	h, err := gateway.New(m, opts, http.NotFoundHandler())
	if err != nil {
		t.Fatal(err)
	}
	return listen(t, h)
}

func listen(t testing.TB, h http.Handler) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// reference is boxo's gateway over the same blocks.
func reference(t testing.TB, m *memory) *httptest.Server {
	t.Helper()
	b, err := boxo.NewBlocksBackend(blockservice.New(m.bs, nil))
	if err != nil {
		t.Fatal(err)
	}
	return listen(t, boxo.NewHandler(boxo.Config{
		DeserializedResponses: true, NoDNSLink: true, DeprecatedXIpfsPath: true, MetricsRegistry: prometheus.NewRegistry(),
	}, b))
}

type answer struct {
	status int
	header http.Header
	body   []byte
	err    error // from reading the body
}

func ask(t testing.TB, s *httptest.Server, method, path string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	client := *s.Client() // other tests use it at the same time
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer res.Body.Close()
	a := answer{status: res.StatusCode, header: res.Header}
	a.body, a.err = io.ReadAll(res.Body)
	return a
}

// zoo makes a tree with everything that a tree can contain, and returns the
// paths in it.
func zoo(t testing.TB, m *memory) (root ipld.Node, paths []string) {
	b := made{m, t}
	var many, few []child
	for i := range 700 {
		many = append(many, child{fmt.Sprintf("file %d.txt", i), b.file(noise(i%300, 20+i), 1<<10, 4, true)})
	}
	for i := range 5 {
		few = append(few, child{fmt.Sprint(i), b.file(noise(i%2, 3000), 1<<10, 2, i%2 == 0)})
	}
	same := bytes.Repeat([]byte("the same again and again "), 400)
	leaf, err := cbor.WrapObject(map[string]any{"x": few[0].node.Cid(), "a": []any{few[1].node.Cid(), few[0].node.Cid()}}, multihash.SHA2_256, -1)
	b.check(err)
	b.add(leaf)
	root = b.dir(
		child{"big.bin", b.file(noise(1, 300_000), 1<<10, 5, true)},
		child{"old.bin", b.file(noise(2, 100_000), 1<<10, 5, false)},
		child{"large old", b.file(noise(3, 2<<20), 256<<10, 3, false)},
		child{"large", b.file(noise(4, 3<<20), 1<<20, 2, true)},
		child{"same.bin", b.file(same, 250, 4, true)},
		child{"empty", b.file(nil, 1<<10, 5, false)},
		child{"one", b.file([]byte("x"), 1<<10, 5, true)},
		child{"many", b.hamt(many...)},
		child{"few", b.dir(few...)},
		child{"again", b.dir(few...)},
		child{"link", b.symlink("few/0")},
		child{"cbor", leaf},
		child{"mixed", b.dir(append(few[:3:3], child{"sub", b.dir(few...)}, child{"z", many[3].node}, child{"hamt", b.hamt(few...)})...)},
	)
	return root, []string{
		"", "/big.bin", "/old.bin", "/large%20old", "/large", "/same.bin", "/empty", "/one", "/many", "/many/file%2017.txt",
		"/few", "/few/3", "/again/0", "/link", "/cbor", "/cbor/a/0", "/mixed", "/mixed/sub/1", "/mixed/hamt/4",
	}
}

// The expected replies are those of boxo's gateway over the same blocks.
func TestArchiveIsBoxos(t *testing.T) {
	t.Parallel()
	m := newMemory()
	root, paths := zoo(t, m)
	ours, theirs := server(t, m, gateway.Options{}), reference(t, m)
	n := 0
	compare := func(path string) {
		t.Helper()
		got, want := ask(t, ours, "GET", path), ask(t, theirs, "GET", path)
		if bytes.Contains(want.body, []byte("truncated")) { // boxo reports it too late
			if got.status != 400 {
				t.Errorf("%s: %d for a range that ends before it begins", path, got.status)
			}
			return
		}
		if got.status != want.status || want.status == 200 && !bytes.Equal(got.body, want.body) || got.err != nil {
			t.Errorf("%s: %d, %d bytes, %v; boxo has %d, %d bytes", path, got.status, len(got.body), got.err, want.status, len(want.body))
		}
		for _, h := range []string{"Etag", "Cache-Control", "Content-Type", "Content-Disposition", "X-Ipfs-Path", "X-Ipfs-Roots", "Accept-Ranges"} {
			if got.header.Get(h) != want.header.Get(h) {
				t.Errorf("%s: %s %q, boxo has %q", path, h, got.header.Get(h), want.header.Get(h))
			}
		}
		n++
	}
	for _, p := range paths {
		for _, scope := range []string{"all", "entity", "block"} {
			for _, dups := range []string{"y", "n"} {
				compare("/ipfs/" + root.Cid().String() + p + "?format=car&dag-scope=" + scope + "&car-dups=" + dups)
			}
		}
	}
	for _, p := range []string{"/big.bin", "/old.bin", "/same.bin", "/one", "/empty", "/few/1", "/large%20old", "/large", "/many"} {
		for _, rng := range []string{
			"0:*", "0:0", "0:1023", "0:1024", "1023:1024", "1024:2047", "5000:90000", "70000:*", "-1:*", "-1024:*", "-1025:*", "-2000000:*",
			"0:-1", "5:-5", "-3000:-1000", "99999999:*", "1:99999999999",
		} {
			for _, dups := range []string{"y", "n"} {
				compare("/ipfs/" + root.Cid().String() + p + "?format=car&dag-scope=entity&entity-bytes=" + rng + "&car-dups=" + dups)
			}
		}
	}
	t.Logf("%d requests", n)
}

// If the first blocks are missing, the reply is an error. If a later block
// turns out to be missing, the transfer breaks off.
func TestArchiveOfParts(t *testing.T) {
	t.Parallel()
	m := newMemory()
	b := made{m, t}
	f := b.file(noise(1, 9<<20), 64<<10, 30, true)
	dir := b.dir(child{"f", f})
	s := server(t, m, gateway.Options{})
	path := "/ipfs/" + dir.Cid().String()
	absent := b.file(noise(2, 3000), 1<<10, 3, true)
	if err := m.bs.DeleteBlock(t.Context(), absent.Cid()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/ipfs/" + absent.Cid().String(), path + "/g", "/ipfs/" + absent.Cid().String() + "/x"} {
		for _, q := range []string{"", "?format=car", "?format=car&dag-scope=block", "?format=tar", "?format=raw"} {
			for _, method := range []string{"GET", "HEAD"} {
				if a := ask(t, s, method, p+q); a.status != 404 || a.header.Get("Etag") != "" {
					t.Errorf("%s %s: %d", method, p+q, a.status)
				}
			}
		}
	}
	var inner []cid.Cid
	for _, l := range f.Links() {
		inner = append(inner, l.Cid)
	}
	node, err := m.dag.Get(t.Context(), inner[2])
	b.check(err)
	last := node.Links()[5].Cid
	if err := m.bs.DeleteBlock(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{"?format=car", "/f", "?format=tar", "/f?format=car&dag-scope=entity"} {
		a := ask(t, s, "GET", path+q)
		if a.status == 200 && a.err == nil {
			t.Errorf("%s: %d, %d bytes and a clean end", q, a.status, len(a.body))
		}
		if a.header.Get("Etag") != "" || a.header.Get("Cache-Control") == "public, max-age=29030400, immutable" {
			t.Errorf("%s: may be kept: %v", q, a.header)
		}
		if bytes.Contains(a.body, []byte("Gateway Error")) || bytes.Contains(a.body, []byte("could not")) {
			t.Errorf("%s: the error is in the body", q)
		}
	}
	// A range that does not need the missing block is served, but must not be
	// cached.
	a := ask(t, s, "GET", path+"/f", "Range", "bytes=100-70000")
	if a.status != 206 || !bytes.Equal(a.body, noise(1, 9<<20)[100:70001]) || a.header.Get("Etag") != "" {
		t.Errorf("a range beside it: %d %v", a.status, a.header)
	}
	etag := `"` + f.Cid().String() + `"`
	if a := ask(t, s, "GET", path+"/f", "If-None-Match", etag, "Range", "bytes=0-5"); a.status != 206 {
		t.Errorf("a copy of what is not whole: %d", a.status)
	}
	m2 := newMemory()
	b2 := made{m2, t}
	b2.dir(child{"f", b2.file(noise(1, 9<<20), 64<<10, 30, true)})
	if a := ask(t, server(t, m2, gateway.Options{}), "GET", path+"/f", "If-None-Match", etag); a.status != 304 {
		t.Errorf("a copy of what is whole: %d", a.status)
	}
}

func TestArchiveBreaks(t *testing.T) {
	t.Parallel()
	for _, bad := range []error{syscall.EIO, io.ErrUnexpectedEOF, walk.ErrMissing, context.DeadlineExceeded} {
		m := newMemory()
		b := made{m, t}
		f := b.file(noise(1, 9<<20), 64<<10, 30, true)
		node, err := m.dag.Get(t.Context(), f.Links()[3].Cid)
		b.check(err)
		m.spoil(node.Links()[7].Cid, bad)
		s := server(t, m, gateway.Options{})
		whole := noise(1, 9<<20)
		at := (3*30 + 7) * 64 << 10
		for _, row := range []struct {
			query, rng string
		}{{"?format=car", ""}, {"", ""}, {"", "bytes=1000000-8000000"}, {"?format=tar", ""}} {
			header := []string{}
			if row.rng != "" {
				header = []string{"Range", row.rng}
			}
			a := ask(t, s, "GET", "/ipfs/"+f.Cid().String()+row.query, header...)
			if a.status/100 == 2 && a.err == nil {
				t.Errorf("%v: %s %s: %d, %d bytes and a clean end", bad, row.query, row.rng, a.status, len(a.body))
			}
			if row.query == "" && row.rng == "" && !bytes.Equal(a.body, whole[:at]) {
				t.Errorf("%v: %d bytes before the bad block, of %d", bad, len(a.body), at)
			}
		}
		m.spoil(f.Links()[0].Cid, bad)
		for _, query := range []string{"?format=car", ""} {
			if a := ask(t, s, "GET", "/ipfs/"+f.Cid().String()+query); a.status < 400 {
				t.Errorf("%v: %s: %d for what can't begin", bad, query, a.status)
			}
		}
	}
}
