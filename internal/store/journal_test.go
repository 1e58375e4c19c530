package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/carload/carload/internal/store"
)

// segments returns the files of a store's journal.
func segments(t *testing.T, dir string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, "journal", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// copyOfStore copies what a crash at this moment would leave if all writes had
// reached the disk.
func copyOfStore(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestPowerLoss removes what a power failure may take from small shards before
// their files are synced.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	const n = 40
	leaf := func(i int) block { return raw(fmt.Sprintf("leaf %d", i)) }
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			if _, err := s.tryPut(carOf(leaf(i))); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	dropped := raw("dropped and collected")
	part := s.put(carOf(dropped)).Parts[0]
	s.drop(dropped.CID)
	if r, err := s.Collect(t.Context()); err != nil || r.Shards != 1 {
		t.Fatal(r, err)
	}
	if len(segments(t, dir)) == 0 {
		t.Fatal("there is no journal: the test tests nothing")
	}
	losses := map[string]func(path string) error{
		"nothing":    func(string) error { return nil },
		"names":      os.Remove,
		"bytes":      func(path string) error { return os.Truncate(path, 0) },
		"some bytes": func(path string) error { return os.Truncate(path, 50) },
		"zeros": func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			return os.WriteFile(path, make([]byte, info.Size()), 0o600)
		},
		"folders": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	}
	for name, lose := range losses {
		t.Run(name, func(t *testing.T) {
			to := copyOfStore(t, dir)
			for _, path := range shardFiles(t, to) {
				if err := lose(path); err != nil {
					t.Fatal(err)
				}
			}
			again := newShelf(t, store.Options{Dir: to})
			for i := range n {
				if !again.has(leaf(i)) || again.state(leaf(i).CID) != complete {
					t.Errorf("leaf %d is lost", i)
				}
			}
			if r := fsck(t, again); len(r.Problems) > 0 || r.Shards != n || r.Orphans != 0 {
				t.Errorf("%+v", r)
			}
			for _, path := range shardFiles(t, to) {
				if strings.Contains(path, part) {
					t.Error("what was collected is back")
				}
			}
			if left := segments(t, to); len(left) > 0 {
				t.Errorf("left in the journal: %v", left)
			}
		})
	}
	t.Run("index", func(t *testing.T) {
		to := copyOfStore(t, dir)
		for _, path := range append(shardFiles(t, to), filepath.Join(to, "index.db"), filepath.Join(to, "index.db-wal"), filepath.Join(to, "index.db-shm")) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		r, err := store.Rebuild(t.Context(), to)
		if err != nil || r.Shards < n || len(r.Problems) > 0 {
			t.Errorf("%+v %v", r, err)
		}
	})
}

// TestCutJournal: a crash truncates the journal, and everything before that is
// good.
func TestCutJournal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	first, second := raw("first"), raw("second")
	s.put(carOf(first))
	file := segments(t, dir)[0]
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	from := info.Size()
	s.put(carOf(second))
	if info, err = os.Stat(file); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{0, 1, 30, from - 40, from - 1, from, from + 1, from + 20, info.Size() - 1} {
		to := copyOfStore(t, dir)
		if err := os.Truncate(filepath.Join(to, "journal", filepath.Base(file)), size); err != nil {
			t.Fatal(err)
		}
		for _, path := range shardFiles(t, to) {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		again := newShelf(t, store.Options{Dir: to})
		if got, want := again.has(first), size >= from; got != want {
			t.Errorf("cut at %d: first is held: %t, want %t", size, got, want)
		}
		if again.has(second) {
			t.Errorf("cut at %d: second is held", size)
		}
		again.close()
	}
}

// TestFullJournal fills segments, whose files are then synced.
func TestFullJournal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	const n = 200
	var group sync.WaitGroup
	for worker := range 10 {
		group.Go(func() {
			for i := worker; i < n; i += 10 {
				if _, err := s.tryPut(carOf(raw(fmt.Sprintf("%060000d", i)))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	s.close()
	if left := segments(t, dir); len(left) > 0 {
		t.Errorf("left in the journal: %v", left)
	}
	again := newShelf(t, store.Options{Dir: dir})
	if r := fsck(t, again); len(r.Problems) > 0 || r.Shards != n {
		t.Errorf("%+v", r)
	}
}

// TestJournalFails: the journal fails to write a shard. That shard is not
// acknowledged, and the next one is.
func TestJournalFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	first, second, third := raw("first"), raw("second"), raw("third")
	s.put(carOf(first))
	s.BreakJournal()
	if _, err := s.tryPut(carOf(second)); err == nil {
		t.Fatal("acknowledged")
	}
	if s.has(second) {
		t.Error("what was not acknowledged is held")
	}
	s.put(carOf(third))
	for _, path := range shardFiles(t, dir) {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	again := newShelf(t, store.Options{Dir: copyOfStore(t, dir)})
	if !again.has(first) || !again.has(third) || again.has(second) {
		t.Error("first and third are to be held, and nothing else")
	}
}

// TestSmallAgain sends a small shard again. Its file stays, since it may be
// durable.
func TestSmallAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	leaf := raw("leaf")
	part := s.put(carOf(leaf)).Parts[0]
	before, err := os.Stat(shardFile(dir, part))
	if err != nil {
		t.Fatal(err)
	}
	s.put(carOf(leaf))
	after, err := os.Stat(shardFile(dir, part))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("a durable file gave way to one that is not")
	}
	if err := flipLast(shardFile(dir, part)); err != nil {
		t.Fatal(err)
	}
	s.put(carOf(leaf))
	if !s.has(leaf) {
		t.Error("a damaged file was not replaced")
	}
}

// TestSmallOverWreck sends a small shard to a place where a crash left half of
// it, or somebody else a link.
func TestSmallOverWreck(t *testing.T) {
	t.Parallel()
	for name, wreck := range map[string]func(path string, body []byte) error{
		"half":      func(path string, body []byte) error { return os.WriteFile(path, body[:len(body)/2], 0o600) },
		"longer":    func(path string, body []byte) error { return os.WriteFile(path, append(body, 0), 0o600) },
		"dead link": func(path string, _ []byte) error { return os.Symlink(path+".none", path) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := newShelf(t, store.Options{Dir: dir})
			leaf := raw("leaf")
			body := carOf(leaf)
			path := shardFile(dir, carCID(body))
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), wreck(path, bytes.Clone(body))); err != nil {
				t.Fatal(err)
			}
			s.put(body)
			info, err := os.Lstat(path)
			if got, rerr := os.ReadFile(path); err != nil || rerr != nil || !info.Mode().IsRegular() || !bytes.Equal(got, body) {
				t.Errorf("%v, %v, %v: %q", info, err, rerr, got)
			}
			if _, err := os.Lstat(path + ".none"); err == nil {
				t.Error("wrote where the link points")
			}
			if left, err := os.ReadDir(filepath.Join(dir, "incoming")); err != nil || len(left) > 0 {
				t.Errorf("left in incoming: %v, %v", left, err)
			}
		})
	}
}

// TestForeignJournalFile puts a file into the journal that no store wrote.
func TestForeignJournalFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	s.close()
	if err := os.WriteFile(filepath.Join(dir, "journal", "notes.car"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	newShelf(t, store.Options{Dir: dir})
	if left := segments(t, dir); len(left) != 1 {
		t.Errorf("left in the journal: %v", left)
	}
}
