package service_test

import (
	"bytes"
	"testing"

	"github.com/ipfs/go-cid"
)

func TestUploadShards(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	a, b := raw("leaf a"), raw("leaf b")
	left, right := pbNode("left", a.CID), cborNode("right", b.CID, a.CID)
	root := pbNode("root", left.CID, right.CID)

	one := s.putCAR(carOf(root, left, a)).upload(t)
	if one.CID != root.CID.String() || one.Pin.Status != "pinning" || len(one.Parts) != 1 {
		t.Fatalf("first shard: %+v", one)
	}
	two := s.putCAR(carOf(root, right, b)).upload(t)
	if two.Pin.Status != "pinned" || len(two.Parts) != 2 || two.Parts[0] != one.Parts[0] {
		t.Fatalf("second shard: %+v", two)
	}
	if got := s.status(root.CID); got != "pinned" {
		t.Fatalf("check says %s", got)
	}
	got := s.do("GET", "/ipfs/"+b.CID.String()+"?format=raw", nil)
	if !bytes.Equal(got.raw, b.Data) {
		t.Fatalf("gateway: %d %q", got.status, got.raw)
	}
	if got := s.do("DELETE", "/"+root.CID.String(), nil); got.status != 202 || string(got.raw) != `{"ok":true}` {
		t.Fatalf("delete: %d %s", got.status, got.raw)
	}
	if got := s.do("GET", "/"+root.CID.String(), nil); got.status != 404 || got.Error.Message != "NFT not found" {
		t.Fatalf("get after delete: %d %s", got.status, got.raw)
	}
}

func TestUploadBlob(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	u := s.do("POST", "/upload", []byte("hello world!"), "Content-Type", "text/plain").upload(t)
	if u.CID != "bafkreidvbhs33ighmljlvr7zbv2ywwzcmp5adtf4kqvlly67cy56bdtmve" || u.Size != 12 || u.Type != "text/plain" || u.Pin.Status != "pinned" {
		t.Fatalf("%+v", u)
	}
	big := bytes.Repeat([]byte("carload!"), 400_000)
	u = s.do("POST", "/upload", big).upload(t)
	got := s.do("GET", "/ipfs/"+u.CID, nil)
	if !bytes.Equal(got.raw, big) {
		t.Fatalf("gateway gave %d bytes, status %d", len(got.raw), got.status)
	}
	part := s.do("GET", "/ipfs/"+u.CID, nil, "Range", "bytes=300000-300007")
	if part.status != 206 || !bytes.Equal(part.raw, big[300000:300008]) {
		t.Fatalf("range: %d %q", part.status, part.raw)
	}
	if _, err := cid.Decode(u.Parts[0]); err != nil {
		t.Fatal(err)
	}
}
