package service_test

import (
	"bytes"
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

// damage changes a byte of a block within the file of a shard.
func damage(t *testing.T, dir, part string, b block) {
	t.Helper()
	data, err := os.ReadFile(shardFile(dir, part))
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(data, b.data)
	if i < 0 {
		t.Fatalf("shard %s has no block %s", part, b.c)
	}
	data[i] ^= 0xff
	if err := os.WriteFile(shardFile(dir, part), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A block is given out as long as one copy of it is sound, whichever it is.
func TestDamagedCopies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var log bytes.Buffer
	s := newServer(t, options{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	leaves := []block{raw("leaf a"), raw("leaf b"), raw("leaf c")}
	root := pbNode("root", leaves[0].c, leaves[1].c, leaves[2].c)
	var parts []string
	for _, l := range leaves {
		parts = s.putCAR(carOf(root, l)).upload(t).Parts
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
		if got := s.raw(root); got != 200 {
			t.Errorf("after %d damages: gateway %d", i+1, got)
		}
	}
	if err := os.Truncate(shardFile(dir, parts[1]), 90); err != nil {
		t.Fatal(err)
	}
	if a := s.do("GET", "/ipfs/"+root.c.String()+"?format=raw", nil); a.status != 404 {
		t.Errorf("no sound copy is left: gateway %d %s", a.status, a.raw)
	}
	if got := s.raw(leaves[2]); got != 404 {
		t.Errorf("its only shard is lost: gateway %d", got)
	}
	// A client that is told so sends what it misses again.
	for i, want := range []int{404, 404, 200} {
		if got := s.raw(leaves[2]); got != want {
			t.Errorf("before shard %d came again: gateway %d", i, got)
		}
		if i < 2 {
			s.putCAR(carOf(root, leaves[i+1])).upload(t)
		}
	}
	u := s.putCAR(carOf(root, leaves[0])).upload(t)
	if u.Pin.Status != "pinned" || len(u.Parts) != 3 || s.raw(root) != 200 {
		t.Errorf("mended: %+v", u)
	}
	if r := fsck(t, s); len(r.Problems) > 0 || r.Shards != 3 {
		t.Errorf("mended: %+v", r)
	}
	s.close()
	if n := strings.Count(log.String(), "level=ERROR"); n != 4 || !strings.Contains(log.String(), "shard="+parts[0]) {
		t.Errorf("%d errors in the log, want one for each 404:\n%s", n, &log)
	}
}

// What links to what is never learned from damaged bytes.
func TestDamagedNodeStaysUnread(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	leaf := raw("leaf")
	inner := pbNode("inner", leaf.c)
	asLeaf := block{raw(string(inner.data)).c, inner.data}
	first := s.putCAR(carOf(asLeaf, leaf)).upload(t) // not known as a node
	damage(t, dir, first.Parts[0], inner)
	root := pbNode("root", inner.c)
	if u := s.putCAR(carOf(root, raw("other"))).upload(t); u.Pin.Status != "pinning" {
		t.Errorf("%+v", u.Pin)
	}
	s.putCAR(carOf(asLeaf, leaf)).upload(t)
	if got := s.status(root.c); got != "pinned" {
		t.Errorf("mended: %s", got)
	}
	if r := fsck(t, s); len(r.Problems) > 0 {
		t.Errorf("%+v", r)
	}
}

func TestGCOfDamagedStore(t *testing.T) {
	t.Parallel()
	leaf, other := raw("a leaf"), raw("other")
	first := pbNode("first", leaf.c)
	root := pbNode("root", leaf.c, other.c)
	// The leaf is in a shard of a deleted upload, and needed by root.
	setup := func(t *testing.T) (s *server, dir, part string) {
		dir = t.TempDir()
		s = newServer(t, options{Dir: dir})
		s.putCAR(carOf(first, leaf)).upload(t)
		part = s.putCAR(carOf(root, other)).upload(t).Parts[0]
		s.do("DELETE", "/"+first.c.String(), nil)
		return s, dir, part
	}
	t.Run("no sound copy", func(t *testing.T) {
		t.Parallel()
		s, dir, part := setup(t)
		s.putCAR(carOf(raw("not needed"))).upload(t)
		s.do("DELETE", "/"+raw("not needed").c.String(), nil)
		damage(t, dir, part, root)
		if r, err := s.st.Collect(t.Context()); err == nil || !strings.Contains(err.Error(), part) || r != (store.CollectReport{}) {
			t.Errorf("%+v %v", r, err)
		}
		if n := len(shardFiles(t, dir)); n != 3 {
			t.Errorf("%d shards are left", n)
		}
		s.putCAR(carOf(root, other)).upload(t)
		if r, err := s.st.Collect(t.Context()); err != nil || r.Shards != 1 {
			t.Errorf("%+v %v", r, err)
		}
		if got := s.status(root.c); got != "pinned" || s.raw(leaf) != 200 || s.raw(root) != 200 {
			t.Errorf("mended: %s", got)
		}
	})
	t.Run("a sound copy that nobody owns", func(t *testing.T) {
		t.Parallel()
		s, dir, part := setup(t)
		extra := raw("extra")
		s.putCAR(carOf(extra, root)).upload(t)
		s.do("DELETE", "/"+extra.c.String(), nil)
		damage(t, dir, part, root)
		if r, err := s.st.Collect(t.Context()); err != nil || r != (store.CollectReport{}) {
			t.Errorf("%+v %v", r, err)
		}
		if s.raw(root) != 200 || s.raw(leaf) != 200 {
			t.Error("the last sound copy was removed")
		}
	})
	t.Run("a damaged copy that nobody owns", func(t *testing.T) {
		t.Parallel()
		s, dir, _ := setup(t)
		extra := raw("extra")
		u := s.putCAR(carOf(extra, root)).upload(t)
		s.do("DELETE", "/"+extra.c.String(), nil)
		damage(t, dir, u.Parts[0], root)
		if r, err := s.st.Collect(t.Context()); err != nil || r.Shards != 1 {
			t.Errorf("%+v %v", r, err)
		}
		if s.raw(root) != 200 || s.raw(leaf) != 200 {
			t.Error("a needed block was removed")
		}
	})
}
