package service_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
)

// cidsOf returns the CIDs in a CAR, and checks each block.
func cidsOf(t *testing.T, body []byte) []string {
	t.Helper()
	r, err := car.NewReader(bytes.NewReader(body), car.ReaderOptions{})
	if err != nil {
		t.Fatalf("%v in %q", err, body)
	}
	var out []string
	for {
		sec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, sec.Cid.String())
	}
}

func TestGateway(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	content := make([]byte, 1<<20)
	for i := range content {
		content[i] = byte(i*i>>8 + i>>18)
	}
	body, mime := form(t, formPart{"file", "dir/data.bin", "", string(content)}, formPart{"file", "index.txt", "", "hello"})
	u := s.do("POST", "/upload", body, "Content-Type", mime).upload(t)
	base := "/ipfs/" + u.CID

	for _, row := range []struct {
		name, method, path string
		header             []string
		status             int
		want               []byte
	}{
		{"file", "GET", "/dir/data.bin", nil, 200, content},
		{"head", "HEAD", "/dir/data.bin", nil, 200, nil},
		{"range", "GET", "/dir/data.bin", []string{"Range", "bytes=262140-262150"}, 206, content[262140:262151]},
		{"end", "GET", "/dir/data.bin", []string{"Range", "bytes=-5"}, 206, content[len(content)-5:]},
		{"beyond", "GET", "/dir/data.bin", []string{"Range", "bytes=2000000-"}, 416, nil},
		{"listing", "GET", "/", []string{"Accept", "text/html"}, 200, nil},
		{"missing", "GET", "/nothing", nil, 404, nil},
	} {
		a := s.do(row.method, base+row.path, nil, append(row.header, "Authorization", "")...)
		if a.status != row.status || row.want != nil && !bytes.Equal(a.raw, row.want) {
			t.Errorf("%s: %d, %d bytes", row.name, a.status, len(a.raw))
		}
		if row.status == 200 && row.name == "file" && !strings.Contains(a.header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: caching %q", row.name, a.header.Get("Cache-Control"))
		}
	}
	if a := s.do("GET", base+"/", nil); !strings.Contains(string(a.raw), "index.txt") {
		t.Errorf("listing: %d %s", a.status, a.raw)
	}

	all := cidsOf(t, s.do("GET", base+"?format=car", nil).raw)
	if len(all) != 8 || all[0] != u.CID { // two directories, the node and four leaves of a file, and another leaf
		t.Errorf("the whole DAG: %v", all)
	}
	if got := cidsOf(t, s.do("GET", base+"?format=car&dag-scope=block", nil).raw); len(got) != 1 {
		t.Errorf("dag-scope=block: %v", got)
	}
	if got := cidsOf(t, s.do("GET", base+"/dir/data.bin?format=car&dag-scope=entity&entity-bytes=0:9", nil).raw); len(got) != 4 {
		t.Errorf("entity-bytes: %v", got)
	}
	for _, c := range all {
		a := s.do("GET", "/ipfs/"+c+"?format=raw", nil)
		if got, err := cid.MustParse(c).Prefix().Sum(a.raw); err != nil || got.String() != c {
			t.Errorf("raw %s: %d %v", c, a.status, err)
		}
	}
	absent := raw("absent").CID.String()
	if a := s.do("GET", "/ipfs/"+absent+"?format=raw", nil); a.status < 400 {
		t.Errorf("absent: %d", a.status)
	}
}

func TestGatewayByName(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	u := s.do("POST", "/upload", []byte("by name")).upload(t)
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.http.URL+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = u.CID + ".ipfs.localhost:1234"
	res, err := s.http.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 200 || string(got) != "by name" {
		t.Errorf("%d %q", res.StatusCode, got)
	}
}

func TestDiscard(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir, Discard: true})
	keep := newServer(t, options{})
	big := blockOf(cid.Raw, bytes.Repeat([]byte("data"), 500_000))
	late := raw("late")
	root := pbNode("root", big.CID, late.CID)
	for i, row := range []struct {
		body   []byte
		status string
	}{{carOf(root, big), "pinning"}, {wrapV2(carOf(root, late)), "pinned"}} {
		u := s.putCAR(row.body).upload(t)
		if u.Pin.Status != row.status || u.Parts[i] != keep.putCAR(row.body).upload(t).Parts[i] {
			t.Errorf("%d: %+v", i, u)
		}
	}
	if a := s.putCAR(flip(carOf(root, big), -1)); a.status != 400 {
		t.Errorf("damaged: %d", a.status)
	}
	if a := s.do("GET", "/ipfs/"+root.CID.String()+"?format=raw", nil); !bytes.Equal(a.raw, root.Data) {
		t.Errorf("inner nodes are kept: %d", a.status)
	}
	if a := s.do("GET", "/ipfs/"+big.CID.String()+"?format=raw", nil); a.status == 200 {
		t.Error("a discarded leaf was given out")
	}
}
