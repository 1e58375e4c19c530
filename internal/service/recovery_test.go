package service_test

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

func fsck(t *testing.T, s *server) *store.FsckReport {
	t.Helper()
	r, err := s.st.Fsck(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestReopen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	leaf := raw("leaf")
	root := pbNode("root", leaf.c, raw("late").c)
	s.putCAR(carOf(root, leaf)).upload(t)
	if _, err := store.Open(t.Context(), options{Dir: dir}.store()); !errors.Is(err, store.ErrLocked) {
		t.Fatalf("second process: %v", err)
	}
	s.close()

	// What a killed process leaves: a file half received, and one that was
	// published and never acknowledged.
	if err := os.WriteFile(filepath.Join(dir, "incoming", "1.part"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	other := newServer(t, options{})
	lost := carOf(raw("never acknowledged"))
	part := other.putCAR(lost).upload(t).Parts[0]
	orphan := filepath.Join(dir, "shards", part[len(part)-2:], part+".car")
	if err := os.MkdirAll(filepath.Dir(orphan), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(orphan, lost, 0o600); err != nil {
		t.Fatal(err)
	}

	again := newServer(t, options{Dir: dir})
	again.token = s.token
	if left, err := os.ReadDir(filepath.Join(dir, "incoming")); err != nil || len(left) > 0 {
		t.Fatalf("left in incoming: %v %v", left, err)
	}
	if r := fsck(t, again); len(r.Problems) > 0 || r.Orphans != 1 || r.Shards != 1 {
		t.Fatalf("%+v", r)
	}
	if a := again.do("GET", "/"+raw("never acknowledged").c.String(), nil); a.status != 404 {
		t.Fatalf("never acknowledged: %d", a.status)
	}
	if r, err := again.st.Collect(t.Context()); err != nil || r.Files != 1 || r.Shards != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	if u := again.putCAR(carOf(root, raw("late"))).upload(t); u.Pin.Status != "pinned" || len(u.Parts) != 2 {
		t.Fatalf("%+v", u)
	}
}

func TestRebuild(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	leaf, late := raw("leaf"), raw("late")
	inner := cborNode("inner", late.c)
	root := pbNode("root", leaf.c, inner.c)
	s.putCAR(carOf(root, leaf)).upload(t)
	s.putCAR(carOf(root, inner, late)).upload(t)
	alone := s.putCAR(carOf(raw("alone"))).upload(t)
	damaged := s.putCAR(carOf(raw("damaged"), raw("more of it"))).upload(t)
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
		again := newServer(t, options{Dir: dir})
		defer again.close()
		if owned {
			again.token = s.token
			if u := again.do("GET", "/"+root.c.String(), nil).upload(t); u.Pin.Status != "pinned" || len(u.Parts) != 2 {
				t.Errorf("%s: %+v", name, u)
			}
		}
		for c, want := range map[string]string{root.c.String(): "pinned", alone.CID: "pinned"} {
			if got := again.status(cid.MustParse(c)); got != want {
				t.Errorf("%s: %s is %s", name, c, got)
			}
		}
		if _, err := again.st.Collect(t.Context()); err != nil {
			t.Error(err)
		}
		if got := again.do("GET", "/ipfs/"+late.c.String()+"?format=raw", nil); got.status != 200 {
			t.Errorf("%s: gateway %d", name, got.status)
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
	if _, err := store.Open(t.Context(), options{Dir: dir}.store()); !errors.Is(err, store.ErrIndexMissing) {
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
	s := newServer(t, options{Dir: dir})
	var parts []string
	for _, name := range []string{"flipped", "cut", "gone", "sound"} {
		parts = append(parts, s.putCAR(carOf(raw(name), raw(name+" too"))).upload(t).Parts[0])
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
	if a := s.do("GET", "/ipfs/"+raw("flipped too").c.String(), nil); a.status != 404 {
		t.Errorf("the gateway says of a damaged block: %d %q", a.status, a.raw)
	}
}

func TestGC(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	gc := func(shards int) {
		t.Helper()
		r, err := s.st.Collect(t.Context())
		if err != nil || r.Shards != shards {
			t.Fatalf("removed %+v, want %d shards; %v", r, shards, err)
		}
		if f := fsck(t, s); len(f.Problems) > 0 || f.Orphans > 0 {
			t.Fatalf("%+v", f)
		}
	}
	shared, own := raw("shared"), raw("own")
	sub := pbNode("subtree", shared.c)
	first := pbNode("first", sub.c, own.c)
	second := cborNode("second", sub.c)
	s.putCAR(carOf(first, own)).upload(t)
	s.putCAR(carOf(first, sub, shared)).upload(t)
	if u := s.putCAR(carOf(second, raw("unrelated"))).upload(t); u.Pin.Status != "pinned" {
		t.Fatalf("%+v", u)
	}
	gc(0)
	s.do("DELETE", "/"+first.c.String(), nil)
	gc(1) // the shard with the subtree is needed by the second upload
	if got := s.status(second.c); got != "pinned" {
		t.Fatal(got)
	}
	if a := s.do("GET", "/ipfs/"+own.c.String()+"?format=raw", nil); a.status == 200 {
		t.Fatal("a collected block is still there")
	}
	if got := len(shardFiles(t, dir)); got != 2 {
		t.Fatalf("%d files", got)
	}
	// What is said of nodes that nothing reached was forgotten, not believed.
	if u := s.putCAR(carOf(first, raw("unrelated too"))).upload(t); u.Pin.Status != "pinning" {
		t.Fatalf("%+v", u.Pin)
	}
	if u := s.putCAR(carOf(first, own)).upload(t); u.Pin.Status != "pinned" {
		t.Fatalf("%+v", u.Pin)
	}
	s.do("DELETE", "/"+first.c.String(), nil)
	s.do("DELETE", "/"+second.c.String(), nil)
	gc(4)
	if got := shardFiles(t, dir); len(got) != 0 {
		t.Fatalf("left: %v", got)
	}
	if a := s.do("GET", "/check/"+first.c.String(), nil); a.status != 404 {
		t.Fatalf("check: %d %s", a.status, a.raw)
	}
}

// A shard that stays for another upload's sake must count again when its own
// upload comes back.
func TestUploadAgainAfterGC(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	shared := raw("shared")
	inner := pbNode("inner", shared.c)
	root := pbNode("root", inner.c)
	shard := carOf(root, inner, shared)
	s.putCAR(shard).upload(t)
	s.putCAR(carOf(pbNode("other", shared.c), raw("x"))).upload(t)
	s.putCAR(carOf(raw("y"))).upload(t)
	s.do("DELETE", "/"+root.c.String(), nil)
	s.do("DELETE", "/"+raw("y").c.String(), nil)
	if r, err := s.st.Collect(t.Context()); err != nil || r.Shards != 1 {
		t.Fatalf("%+v %v", r, err)
	}
	if u := s.putCAR(shard).upload(t); u.Pin.Status != "pinned" {
		t.Fatalf("%+v", u.Pin)
	}
	if f := fsck(t, s); len(f.Problems) > 0 {
		t.Fatalf("%+v", f)
	}
}

// interlude runs something the first time that it is asked whether to go on.
type interlude struct {
	context.Context
	once *sync.Once
	run  func()
}

func (c interlude) Err() error {
	c.once.Do(c.run)
	return c.Context.Err()
}

// What is collected while a check runs is no problem.
func TestFsckDuringGC(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	for _, tag := range []string{"first", "second", "third"} {
		s.putCAR(carOf(pbNode(tag, raw(tag).c), raw(tag))).upload(t)
	}
	ctx := interlude{t.Context(), new(sync.Once), func() {
		s.do("DELETE", "/"+pbNode("second", raw("second").c).c.String(), nil)
		if r, err := s.st.Collect(t.Context()); err != nil || r.Shards != 1 {
			t.Errorf("%+v %v", r, err)
		}
	}}
	r, err := s.st.Fsck(ctx)
	if err != nil || len(r.Problems) > 0 || r.Shards != 2 || r.Blocks != 4 {
		t.Errorf("%+v %v", r, err)
	}
}

// A node that counts as complete while a shard with its children is gone is
// found, though all that is left is sound.
func TestFsckFindsMissingChildren(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	leaf, deep := raw("leaf"), raw("deep")
	inner := cborNode("inner", deep.c)
	root := pbNode("root", leaf.c, inner.c)
	first := s.putCAR(carOf(root, leaf)).upload(t).Parts[0]
	second := s.putCAR(carOf(root, inner)).upload(t).Parts[1]
	third := s.putCAR(carOf(deep)).upload(t).Parts[0]
	if r := fsck(t, s); len(r.Problems) > 0 {
		t.Fatalf("%+v", r)
	}
	s.close()
	forget := func(part string) {
		t.Helper()
		db, err := sql.Open("sqlite", filepath.Join(dir, "index.db"))
		if err != nil {
			t.Fatal(err)
		}
		const id = `(SELECT id FROM shards WHERE cid = ?)`
		c := cid.MustParse(part).Bytes()
		for _, q := range []string{
			`DELETE FROM blocks WHERE shard = ` + id, `DELETE FROM upload_shards WHERE shard_id = ` + id, `DELETE FROM shards WHERE cid = ?`,
		} {
			if _, err := db.ExecContext(t.Context(), q, c); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(db.Close(), os.Remove(shardFile(dir, part))); err != nil {
			t.Fatal(err)
		}
	}
	problems := func() (of []string) {
		t.Helper()
		again := reopen(t, s, options{Dir: dir})
		defer again.close()
		for _, p := range fsck(t, again).Problems {
			of = append(of, p.Shard)
		}
		return of
	}
	forget(third) // inner lacks its leaf now
	if got := problems(); !slices.Equal(got, []string{second}) {
		t.Errorf("a leaf is gone: problems of %v", got)
	}
	forget(second) // root lacks inner, which is a node that is not held
	if got := problems(); !slices.Equal(got, []string{first, ""}) {
		t.Errorf("a node is gone: problems of %v", got)
	}
}
