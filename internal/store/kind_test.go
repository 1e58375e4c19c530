package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/carload/carload/internal/store"
)

// A store that keeps payloads must not overwrite its shards with ones that have
// holes. A store with holes must not claim to hold what it lacks.
func TestDiscardIsForGood(t *testing.T) {
	t.Parallel()
	leaf := raw("a leaf that is long enough")
	root := pbNode("root", leaf.CID)
	for _, row := range []struct {
		name    string
		discard bool
		want    error
	}{{"keeps", false, store.ErrKeeps}, {"discards", true, store.ErrDiscards}} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			as := store.Options{Dir: t.TempDir(), Discard: row.discard}
			other := store.Options{Dir: as.Dir, Discard: !row.discard}
			s := newShelf(t, as)
			s.close()
			newShelf(t, other).close() // without shards, it is of neither kind yet
			s = newShelf(t, as)
			s.put(carOf(root, leaf))
			s.close()
			if _, err := store.Open(t.Context(), other); !errors.Is(err, row.want) {
				t.Fatalf("opened as the other kind: %v", err)
			}
			again := newShelf(t, as)
			if got := again.state(root.CID); got != complete {
				t.Errorf("state %d", got)
			}
			if got := again.has(leaf); got == row.discard {
				t.Errorf("held: %t", got)
			}
			again.close()
			_, err := store.Rebuild(t.Context(), as.Dir)
			if row.discard {
				if !errors.Is(err, store.ErrDiscards) {
					t.Errorf("rebuild: %v", err)
				}
				newShelf(t, as).close() // it is unchanged
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := store.Open(t.Context(), other); !errors.Is(err, row.want) {
				t.Errorf("after a rebuild: %v", err)
			}
		})
	}
}

// stopAfter is a context that is canceled when asked for the nth time, as by
// Ctrl-C.
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
		s := newShelf(t, store.Options{Dir: dir})
		leaf, other := raw("a leaf"), raw("other")
		first, second := pbNode("first", leaf.CID), pbNode("second", leaf.CID, other.CID)
		s.put(carOf(first, leaf))
		s.put(carOf(second, other))
		s.drop(first.CID) // the second upload keeps its shard
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
			if _, err := store.Open(t.Context(), store.Options{Dir: dir}); !errors.Is(err, store.ErrRebuilding) {
				t.Fatalf("after an interruption: %v", err)
			}
		}
		if r, err := store.Rebuild(t.Context(), dir); err != nil || len(r.Problems) > 0 || r.Shards != 2 {
			t.Fatalf("%+v %v", r, err)
		}
		again := newShelf(t, store.Options{Dir: dir})
		if r, err := again.Collect(t.Context()); err != nil || r.Shards+r.Files != 0 {
			t.Errorf("%+v %v", r, err)
		}
		if got := again.state(second.CID); got != complete || !again.has(leaf) {
			t.Errorf("state %d", got)
		}
	}
}

// A shard that cannot be opened may still be sound.
func TestRebuildCannotRead(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("the superuser can read everything")
	}
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	leaf := raw("leaf")
	path := shardFile(dir, s.put(carOf(leaf)).Parts[0])
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
	if got := newShelf(t, store.Options{Dir: dir}).state(leaf.CID); got != complete {
		t.Error(got)
	}
}

// An index that was being created when the process ended counts as none.
func TestIndexWithoutTables(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	s.put(carOf(raw("leaf")))
	s.close()
	if err := os.WriteFile(filepath.Join(dir, "index.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // trying it changes nothing
		if _, err := store.Open(t.Context(), store.Options{Dir: dir}); !errors.Is(err, store.ErrIndexMissing) {
			t.Fatal(err)
		}
	}
	if r, err := store.Rebuild(t.Context(), dir); err != nil || r.Shards != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if got := newShelf(t, store.Options{Dir: dir}).state(raw("leaf").CID); got != complete {
		t.Error(got)
	}
}
