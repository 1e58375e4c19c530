package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/internal/store/storetest"
)

// readAll finds blocks and reads all that can be read.
func (s *shelf) readAll(want []block) (n int, absent, err error) {
	s.t.Helper()
	var cids []cid.Cid
	for _, b := range want {
		cids = append(cids, b.CID)
	}
	batch, err := s.Find(s.t.Context(), cids)
	if err != nil {
		s.t.Fatal(err)
	}
	size, held := 0, 0
	for ; held < len(want) && batch.Size(held) >= 0; held++ {
		size += batch.Size(held)
	}
	buf := make([]byte, size)
	n, err = batch.Read(s.t.Context(), 0, held, buf)
	for _, b := range want[:n] {
		if !bytes.Equal(buf[:len(b.Data)], b.Data) {
			s.t.Errorf("block %s: other bytes", b.CID)
		}
		buf = buf[len(b.Data):]
	}
	return n, batch.Absent, err
}

// Blocks come in the order of the request, whatever their shards and hash
// functions.
func TestBatch(t *testing.T) {
	t.Parallel()
	s := newShelf(t, store.Options{})
	var want []block
	for i := range 700 {
		leaf := raw(fmt.Sprintf("leaf %d", i%650)) // some are repeated
		if i%50 == 7 {
			leaf = storetest.HashedBlock(cid.Raw, multihash.BLAKE2B_MIN+31, fmt.Appendf(nil, "leaf %d", i))
		}
		want = append(want, leaf)
	}
	want = append(want, raw(""))
	for i := range 80 { // more than are kept open
		root := pbNode(fmt.Sprint(i), want[i].CID)
		s.put(carOf(append([]block{root}, want[i*len(want)/80:(i+1)*len(want)/80]...)...))
	}
	for range 2 {
		if n, absent, err := s.readAll(want); n != len(want) || absent != nil || err != nil {
			t.Errorf("%d of %d blocks, %v %v", n, len(want), absent, err)
		}
	}
	if n, absent, err := s.readAll(append(want[:3:3], raw("absent"), want[4])); n != 3 || !errors.Is(absent, store.ErrNotHeld) || err != nil {
		t.Errorf("%d blocks before one that is not held: %v %v", n, absent, err)
	}
}

// A copy that is damaged in any way is replaced by a good one. If there is
// none, the reader gets the blocks before it, and never wrong bytes.
func TestBatchOfDamaged(t *testing.T) {
	t.Parallel()
	harms := map[string]func(path string, at int64) error{
		"flipped": func(path string, at int64) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{0xff}, at)
			return errors.Join(err, f.Close())
		},
		"truncated": func(path string, at int64) error { return os.Truncate(path, at) },
		"deleted":   func(path string, _ int64) error { return os.Remove(path) },
		"a folder":  func(path string, _ int64) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, // reading it fails with EISDIR
	}
	for name, harm := range harms {
		for _, kept := range []bool{false, true} { // whether the file was open before the damage
			dir := t.TempDir()
			s := newShelf(t, store.Options{Dir: dir})
			leaves := []block{raw("leaf a"), raw("leaf b"), raw("leaf c"), raw("leaf d")}
			root := pbNode("root", leaves[0].CID, leaves[1].CID, leaves[2].CID, leaves[3].CID)
			body := carOf(append([]block{root}, leaves...)...)
			part := s.put(body).Parts[0]
			if kept {
				if n, _, err := s.readAll(leaves); n != 4 || err != nil {
					t.Fatal(n, err)
				}
			}
			if err := harm(shardFile(dir, part), int64(bytes.Index(body, leaves[2].Data))); err != nil {
				t.Fatal(err)
			}
			n, _, err := s.readAll(leaves)
			gone := name == "deleted" || name == "a folder"
			switch {
			case kept && gone: // the open file is still right
				if n != 4 || err != nil {
					t.Errorf("%s, kept open: %d %v", name, n, err)
				}
			case gone && (n != 0 || err == nil), !gone && (n != 2 || !errors.Is(err, store.ErrDamaged)):
				t.Errorf("%s: %d %v", name, n, err)
			}
			if gone && !kept || !gone {
				other := pbNode("other", leaves[0].CID)
				s.put(carOf(append([]block{other}, leaves...)...))
				if n, absent, err := s.readAll(leaves); n != 4 || absent != nil || err != nil {
					t.Errorf("%s, with a good copy: %d %v %v", name, n, absent, err)
				}
			}
		}
	}
}

// A file is not kept open after its shard was collected or sent again.
func TestOpenFilesAreDropped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	leaf := raw("a leaf")
	root := pbNode("root", leaf.CID)
	body := carOf(root, leaf)
	part := s.put(body).Parts[0]
	damage(t, dir, part, leaf)
	if n, _, err := s.readAll([]block{root, leaf}); n != 1 || !errors.Is(err, store.ErrDamaged) {
		t.Errorf("%d %v", n, err)
	}
	s.put(body)
	if n, _, err := s.readAll([]block{root, leaf}); n != 2 || err != nil {
		t.Errorf("mended: %d %v", n, err)
	}
	s.drop(root.CID)
	if _, err := s.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := openShards(t, dir); n != 0 {
		t.Errorf("%d shards are open that were collected", n)
	}
}
