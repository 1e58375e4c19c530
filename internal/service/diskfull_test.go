package service_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/ipfs/go-cid"
)

// TestDiskFull needs a directory on a file system of about 32 MiB, which
// whoever runs it must provide.
func TestDiskFull(t *testing.T) {
	dir := os.Getenv("CARLOAD_TEST_SMALL_DISK")
	if dir == "" {
		t.Skip("CARLOAD_TEST_SMALL_DISK names no small disk")
	}
	s := newServer(t, options{Dir: dir + "/store"})
	shard := func(i int) []byte {
		var leaves []block
		for j := range 4 {
			leaves = append(leaves, blockOf(cid.Raw, bytes.Repeat([]byte{byte(i), byte(j)}, 512<<10)))
		}
		return carOf(leaves...)
	}
	accepted := 0
	for ; ; accepted++ {
		a := s.putCAR(shard(accepted))
		if a.status == 507 && a.Error.Code == "ERROR_INSUFFICIENT_STORAGE" {
			break
		}
		a.upload(t)
	}
	if accepted == 0 {
		t.Fatal("the disk is too small for one shard")
	}
	if f := fsck(t, s); len(f.Problems) > 0 || f.Shards != accepted || f.Orphans != 0 {
		t.Fatalf("after %d shards: %+v", accepted, f)
	}
	root := blockOf(cid.Raw, bytes.Repeat([]byte{0, 0}, 512<<10))
	if a := s.do("GET", "/ipfs/"+root.CID.String()+"?format=raw", nil); !bytes.Equal(a.raw, root.Data) {
		t.Fatalf("reading: %d", a.status)
	}
	s.do("DELETE", "/"+root.CID.String(), nil)
	if r, err := s.st.Collect(t.Context()); err != nil || r.Shards != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	s.putCAR(shard(accepted)).upload(t)
}
