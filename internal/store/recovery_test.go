package store_test

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
)

func shardFiles(t *testing.T, dir string) []string {
	t.Helper()
	out, err := filepath.Glob(filepath.Join(dir, "shards", "*", "*.car"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func fsck(t *testing.T, s *shelf) *store.FsckReport {
	t.Helper()
	r, err := s.Fsck(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReopen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	leaf := raw("leaf")
	root := pbNode("root", leaf.CID, raw("late").CID)
	s.put(carOf(root, leaf))
	if _, err := store.Open(t.Context(), store.Options{Dir: dir}); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("second process: %v", err)
	}
	s.close()

	// What a killed process leaves behind: a partly received file, and one that
	// was published but never acknowledged.
	if err := os.WriteFile(filepath.Join(dir, "incoming", "1.part"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := newShelf(t, store.Options{})
	lost := carOf(raw("never acknowledged"))
	part := other.put(lost).Parts[0]
	orphan := filepath.Join(dir, "shards", part[len(part)-2:], part+".car")
	if err := os.MkdirAll(filepath.Dir(orphan), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(orphan, lost, 0o600); err != nil {
		t.Fatal(err)
	}

	again := newShelf(t, store.Options{Dir: dir})
	if left, err := os.ReadDir(filepath.Join(dir, "incoming")); err != nil || len(left) > 0 {
		t.Fatalf("left in incoming: %v %v", left, err)
	}
	if r := fsck(t, again); len(r.Problems) > 0 || r.Orphans != 1 || r.Shards != 1 {
		t.Fatalf("%+v", r)
	}
	if _, err := again.Content(t.Context(), raw("never acknowledged").CID); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("never acknowledged: %v", err)
	}
	if r, err := again.Collect(t.Context()); err != nil || r.Files != 1 || r.Shards != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	if u := again.put(carOf(root, raw("late"))); u.State != complete || len(u.Parts) != 2 {
		t.Fatalf("%+v", u)
	}
}

func TestRebuild(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	leaf, late := raw("leaf"), raw("late")
	inner := cborNode("inner", late.CID)
	root := pbNode("root", leaf.CID, inner.CID)
	s.put(carOf(root, leaf))
	s.put(carOf(root, inner, late))
	alone := s.put(carOf(raw("alone")))
	damaged := s.put(carOf(raw("damaged"), raw("more of it")))
	s.close()
	bad := filepath.Join(dir, "shards", damaged.Parts[0][len(damaged.Parts[0])-2:], damaged.Parts[0]+".car")
	data, err := os.ReadFile(bad)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(bad, flip(data, -1), 0o600); err != nil {
		t.Fatal(err)
	}

	check := func(name string, r *store.FsckReport, owned bool) {
		t.Helper()
		if r.Shards != 3 || len(r.Problems) == 0 || r.Problems[0].Shard != damaged.Parts[0] {
			t.Errorf("%s: %+v", name, r)
		}
		again := newShelf(t, store.Options{Dir: dir})
		defer again.close()
		if owned {
			if u := again.upload(root.CID); u.State != complete || len(u.Parts) != 2 {
				t.Errorf("%s: %+v", name, u)
			}
		}
		for c, want := range map[cid.Cid]store.State{root.CID: complete, alone.Root: complete} {
			if got := again.state(c); got != want {
				t.Errorf("%s: %s is %d", name, c, got)
			}
		}
		if _, err := again.Collect(t.Context()); err != nil {
			t.Error(err)
		}
		if !again.has(late) {
			t.Errorf("%s: a block is not held", name)
		}
	}
	r, err := store.Rebuild(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	check("index kept", r, true)
	if err := os.WriteFile(bad, flip(data, -1), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"index.db", "index.db-wal", "index.db-shm"} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	if _, err := store.Open(t.Context(), store.Options{Dir: dir}); !errors.Is(err, store.ErrIndexMissing) {
		t.Fatalf("index lost: %v", err)
	}
	if r, err = store.Rebuild(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	check("index lost", r, false)
}

func TestFsckFindsDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	var parts []string
	for _, name := range []string{"flipped", "cut", "gone", "sound"} {
		parts = append(parts, s.put(carOf(raw(name), raw(name+" too"))).Parts[0])
	}
	path := func(i int) string {
		return filepath.Join(dir, "shards", parts[i][len(parts[i])-2:], parts[i]+".car")
	}
	data, err := os.ReadFile(path(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path(0), flip(data, -1), 0o600), os.Truncate(path(1), 80), os.Remove(path(2))); err != nil {
		t.Fatal(err)
	}
	r := fsck(t, s)
	if r.Shards != 4 || len(r.Problems) != 3 {
		t.Fatalf("%+v", r)
	}
	for i := range 3 {
		if r.Problems[i].Shard != parts[i] || !strings.Contains(r.Problems[i].String(), parts[i]) {
			t.Errorf("problem %d: %v", i, r.Problems[i])
		}
	}
	if s.has(raw("flipped too")) {
		t.Error("a damaged block was given out")
	}
}

func TestGC(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	gc := func(shards int) {
		t.Helper()
		r, err := s.Collect(t.Context())
		if err != nil || r.Shards != shards {
			t.Fatalf("removed %+v, want %d shards; %v", r, shards, err)
		}
		if f := fsck(t, s); len(f.Problems) > 0 || f.Orphans > 0 {
			t.Fatalf("%+v", f)
		}
	}
	shared, own := raw("shared"), raw("own")
	sub := pbNode("subtree", shared.CID)
	first := pbNode("first", sub.CID, own.CID)
	second := cborNode("second", sub.CID)
	s.put(carOf(first, own))
	s.put(carOf(first, sub, shared))
	if u := s.put(carOf(second, raw("unrelated"))); u.State != complete {
		t.Fatalf("%+v", u)
	}
	gc(0)
	s.drop(first.CID)
	gc(1) // the second upload needs the shard with the subtree
	if got := s.state(second.CID); got != complete {
		t.Fatal(got)
	}
	if s.has(own) {
		t.Fatal("a collected block is still there")
	}
	if got := len(shardFiles(t, dir)); got != 2 {
		t.Fatalf("%d files", got)
	}
	// The records of unreachable nodes were forgotten rather than trusted.
	if u := s.put(carOf(first, raw("unrelated too"))); u.State != incomplete {
		t.Fatalf("%+v", u.State)
	}
	if u := s.put(carOf(first, own)); u.State != complete {
		t.Fatalf("%+v", u.State)
	}
	s.drop(first.CID)
	s.drop(second.CID)
	gc(4)
	if got := shardFiles(t, dir); len(got) != 0 {
		t.Fatalf("left: %v", got)
	}
	if _, err := s.Content(t.Context(), first.CID); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("forgotten: %v", err)
	}
}

// A shard that another upload kept must count again when its own upload comes
// back.
func TestUploadAgainAfterGC(t *testing.T) {
	t.Parallel()
	s := newShelf(t, store.Options{})
	shared := raw("shared")
	inner := pbNode("inner", shared.CID)
	root := pbNode("root", inner.CID)
	shard := carOf(root, inner, shared)
	s.put(shard)
	s.put(carOf(pbNode("other", shared.CID), raw("x")))
	s.put(carOf(raw("y")))
	s.drop(root.CID)
	s.drop(raw("y").CID)
	if r, err := s.Collect(t.Context()); err != nil || r.Shards != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if u := s.put(shard); u.State != complete {
		t.Fatalf("%+v", u.State)
	}
	if f := fsck(t, s); len(f.Problems) > 0 {
		t.Fatalf("%+v", f)
	}
}

// interlude is a context that runs a function the first time that it is asked.
type interlude struct {
	context.Context
	once *sync.Once
	run  func()
}

func (c interlude) Err() error {
	c.once.Do(c.run)
	return c.Context.Err()
}

// A shard that is collected during a check is not a problem.
func TestFsckDuringGC(t *testing.T) {
	t.Parallel()
	s := newShelf(t, store.Options{})
	for _, tag := range []string{"first", "second", "third"} {
		s.put(carOf(pbNode(tag, raw(tag).CID), raw(tag)))
	}
	ctx := interlude{t.Context(), new(sync.Once), func() {
		s.drop(pbNode("second", raw("second").CID).CID)
		if r, err := s.Collect(t.Context()); err != nil || r.Shards != 1 {
			t.Errorf("%+v %v", r, err)
		}
	}}
	r, err := s.Fsck(ctx)
	if err != nil || len(r.Problems) > 0 || r.Shards != 2 || r.Blocks != 4 {
		t.Errorf("%+v %v", r, err)
	}
}

// A node counts as complete although a shard with its children is gone. The
// check finds it, though all remaining shards are sound, and it no longer
// counts.
func TestFsckFindsMissingChildren(t *testing.T) {
	t.Parallel()
	leaf, deep := raw("leaf"), raw("deep")
	inner := cborNode("inner", deep.CID)
	root := pbNode("root", leaf.CID, inner.CID)
	for _, row := range []struct {
		name string
		gone int   // shard that the index and the disk lose
		want []int // shards with problems; -1 for the whole index
	}{{"a leaf", 2, []int{1}}, {"a node", 1, []int{0, -1}}} {
		dir := t.TempDir()
		s := newShelf(t, store.Options{Dir: dir})
		s.put(carOf(root, leaf))
		parts := append(s.put(carOf(root, inner)).Parts, s.put(carOf(deep)).Parts...)
		if r := fsck(t, s); len(r.Problems) > 0 || s.state(root.CID) != complete {
			t.Fatalf("%+v", r)
		}
		c := cid.MustParse(parts[row.gone]).Bytes()
		const id = `(SELECT id FROM shards WHERE cid = ?)`
		change(t, dir, `DELETE FROM blocks WHERE shard = `+id, c)
		change(t, dir, `DELETE FROM upload_shards WHERE shard_id = `+id, c)
		change(t, dir, `DELETE FROM shards WHERE cid = ?`, c)
		if err := os.Remove(shardFile(dir, parts[row.gone])); err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, p := range fsck(t, s).Problems {
			got = append(got, slices.Index(parts, p.Shard))
		}
		if !slices.Equal(got, row.want) {
			t.Errorf("%s is gone: problems of %v, want %v", row.name, got, row.want)
		}
		if got := s.state(root.CID); got != incomplete {
			t.Errorf("%s is gone: state %d", row.name, got)
		}
		if r := fsck(t, s); len(r.Problems) > 0 {
			t.Errorf("%s is gone, and known to be: %+v", row.name, r)
		}
	}
}

// change changes rows of the index behind the store's back.
func change(t *testing.T, dir, query string, args ...any) {
	t.Helper()
	if n, err := exec(t, dir, query, args...).RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%s: changed %d rows, %v", query, n, err)
	}
}

func exec(t *testing.T, dir, query string, args ...any) sql.Result {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "index.db"))
	if err != nil {
		t.Fatal(err)
	}
	res, err := db.ExecContext(t.Context(), query, args...)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	return res
}
