package service_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	commcid "github.com/filecoin-project/go-fil-commcid"
	commp "github.com/filecoin-project/go-fil-commp-hashhash"
	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
)

// pieceOf returns the piece according to the reference implementation.
func pieceOf(t *testing.T, data []byte) (v1, v2 string, padded uint64) {
	t.Helper()
	var calc commp.Calc
	_, _ = calc.Write(data)
	digest, padded, err := calc.Digest()
	if err != nil {
		t.Fatal(err)
	}
	one, err1 := commcid.DataCommitmentV1ToCID(digest)
	two, err2 := commcid.DataCommitmentToPieceCidv2(digest, uint64(len(data)))
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return one.String(), two.String(), padded
}

type detail struct {
	CID, PieceCID, PieceCIDV2 string
	FileSize                  int
	PieceSize                 uint64
}

// TestPieces acts as a storage provider that pulls shards by their piece CIDs.
func TestPieces(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	data := carOf(raw(strings.Repeat("a leaf that fills a piece of two KiB", 40)))
	part := s.putCAR(data).upload(t).Parts[0]
	v1, v2, padded := pieceOf(t, data)

	for _, id := range []string{v1, v2} {
		if a := s.do("GET", "/piece/"+id, nil); a.status != 404 {
			t.Errorf("before anybody asked: %d", a.status)
		}
	}
	if a := s.do("GET", "/internal/shards/"+part, nil, "Authorization", ""); a.status != 401 {
		t.Errorf("detail without a key: %d", a.status)
	}
	for range 2 { // computed the first time, stored the second
		a := s.do("GET", "/internal/shards/"+part, nil)
		var d detail
		if err := json.Unmarshal(a.Value, &d); err != nil {
			t.Fatalf("%v in %s", err, a.raw)
		}
		if want := (detail{part, v1, v2, len(data), padded}); d != want {
			t.Errorf("detail %+v, want %+v", d, want)
		}
	}
	for _, id := range []string{v1, v2} {
		path := "/piece/" + id
		a := s.do("GET", path, nil, "Authorization", "")
		if a.status != 200 || !bytes.Equal(a.raw, data) {
			t.Errorf("%s: %d with %d bytes", path, a.status, len(a.raw))
		}
		etag := a.header.Get("Etag")
		for name, want := range map[string]string{
			"Content-Type": "application/vnd.ipld.car; version=1", "Content-Disposition": `attachment; filename="` + id + `.car"`,
			"Cache-Control": "public, max-age=29030400, immutable", "X-Content-Type-Options": "nosniff", "Accept-Ranges": "bytes",
			"Etag": `"` + v2 + `"`, "Content-Length": strconv.Itoa(len(data)),
		} {
			if got := a.header.Get(name); got != want {
				t.Errorf("%s: %s %q, want %q", path, name, got, want)
			}
		}
		if a := s.do("HEAD", path, nil); a.status != 200 || len(a.raw) != 0 || a.header.Get("Content-Length") != strconv.Itoa(len(data)) {
			t.Errorf("HEAD %s: %d %v", path, a.status, a.header)
		}
		if a := s.do("GET", path, nil, "Range", "bytes=100-199"); a.status != 206 || !bytes.Equal(a.raw, data[100:200]) {
			t.Errorf("a range: %d with %d bytes", a.status, len(a.raw))
		}
		if a := s.do("GET", path, nil, "Range", "bytes=-10"); a.status != 206 || !bytes.Equal(a.raw, data[len(data)-10:]) {
			t.Errorf("the end: %d with %d bytes", a.status, len(a.raw))
		}
		if a := s.do("GET", path, nil, "Range", "bytes=99999-"); a.status != 416 {
			t.Errorf("a range behind the end: %d", a.status)
		}
		if a := s.do("GET", path, nil, "If-None-Match", etag); a.status != 304 {
			t.Errorf("with its own tag: %d", a.status)
		}
	}
	_, longer, _ := pieceOf(t, append(bytes.Clone(data), 0)) // has the same commitment
	for path, want := range map[string]int{
		"/piece/" + longer: 404, "/piece/" + part: 400, "/piece/x": 400, "/internal/shards/x": 400,
		"/internal/shards/" + cid.NewCidV1(0x0202, raw("other").CID.Hash()).String(): 404,
	} {
		if a := s.do("GET", path, nil); a.status != want {
			t.Errorf("%s: %d, want %d", path, a.status, want)
		}
	}

	// The piece outlives the process, but not the shard.
	s.close()
	again := newServer(t, options{Dir: dir})
	again.token = s.token
	if a := again.do("GET", "/piece/"+v1, nil); a.status != 200 || !bytes.Equal(a.raw, data) {
		t.Errorf("after a restart: %d", a.status)
	}
	root := raw(strings.Repeat("a leaf that fills a piece of two KiB", 40)).CID
	if a := again.do("DELETE", "/"+root.String(), nil); a.status != 202 {
		t.Fatalf("delete: %d %s", a.status, a.raw)
	}
	if r, err := again.st.Collect(t.Context()); err != nil || r.Shards != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if a := again.do("GET", "/piece/"+v1, nil); a.status != 404 {
		t.Errorf("after the shard is gone: %d", a.status)
	}
	if a := again.do("GET", "/internal/shards/"+part, nil); a.status != 404 {
		t.Errorf("detail after the shard is gone: %d", a.status)
	}
}

// TestPieceOfDamage: the piece of damaged bytes is not taken for the shard's.
func TestPieceOfDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	data := carOf(raw(strings.Repeat("leaf", 50)))
	part := s.putCAR(data).upload(t).Parts[0]
	path := filepath.Join(dir, "shards", part[len(part)-2:], part+".car")
	for name, harm := range map[string][]byte{"flipped": flip(data, -1), "cut": data[:len(data)-1], "longer": append(bytes.Clone(data), 0)} {
		if err := os.WriteFile(path, harm, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.st.Piece(t.Context(), cid.MustParse(part)); !errors.Is(err, store.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	v1, _, _ := pieceOf(t, data)
	if p, err := s.st.Piece(t.Context(), cid.MustParse(part)); err != nil || p.V1().String() != v1 {
		t.Errorf("whole again: %s, %v", p.V1(), err)
	}
	// Once the damage is known, the shard is not served.
	if err := os.WriteFile(path, flip(data, -1), 0o600); err != nil {
		t.Fatal(err)
	}
	fsck(t, s)
	if a := s.do("GET", "/piece/"+v1, nil); a.status != 404 {
		t.Errorf("damaged: %d", a.status)
	}
}
