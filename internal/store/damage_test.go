package store_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carload/carload/internal/store"
)

func shardFile(dir, part string) string {
	return filepath.Join(dir, "shards", part[len(part)-2:], part+".car")
}

// damage changes a byte of a block in a shard's file.
func damage(t *testing.T, dir, part string, b block) {
	t.Helper()
	data, err := os.ReadFile(shardFile(dir, part))
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(data, b.Data)
	if i < 0 {
		t.Fatalf("shard %s has no block %s", part, b.CID)
	}
	data[i] ^= 0xff
	if err := os.WriteFile(shardFile(dir, part), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A block is served as long as any copy of it is sound.
func TestDamagedCopies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var log bytes.Buffer
	s := newShelf(t, store.Options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	leaves := []block{raw("leaf a"), raw("leaf b"), raw("leaf c")}
	root := pbNode("root", leaves[0].CID, leaves[1].CID, leaves[2].CID)
	var parts []string
	for _, l := range leaves {
		parts = s.put(carOf(root, l)).Parts
	}
	for i, harm := range []func(){
		func() { damage(t, dir, parts[0], root) },
		func() {
			if err := os.Remove(shardFile(dir, parts[2])); err != nil {
				t.Fatal(err)
			}
		},
	} {
		harm()
		if !s.has(root) {
			t.Errorf("after %d damages: not held", i+1)
		}
	}
	if err := os.Truncate(shardFile(dir, parts[1]), 90); err != nil {
		t.Fatal(err)
	}
	if s.has(root) || s.has(leaves[2]) || !s.has(leaves[0]) {
		t.Error("no sound copy is left of the root, the only shard of a leaf is lost, and another leaf is sound")
	}
	if u := s.upload(root.CID); u.State != incomplete || len(u.Parts) != 0 {
		t.Errorf("damaged: %+v", u)
	}
	// A client that learns of the damage sends the missing shards again.
	for i, want := range []bool{false, false, true} {
		if got := s.has(leaves[2]); got != want {
			t.Errorf("before shard %d came again: held is %t", i, got)
		}
		if i < 2 {
			s.put(carOf(root, leaves[i+1]))
		}
	}
	u := s.put(carOf(root, leaves[0]))
	if u.State != complete || len(u.Parts) != 3 || !s.has(root) {
		t.Errorf("mended: %+v", u)
	}
	if r := fsck(t, s); len(r.Problems) > 0 || r.Shards != 3 {
		t.Errorf("mended: %+v", r)
	}
	if n := strings.Count(log.String(), "a copy of a block is damaged"); n != 4 || !strings.Contains(log.String(), "shard="+parts[0]) {
		t.Errorf("%d damaged copies in the log, want 4:\n%s", n, &log)
	}
}

// Links are never read from damaged bytes.
func TestDamagedNodeStaysUnread(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	leaf := raw("leaf")
	inner := pbNode("inner", leaf.CID)
	asLeaf := block{CID: raw(string(inner.Data)).CID, Data: inner.Data}
	first := s.put(carOf(asLeaf, leaf)) // the store does not know it as a node
	damage(t, dir, first.Parts[0], inner)
	root := pbNode("root", inner.CID)
	if u := s.put(carOf(root, raw("other"))); u.State != incomplete {
		t.Errorf("%+v", u.State)
	}
	s.put(carOf(asLeaf, leaf))
	if got := s.state(root.CID); got != complete {
		t.Errorf("mended: %d", got)
	}
	if r := fsck(t, s); len(r.Problems) > 0 {
		t.Errorf("%+v", r)
	}
}

func TestGCOfDamagedStore(t *testing.T) {
	t.Parallel()
	leaf, other := raw("a leaf"), raw("other")
	first := pbNode("first", leaf.CID)
	root := pbNode("root", leaf.CID, other.CID)
	// The leaf is in a shard of a deleted upload, and root needs it.
	setup := func(t *testing.T) (s *shelf, dir, part string) {
		dir = t.TempDir()
		s = newShelf(t, store.Options{Dir: dir})
		s.put(carOf(first, leaf))
		part = s.put(carOf(root, other)).Parts[0]
		s.drop(first.CID)
		return s, dir, part
	}
	t.Run("no sound copy", func(t *testing.T) {
		t.Parallel()
		s, dir, part := setup(t)
		s.put(carOf(raw("not needed")))
		s.drop(raw("not needed").CID)
		damage(t, dir, part, root)
		if r, err := s.Collect(t.Context()); err == nil || !strings.Contains(err.Error(), part) || r != (store.CollectReport{}) {
			t.Errorf("%+v %v", r, err)
		}
		if n := len(shardFiles(t, dir)); n != 3 {
			t.Errorf("%d shards are left", n)
		}
		s.put(carOf(root, other))
		if r, err := s.Collect(t.Context()); err != nil || r.Shards != 1 {
			t.Errorf("%+v %v", r, err)
		}
		if got := s.state(root.CID); got != complete || !s.has(leaf) || !s.has(root) {
			t.Errorf("mended: %d", got)
		}
	})
	t.Run("a sound copy that nobody owns", func(t *testing.T) {
		t.Parallel()
		s, dir, part := setup(t)
		extra := raw("extra")
		s.put(carOf(extra, root))
		s.drop(extra.CID)
		damage(t, dir, part, root)
		if r, err := s.Collect(t.Context()); err != nil || r != (store.CollectReport{}) {
			t.Errorf("%+v %v", r, err)
		}
		if !s.has(root) || !s.has(leaf) {
			t.Error("the last sound copy was removed")
		}
	})
	t.Run("a damaged copy that nobody owns", func(t *testing.T) {
		t.Parallel()
		s, dir, _ := setup(t)
		extra := raw("extra")
		u := s.put(carOf(extra, root))
		s.drop(extra.CID)
		damage(t, dir, u.Parts[0], root)
		if r, err := s.Collect(t.Context()); err != nil || r.Shards != 1 {
			t.Errorf("%+v %v", r, err)
		}
		if !s.has(root) || !s.has(leaf) {
			t.Error("a needed block was removed")
		}
	})
}

// A collection takes damage into account. It removes no shard that a lost block
// may need, and it removes the records of damage together with the shards.
func TestGCOfMarkedShards(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	leaf, other := raw("leaf"), raw("other")
	inner := pbNode("inner", leaf.CID)
	root := pbNode("root", inner.CID)
	s.put(carOf(pbNode("deleted", leaf.CID), leaf)) // root needs it, through inner
	part := s.put(carOf(root, inner)).Parts[0]
	gone := s.put(carOf(other)).Parts[0]
	s.drop(pbNode("deleted", leaf.CID).CID)
	s.drop(other.CID)
	damage(t, dir, part, inner)
	if err := os.Remove(shardFile(dir, gone)); err != nil {
		t.Fatal(err)
	}
	s.close()
	s = newShelf(t, store.Options{Dir: dir})
	if s.has(inner) || s.state(root.CID) != incomplete {
		t.Fatal("damage was not found")
	}
	s.close()
	s = newShelf(t, store.Options{Dir: dir}) // the damage is remembered
	if r, err := s.Collect(t.Context()); !errors.Is(err, store.ErrDamaged) || !strings.Contains(err.Error(), part) || r != (store.CollectReport{}) {
		t.Errorf("%+v %v", r, err)
	}
	if u := s.put(carOf(root, inner)); u.State != complete {
		t.Errorf("%+v", u)
	}
	if r, err := s.Collect(t.Context()); err != nil || r.Shards != 1 || !s.has(leaf) {
		t.Errorf("%+v %v", r, err)
	}
	if st, err := s.Status(t.Context()); err != nil || st.DamagedShards+st.LostBlocks != 0 || st.Shards != 2 {
		t.Errorf("%+v %v", st, err)
	}
}
