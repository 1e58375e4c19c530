package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	ft "github.com/ipfs/boxo/ipld/unixfs"
	ipld "github.com/ipfs/go-ipld-format"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/internal/service/gateway"
)

// TestMaxBytes: with a limit, larger content is refused before its first byte,
// ranges below the limit are served, and listings mark entries that are too
// large.
func TestMaxBytes(t *testing.T) {
	t.Parallel()
	const most = 3 << 20
	m := newMemory()
	b := made{m, t}
	data := noise(4, 5<<20)
	big := b.file(data, 256<<10, 174, true)
	small := b.file(data[:2<<20], 256<<10, 174, true)
	dir := b.dir(child{"big", big}, child{"small", small})
	smalls := b.dir(child{"small", small})
	bomb := merkledag.NewRawNode(noise(5, 1<<20))
	top := b.add(bomb)
	size := uint64(1 << 20)
	for range 40 {
		top = tower2(b, top, size)
		size *= 2
	}
	if size != 1<<60 {
		t.Fatal(size)
	}
	s := server(t, m, gateway.Options{MaxBytes: most})
	path := func(n interface{ String() string }, query string) string { return "/ipfs/" + n.String() + query }
	for _, row := range []struct {
		path, rng string
		status    int
	}{
		{path(big.Cid(), ""), "", 410},
		{path(big.Cid(), ""), "bytes=1-4000000", 410},
		{path(big.Cid(), ""), "bytes=1000000-3000000", 206},
		{path(big.Cid(), "?format=car"), "", 410},
		{path(big.Cid(), "?format=car&dag-scope=entity&entity-bytes=0:1000000"), "", 200},
		{path(big.Cid(), "?format=car&dag-scope=block"), "", 200},
		{path(big.Cid(), "?format=tar"), "", 410},
		{path(big.Cid(), "?format=raw"), "", 200},
		{path(dir.Cid(), "?format=car"), "", 410},
		{path(dir.Cid(), "?format=tar"), "", 410},
		{path(dir.Cid(), "?format=car&dag-scope=entity"), "", 200},
		{path(dir.Cid(), "/small"), "", 200},
		{path(dir.Cid(), "/big"), "", 410},
		{path(smalls.Cid(), "?format=car"), "", 200},
		{path(small.Cid(), "?format=tar"), "", 200},
		{path(top.Cid(), ""), "", 410},
		{path(top.Cid(), "?format=car"), "", 410},
		{path(top.Cid(), ""), "bytes=1152921504606846900-", 206},
	} {
		var header []string
		if row.rng != "" {
			header = []string{"Range", row.rng}
		}
		for _, method := range []string{"GET", "HEAD"} {
			a := ask(t, s, method, row.path, header...)
			if a.status != row.status || a.err != nil {
				t.Errorf("%s %s %s: %d, %v, want %d: %.200s", method, row.path, row.rng, a.status, a.err, row.status, a.body)
			}
			if row.status == 410 && method == "GET" && !bytes.Contains(a.body, []byte(fmt.Sprint(most))) {
				t.Errorf("%s %s: %s", row.path, row.rng, a.body)
			}
		}
	}
	list := ask(t, s, "GET", path(dir.Cid(), "/"))
	for _, line := range bytes.Split(list.body, []byte("\n")) {
		marked := bytes.Contains(line, []byte("too large"))
		if named := bytes.Contains(line, []byte(`>big<`)); named != marked {
			t.Errorf("the list says: %s", line)
		}
	}
	if !bytes.Contains(list.body, []byte(">small<")) || !bytes.Contains(list.body, []byte(">big<")) {
		t.Errorf("the list: %d %s", list.status, list.body)
	}
	if a := ask(t, server(t, m, gateway.Options{MaxBytes: math.MaxInt64}), "GET", path(big.Cid(), "")); !bytes.Equal(a.body, data) {
		t.Errorf("with a bound above it: %d, %d bytes", a.status, len(a.body))
	}
}

// tower2 makes a file whose nodes link twice to the node below.
func tower2(b made, below ipld.Node, size uint64) ipld.Node {
	b.t.Helper()
	n := ft.NewFSNode(ft.TFile)
	p := &merkledag.ProtoNode{}
	for range 2 {
		n.AddBlockSize(size)
		b.check(p.AddRawLink("", &ipld.Link{Size: size, Cid: below.Cid()}))
	}
	data, err := n.GetBytes()
	b.check(err)
	p.SetData(data)
	return b.add(p)
}

// TestMaxBytesOfLiars: an archive that has more than its root claims breaks
// off.
func TestMaxBytesOfLiars(t *testing.T) {
	t.Parallel()
	m := newMemory()
	b := made{m, t}
	big := b.file(noise(6, 9<<20), 256<<10, 174, true)
	dir := b.dir(child{"big", big})
	lying := merkledag.NodeWithData(dir.(*merkledag.ProtoNode).Data())
	for _, l := range dir.Links() {
		l.Size = 10
		b.check(lying.AddRawLink(l.Name, l))
	}
	b.add(lying)
	s := server(t, m, gateway.Options{MaxBytes: 3 << 20})
	for _, query := range []string{"?format=car", "?format=tar"} {
		if a := ask(t, s, "GET", "/ipfs/"+lying.Cid().String()+query); a.status == 200 && a.err == nil || len(a.body) > 5<<20 {
			t.Errorf("%s: %d, %d bytes, %v", query, a.status, len(a.body), a.err)
		}
	}
}

// If there are too many requests, the gateway hangs up on clients that read
// nothing.
func TestPlaceIsMade(t *testing.T) {
	t.Parallel()
	m := newMemory()
	b := made{m, t}
	big := b.file(noise(7, 24<<20), 256<<10, 174, true)
	small := b.add(merkledag.NewRawNode([]byte("small")))
	s := server(t, m, gateway.Options{MaxRequests: 4})
	path := "/ipfs/" + small.Cid().String()
	a := ask(t, s, "GET", path)
	for i := 0; a.status == 200 && i < 1000; i++ {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		b.check(err)
		t.Cleanup(func() { _ = conn.Close() }) // the gateway may have closed it
		// This request is not served by a walk.
		_, err = fmt.Fprintf(conn, "GET /ipfs/%s%s HTTP/1.1\r\nHost: localhost\r\n\r\n", big.Cid(), []string{"", "?format=car", "?format=tar"}[i%3])
		b.check(err)
		a = ask(t, s, "GET", path)
	}
	if a.status != 503 {
		t.Fatalf("%d when there are too many", a.status)
	}
	for deadline := time.Now().Add(30 * time.Second); a.status == 503 && time.Now().Before(deadline); {
		a = ask(t, s, "GET", path) // until the others have stood still long enough
	}
	if a.status != 200 || a.err != nil {
		t.Errorf("%d, %v", a.status, a.err)
	}
}

// TestStalledStreams: the streams of one connection of HTTP/2 are no different
// from connections.
func TestStalledStreams(t *testing.T) {
	t.Parallel()
	m := newMemory()
	b := made{m, t}
	big := b.file(noise(10, 24<<20), 256<<10, 174, true)
	small := b.add(merkledag.NewRawNode([]byte("small")))
	h, err := gateway.New(m, gateway.Options{MaxRequests: 4, Logger: slog.New(slog.DiscardHandler)}, http.NotFoundHandler())
	b.check(err)
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	path := "/ipfs/" + small.Cid().String()
	var bodies []io.ReadCloser
	a := ask(t, s, "GET", path)
	for i := 0; a.status == 200 && i < 100; i++ {
		req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/ipfs/"+big.Cid().String()+[]string{"", "?format=car", "?format=tar"}[i%3], nil)
		b.check(err)
		res, err := s.Client().Do(req) //nolint:bodyclose // closed at the end
		b.check(err)
		if res.ProtoMajor != 2 {
			t.Fatal(res.Proto)
		}
		bodies = append(bodies, res.Body)
		a = ask(t, s, "GET", path)
	}
	if a.status != 503 {
		t.Fatalf("%d when there are too many", a.status)
	}
	for deadline := time.Now().Add(30 * time.Second); a.status == 503 && time.Now().Before(deadline); {
		a = ask(t, s, "GET", path)
	}
	if a.status != 200 || a.err != nil {
		t.Errorf("%d, %v", a.status, a.err)
	}
	broken := 0
	for _, body := range bodies {
		if _, err := io.Copy(io.Discard, body); err != nil {
			broken++
		}
		_ = body.Close() // of what was reset
	}
	if broken == 0 || broken == len(bodies) {
		t.Errorf("%d of %d streams were reset", broken, len(bodies))
	}
}

// TestStalledBlocks: the blocks and tar files of clients that read nothing are
// bounded in bytes, and others are answered.
func TestStalledBlocks(t *testing.T) {
	t.Parallel()
	m := newMemory()
	b := made{m, t}
	large := b.add(merkledag.NewRawNode(noise(8, 2<<20)))
	file := b.file(noise(9, 8<<20), 1<<20, 174, true)
	small := b.add(merkledag.NewRawNode([]byte("small")))
	h, err := gateway.New(m, gateway.Options{Logger: slog.New(slog.DiscardHandler)}, http.NotFoundHandler())
	b.check(err)
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		b.check(c.(*net.TCPConn).SetWriteBuffer(16 << 10)) // so that the system doesn't take it all
		return ctx
	}
	s.Start()
	t.Cleanup(s.Close)
	const clients = 140
	for _, path := range []string{large.Cid().String() + "?format=raw", file.Cid().String() + "?format=tar"} {
		var conns []net.Conn
		for range clients {
			conn, err := net.Dial("tcp", s.Listener.Addr().String())
			b.check(err)
			b.check(conn.(*net.TCPConn).SetReadBuffer(16 << 10))
			_, err = fmt.Fprintf(conn, "GET /ipfs/%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path)
			b.check(err)
			conns = append(conns, conn)
		}
		var begun errgroup.Group
		for _, conn := range conns {
			begun.Go(func() error {
				_, _ = io.ReadFull(conn, make([]byte, len("HTTP/1.1 "))) // the gateway may have hung up
				return nil
			})
		}
		b.check(begun.Wait())
		// Until there is room for these, the gateway hangs up on others.
		for _, honest := range []string{small.Cid().String() + "?format=raw", small.Cid().String() + "?format=tar"} {
			var a answer
			for deadline := time.Now().Add(2 * time.Minute); a.status != 200 && time.Now().Before(deadline); {
				a = ask(t, s, "GET", "/ipfs/"+honest)
			}
			if a.status != 200 || a.err != nil {
				t.Errorf("%s: %d, %v", honest, a.status, a.err)
			}
		}
		var hungUp atomic.Int64
		var g errgroup.Group
		for _, conn := range conns {
			g.Go(func() error {
				if _, err := io.CopyN(io.Discard, conn, 256<<10); err != nil { // more than the system has
					hungUp.Add(1)
				}
				return conn.Close()
			})
		}
		b.check(g.Wait())
		if hungUp.Load() == 0 {
			t.Errorf("%s: the replies of all %d clients are kept for them", path, clients)
		}
	}
}

// deadlines is a writer that records its write deadline.
type deadlines struct {
	*httptest.ResponseRecorder
	last time.Time
}

// SetWriteDeadline is called by http.ResponseController.
func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.last = t
	return nil
}

// What net/http still has buffered at the end of a reply needs a deadline too.
func TestLastFlushHasADeadline(t *testing.T) {
	t.Parallel()
	m := newMemory()
	b := made{m, t}
	small := b.add(merkledag.NewRawNode([]byte("small")))
	h, err := gateway.New(m, gateway.Options{Logger: slog.New(slog.DiscardHandler)}, http.NotFoundHandler())
	b.check(err)
	for _, query := range []string{"", "?format=raw", "?format=car", "/nothing"} {
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/ipfs/"+small.Cid().String()+query, nil))
		if !w.last.After(time.Now()) {
			t.Errorf("%q: %d, deadline %v", query, w.Code, w.last)
		}
	}
}
