package store_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/carload/carload/internal/store"
)

// snapshot returns the files below a directory, with their sizes and times.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		all[path] = info.Mode().String() + info.ModTime().String()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Opening a store for reading changes nothing in it.
func TestOpenReadOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	opts := store.Options{Dir: dir}
	if _, err := store.OpenReadOnly(t.Context(), opts); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("where there is none: %v", err)
	}
	s := newShelf(t, opts)
	leaf := raw("leaf")
	root := pbNode("root", leaf.CID)
	s.put(carOf(root, leaf))
	s.put(carOf(raw("small")))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, dir)
	for range 2 { // both at the same time
		st, err := store.OpenReadOnly(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		}()
		if data, err := st.Block(t.Context(), leaf.CID); err != nil || string(data) != "leaf" {
			t.Errorf("%q, %v", data, err)
		}
		if done, err := st.Complete(t.Context(), root.CID); err != nil || !done {
			t.Errorf("complete %v, %v", done, err)
		}
		reader := &shelf{Store: st, t: t, who: s.who}
		if _, err := reader.tryPut(carOf(raw("new"))); !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("an upload: %v", err)
		}
		if err := st.Forget(t.Context(), s.who.UserID, root.CID.String()); !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("a deletion: %v", err)
		}
		if _, err := st.Collect(t.Context()); !errors.Is(err, store.ErrReadOnly) {
			t.Errorf("a collection: %v", err)
		}
		if _, err := st.Block(t.Context(), raw("new").CID); !errors.Is(err, store.ErrNotHeld) {
			t.Errorf("what is not there: %v", err)
		}
	}
	if after := snapshot(t, dir); !maps.Equal(before, after) {
		t.Errorf("%v became %v", before, after)
	}
}

// A store that is in use, or that needs repair, cannot be opened for reading.
func TestOpenReadOnlyRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	opts := store.Options{Dir: dir}
	s := newShelf(t, opts)
	if _, err := store.OpenReadOnly(t.Context(), opts); lockable && !errors.Is(err, store.ErrLocked) {
		t.Errorf("one that is in use: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"index.db-wal", filepath.Join("journal", "00000001.car")} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("not applied"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.OpenReadOnly(t.Context(), opts); !errors.Is(err, store.ErrUnfinished) {
			t.Errorf("one with %s: %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

const lockable = filepath.Separator == '/'
