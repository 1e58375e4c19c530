package service_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/carload/carload/internal/store"
)

// reopen opens the store of a server that was closed, with the same key.
func reopen(t *testing.T, s *server, opts options) *server {
	t.Helper()
	again := newServer(t, opts)
	again.token = s.token
	return again
}

func (s *server) raw(b block) int {
	s.t.Helper()
	return s.do("GET", "/ipfs/"+b.c.String()+"?format=raw", nil).status
}

// A store that keeps payloads must not get shards with holes over its own, and
// one that has holes must not claim to hold what it lacks.
func TestDiscardIsForGood(t *testing.T) {
	t.Parallel()
	leaf := raw("a leaf that is long enough")
	root := pbNode("root", leaf.c)
	for _, row := range []struct {
		name    string
		discard bool
		want    error
	}{{"keeps", false, store.ErrKeeps}, {"discards", true, store.ErrDiscards}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			as := options{Dir: t.TempDir(), Discard: row.discard}
			other := options{Dir: as.Dir, Discard: !row.discard}
			s := newServer(t, as)
			s.close()
			reopen(t, s, other).close() // without shards it is neither yet
			s = reopen(t, s, as)
			s.putCAR(carOf(root, leaf)).upload(t)
			s.close()
			if _, err := store.Open(t.Context(), other.store()); !errors.Is(err, row.want) {
				t.Fatalf("opened as the other kind: %v", err)
			}
			again := reopen(t, s, as)
			if got := again.status(root.c); got != "pinned" {
				t.Errorf("status %s", got)
			}
			if got := again.raw(leaf); (got == 200) == row.discard {
				t.Errorf("gateway %d", got)
			}
			again.close()
			_, err := store.Rebuild(t.Context(), as.Dir)
			if row.discard {
				if !errors.Is(err, store.ErrDiscards) {
					t.Errorf("rebuild: %v", err)
				}
				reopen(t, s, as).close() // it is as it was
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.Open(t.Context(), other.store()); !errors.Is(err, row.want) {
				t.Errorf("after a rebuild: %v", err)
			}
		})
	}
}

// stopAfter is cancelled from the nth time on that it is asked: Ctrl-C.
type stopAfter struct {
	context.Context
	n    int64
	told atomic.Int64
}

func (c *stopAfter) Err() error {
	if c.told.Add(1) > c.n {
		return context.Canceled
	}
	return c.Context.Err()
}

func TestRebuildInterrupted(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} {
		dir := t.TempDir()
		s := newServer(t, options{Dir: dir})
		leaf, other := raw("a leaf"), raw("other")
		first, second := pbNode("first", leaf.c), pbNode("second", leaf.c, other.c)
		s.putCAR(carOf(first, leaf)).upload(t)
		s.putCAR(carOf(second, other)).upload(t)
		s.do("DELETE", "/"+first.c.String(), nil) // its shard stays for the second's sake
		s.close()
		if lost {
			if err := os.Remove(filepath.Join(dir, "index.db")); err != nil {
				t.Fatal(err)
			}
		}
		for n := range int64(2) {
			if _, err := store.Rebuild(&stopAfter{Context: t.Context(), n: n}, dir); !errors.Is(err, context.Canceled) {
				t.Fatalf("rebuild: %v", err)
			}
			if _, err := store.Open(t.Context(), options{Dir: dir}.store()); !errors.Is(err, store.ErrRebuilding) {
				t.Fatalf("after an interruption: %v", err)
			}
		}
		if r, err := store.Rebuild(t.Context(), dir); err != nil || len(r.Problems) > 0 || r.Shards != 2 {
			t.Fatalf("%+v %v", r, err)
		}
		again := reopen(t, s, options{Dir: dir})
		if r, err := again.st.Collect(t.Context()); err != nil || r.Shards+r.Files != 0 {
			t.Errorf("%+v %v", r, err)
		}
		if got := again.status(second.c); got != "pinned" || again.raw(leaf) != 200 {
			t.Errorf("status %s", got)
		}
	}
}

// A shard that cannot be opened may be sound.
func TestRebuildCannotRead(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("the superuser can read everything")
	}
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	leaf := raw("leaf")
	path := shardFile(dir, s.putCAR(carOf(leaf)).upload(t).Parts[0])
	s.close()
	if err := os.Chmod(path, 0); err != nil {
		t.Fatal(err)
	}
	if r, err := store.Rebuild(t.Context(), dir); !errors.Is(err, os.ErrPermission) {
		t.Fatalf("%+v %v", r, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := store.Rebuild(t.Context(), dir); err != nil || r.Shards != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if got := reopen(t, s, options{Dir: dir}).status(leaf.c); got != "pinned" {
		t.Error(got)
	}
}

// An index that was being made when a process ended is as good as none.
func TestIndexWithoutTables(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	s.putCAR(carOf(raw("leaf"))).upload(t)
	s.close()
	if err := os.WriteFile(filepath.Join(dir, "index.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // that it was tried changes nothing
		if _, err := store.Open(t.Context(), options{Dir: dir}.store()); !errors.Is(err, store.ErrIndexMissing) {
			t.Fatal(err)
		}
	}
	if r, err := store.Rebuild(t.Context(), dir); err != nil || r.Shards != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if got := reopen(t, s, options{Dir: dir}).status(raw("leaf").c); got != "pinned" {
		t.Error(got)
	}
}
