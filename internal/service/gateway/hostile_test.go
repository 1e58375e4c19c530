package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	ft "github.com/ipfs/boxo/ipld/unixfs"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/carload/carload/internal/service/gateway"
	"github.com/carload/carload/internal/walk"
)

// tower makes a file of ten levels, in which each node links to the same child
// a hundred times. The nodes state the sizes of their parts, or leave them out.
func tower(b made, leaf ipld.Node, size uint64, said bool) ipld.Node {
	for range 10 {
		n := ft.NewFSNode(ft.TFile)
		p := &merkledag.ProtoNode{}
		for range 100 {
			b.check(p.AddRawLink("", &ipld.Link{Size: 100, Cid: leaf.Cid()}))
			if said {
				n.AddBlockSize(size)
			}
		}
		data, err := n.GetBytes()
		b.check(err)
		if !said {
			data = []byte{8, 2} // only the type
		}
		p.SetData(data)
		b.add(p)
		leaf, size = p, 100*size
	}
	return leaf
}

// A few KB that unfold to 100^10 paths must not cost more than an ordinary
// request.
func TestTower(t *testing.T) {
	t.Parallel()
	m := newMemory()
	b := made{m, t}
	s := server(t, m, gateway.Options{})
	empty := b.add(merkledag.NewRawNode(nil))
	one := b.add(merkledag.NewRawNode([]byte("x")))
	oldEmpty := b.add(typed(ft.TFile, nil))
	deep := ipld.Node(one)
	for range 100 { // a hundred blocks for one byte
		deep = tower1(b, deep, 1)
	}
	for name, root := range map[string]ipld.Node{
		"empty leaf": tower(b, empty, 0, true), "no sizes": tower(b, empty, 0, false), "old leaf": tower(b, oldEmpty, 0, true),
		"old leaf, no sizes": tower(b, oldEmpty, 0, false), "hundred blocks a byte": tower(b, deep, 1, false),
	} {
		for _, query := range []string{"", "?format=car", "?format=car&dag-scope=entity", "?format=tar"} {
			for _, method := range []string{"HEAD", "GET"} {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				before := m.count()
				req, err := http.NewRequestWithContext(ctx, method, s.URL+"/ipfs/"+root.Cid().String()+query, nil)
				b.check(err)
				res, err := s.Client().Do(req)
				n := int64(0)
				if err == nil {
					n, err = io.Copy(io.Discard, res.Body)
					_ = res.Body.Close()
				}
				if ctx.Err() != nil {
					t.Errorf("%s %s %s: not done in a minute", name, method, query)
				}
				if reads := m.count() - before; reads > 20_000 {
					t.Errorf("%s %s %s: %d blocks read for %d bytes, %v", name, method, query, reads, n, err)
				}
				cancel()
			}
		}
	}
}

func tower1(b made, leaf ipld.Node, size uint64) ipld.Node {
	n := ft.NewFSNode(ft.TFile)
	n.AddBlockSize(size)
	p := &merkledag.ProtoNode{}
	b.check(p.AddRawLink("", &ipld.Link{Size: 100, Cid: leaf.Cid()}))
	data, err := n.GetBytes()
	b.check(err)
	p.SetData(data)
	return b.add(p)
}

func (m *memory) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reads
}

// Old writers left sizes that don't match the links in number. The expected
// bytes are those of Kubo's cat; testdata/awkward describes the cases.
func TestUnsized(t *testing.T) {
	t.Parallel()
	m := newMemory()
	for _, name := range []string{"no-blocksizes", "bs-fewer", "bs-none-nosize", "no-filesize"} {
		addCAR(t, m, filepath.Join("..", "..", "..", "testdata", "awkward", name+".car"))
	}
	s := server(t, m, gateway.Options{})
	var want []byte
	for _, c := range []string{
		"bafybeich6zyudomm7pdsgy4epmjdvrgd54fsdbhj5x6qraqnntbn67tw5i", "bafybeih664zrng52aahlfooerhdczpjsv2lh5la3cid7tovv4pjzeifau4",
		"bafybeics65xjpbr3im2zlpm4m2xskwy4qlznbkmex4dsp5lw56kvsxho5m", "bafybeiadeypfeqa5fzdg5ns7egfivgaxkzwhum6bazcx2dfnxestfnhgda",
	} {
		a := ask(t, s, "GET", "/ipfs/"+c)
		if a.status != 200 || len(a.body) != 1500 || want != nil && !bytes.Equal(a.body, want) {
			t.Errorf("%s: %d, %d bytes", c, a.status, len(a.body))
		}
		want = a.body
		if a := ask(t, s, "GET", "/ipfs/"+c, "Range", "bytes=990-1010"); a.status != 206 || !bytes.Equal(a.body, want[990:1011]) {
			t.Errorf("%s: a range: %d, %d bytes", c, a.status, len(a.body))
		}
		if a := ask(t, s, "HEAD", "/ipfs/"+c); a.header.Get("Content-Length") != "1500" {
			t.Errorf("%s: HEAD %v", c, a.header)
		}
		if a := ask(t, s, "GET", "/ipfs/"+c+"?format=car&dag-scope=entity"); a.status != 200 || a.err != nil {
			t.Errorf("%s: archive %d %v", c, a.status, a.err)
		}
	}
}

// If a size is wrong about bytes that are held, the request fails, or the
// transfer breaks off.
func TestLyingSizes(t *testing.T) {
	t.Parallel()
	m := newMemory()
	b := made{m, t}
	s := server(t, m, gateway.Options{})
	for _, claimed := range []uint64{0, 1, 9, 11, 1 << 40, 1 << 62} {
		f := tower1(b, b.add(merkledag.NewRawNode(noise(1, 10))), claimed)
		a := ask(t, s, "GET", "/ipfs/"+f.Cid().String())
		if a.status == 200 && a.err == nil && len(a.body) > 0 {
			t.Errorf("%d claimed, 10 there: %d bytes and a clean end", claimed, len(a.body))
		}
	}
}

// A listing of many names is plain, and is sent while the directory is read.
func TestLongListing(t *testing.T) {
	t.Parallel()
	m := newMemory()
	b := made{m, t}
	var many []child
	leaf := b.add(merkledag.NewRawNode([]byte("x")))
	for i := range 5000 {
		many = append(many, child{fmt.Sprintf("file <%d>?#.txt", i), leaf})
	}
	s := server(t, m, gateway.Options{})
	for kind, dir := range map[string]ipld.Node{"sharded": b.hamt(many...), "plain": b.dir(many...)} {
		root := b.dir(child{"d", dir})
		path := "/ipfs/" + root.Cid().String() + "/d/"
		a := ask(t, s, "GET", path)
		if a.status != 200 || a.err != nil || !strings.HasPrefix(a.header.Get("Content-Type"), "text/html") || a.header.Get("X-Ipfs-Path") != path {
			t.Fatalf("%s: %d %v %v", kind, a.status, a.err, a.header)
		}
		for _, c := range many {
			if i := strings.TrimSuffix(strings.TrimPrefix(c.name, "file <"), ">?#.txt"); !bytes.Contains(a.body, []byte(`<a href="./file%20%3C`+i+`%3E%3F%23.txt">file &lt;`+i+`&gt;?#.txt</a>`)) {
				t.Fatalf("%s: no %s", kind, c.name)
			}
		}
		if n := bytes.Count(a.body, []byte(leaf.Cid().String())); n != len(many) {
			t.Errorf("%s: %d entries", kind, n)
		}
		head := ask(t, s, "HEAD", path)
		if head.status != 200 || head.header.Get("Etag") != a.header.Get("Etag") || head.header.Get("Content-Type") != a.header.Get("Content-Type") {
			t.Errorf("%s: HEAD %d %v, GET %v", kind, head.status, head.header, a.header)
		}
		if a := ask(t, s, "GET", strings.TrimSuffix(path, "/")); a.status != 301 {
			t.Errorf("%s: without a slash: %d", kind, a.status)
		}
		if a := ask(t, s, "GET", path+"file%20%3C77%3E%3F%23.txt"); string(a.body) != "x" {
			t.Errorf("%s: one by its name: %d %s", kind, a.status, a.body)
		}
		if a := ask(t, s, "GET", path, "If-None-Match", a.header.Get("Etag")); a.status != 304 {
			t.Errorf("%s: a copy: %d", kind, a.status)
		}
	}
	index := b.hamt(append(many, child{"index.html", b.add(merkledag.NewRawNode([]byte("<p>index")))})...)
	if a := ask(t, s, "GET", "/ipfs/"+index.Cid().String()+"/"); string(a.body) != "<p>index" {
		t.Errorf("an index: %d %.100s", a.status, a.body)
	}
}

// With almost no memory, everything can still be read, even by many clients at
// once.
func TestLittleMemory(t *testing.T) {
	t.Parallel()
	m := newMemory()
	b := made{m, t}
	data := noise(5, 6<<20)
	f := b.file(data, 300<<10, 4, true)
	s := server(t, m, gateway.Options{Walk: walk.Options{Memory: 1 << 10, Walks: 2}})
	want := ask(t, reference(t, m), "GET", "/ipfs/"+f.Cid().String()+"?format=car").body
	done := make(chan error)
	for i := range 8 {
		go func() {
			query, right := "", data
			if i%2 == 0 {
				query, right = "?format=car", want
			}
			a := ask(t, s, "GET", "/ipfs/"+f.Cid().String()+query)
			if a.err == nil && !bytes.Equal(a.body, right) {
				a.err = fmt.Errorf("%d, %d bytes", a.status, len(a.body))
			}
			done <- a.err
		}()
	}
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
