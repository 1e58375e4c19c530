package dirtarget_test

import (
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/dirtarget"
)

// makePlan returns the plan of a file of random bytes, and its shards by file
// name.
func makePlan(t *testing.T) (*splitter.Plan, map[string]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	data := make([]byte, 5<<20+1)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := chunker.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dag, err := chunker.Build(t.Context(), src, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := splitter.Split(dag, splitter.Options{MaxShardBytes: 5 << 19})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	var packer car.Packer
	for i := range plan.Shards {
		name := filepath.Join(t.TempDir(), "shard")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		s := packer.Open(t.Context(), plan.Archive(i))
		_, err = s.WriteTo(f)
		if err := errors.Join(err, s.Close(), f.Close()); err != nil {
			t.Fatal(err)
		}
		want[dirtarget.FileName(dag.Root(), i, len(plan.Shards))] = read(t, name)
	}
	if len(want) < 2 {
		t.Fatalf("%d shards", len(want))
	}
	return plan, want
}

func read(t *testing.T, path string) string {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// send sends the plan to a directory, one shard at a time.
func send(t *testing.T, dir string, plan *splitter.Plan, opts dirtarget.Options) error {
	t.Helper()
	target, err := dirtarget.New(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	u, err := uploader.New(target, uploader.Options{Transfers: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.Send(t.Context(), "file", plan)
	return err
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	list := make([]string, 0, len(entries))
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func wantShards(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	if got := names(t, dir); !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
		t.Fatalf("the directory has %q", got)
	}
	for name, data := range want {
		if read(t, filepath.Join(dir, name)) != data {
			t.Errorf("%s has other bytes than the shard", name)
		}
	}
}

// wantFinal checks that a shard failed with a disk error, without retries.
func wantFinal(t *testing.T, err, want error) {
	t.Helper()
	var shard *uploader.ShardError
	if !errors.Is(err, want) || !errors.As(err, &shard) || shard.Attempts != 1 || errors.Is(err, uploader.ErrUnavailable) {
		t.Errorf("error %v, want %v at the first try", err, want)
	}
}

// TestPut writes shards, synced or not, and overwrites existing files, complete
// or not.
func TestPut(t *testing.T) {
	plan, want := makePlan(t)
	for name, opts := range map[string]dirtarget.Options{"sync": {}, "no sync": {NoSync: true}} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "made", "here")
			for _, damage := range []func(path string) error{
				func(string) error { return nil },
				func(path string) error { return os.Truncate(path, 1000) },
				os.Remove,
			} {
				if err := send(t, dir, plan, opts); err != nil {
					t.Fatal(err)
				}
				wantShards(t, dir, want)
				if err := damage(filepath.Join(dir, names(t, dir)[0])); err != nil {
					t.Fatal(err)
				}
			}
			if err := send(t, dir, plan, opts); err != nil {
				t.Fatal(err)
			}
			wantShards(t, dir, want)
		})
	}
}

// TestNameTaken: there is a directory with the name of a shard. It stays, and
// nothing else is left.
func TestNameTaken(t *testing.T) {
	plan, want := makePlan(t)
	dir := t.TempDir()
	first := slices.Min(slices.Collect(maps.Keys(want)))
	if err := os.MkdirAll(filepath.Join(dir, first, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	err := send(t, dir, plan, dirtarget.Options{})
	var link *os.LinkError
	if !errors.As(err, &link) {
		t.Fatalf("error %v", err)
	}
	wantFinal(t, err, link.Err)
	if got := names(t, dir); !slices.Equal(got, []string{first}) {
		t.Errorf("the directory has %q", got)
	}
}

// TestNoDirectory: the directory disappears after New, or is a file.
func TestNoDirectory(t *testing.T) {
	plan, _ := makePlan(t)
	dir := filepath.Join(t.TempDir(), "gone")
	target, err := dirtarget.New(dir, dirtarget.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	u, err := uploader.New(target, uploader.Options{Transfers: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.Send(t.Context(), "file", plan)
	wantFinal(t, err, fs.ErrNotExist)
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := dirtarget.New(dir, dirtarget.Options{}); err == nil {
		t.Error("a file was taken for a directory")
	}
}

// TestResume removes or truncates shards between two uploads with the same
// ledger. Only those are written again.
func TestResume(t *testing.T) {
	plan, want := makePlan(t)
	dir := t.TempDir()
	target, err := dirtarget.New(dir, dirtarget.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	u, err := uploader.New(target, uploader.Options{Transfers: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		damage func(path string) error
		held   int
	}{
		{func(string) error { return nil }, 0},
		{func(string) error { return nil }, len(want)},
		{os.Remove, len(want) - 1},
		{func(path string) error { return os.Truncate(path, 1000) }, len(want) - 1},
	} {
		if i > 0 {
			if err := step.damage(filepath.Join(dir, names(t, dir)[1])); err != nil {
				t.Fatal(err)
			}
		}
		r, err := u.Send(t.Context(), "file", plan)
		if err != nil || r.Held != step.held || r.Level != uploader.VerifyReceipt {
			t.Fatalf("step %d: %+v, %v; want %d held", i, r, err, step.held)
		}
		wantShards(t, dir, want)
	}
}

// TestVerifyNothing: a directory cannot be verified without the source, whether
// the root is there or not.
func TestVerifyNothing(t *testing.T) {
	plan, _ := makePlan(t)
	target, err := dirtarget.New(t.TempDir(), dirtarget.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []uploader.VerifyLevel{uploader.VerifyPinned, uploader.VerifyReceipt} {
		u, err := uploader.New(target, uploader.Options{Verify: level})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Verify(t.Context(), plan.Blocks.At(0).Cid); err == nil {
			t.Errorf("%s: nothing was looked at, and no error", level)
		}
	}
}

// TestSweep: files of a crashed run are removed; files that another run is
// writing, or that are not ours, stay.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-25 * time.Hour)
	for name, at := range map[string]time.Time{
		".carload-1.tmp": old, ".carload-2.tmp": time.Now().Add(-time.Hour), ".carload-3": old, "4.tmp": old, "5.car": old,
	} {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	folder := filepath.Join(dir, ".carload-6.tmp")
	if err := errors.Join(os.Mkdir(folder, 0o700), os.Chtimes(folder, old, old)); err != nil {
		t.Fatal(err)
	}
	if _, err := dirtarget.New(dir, dirtarget.Options{}); err != nil {
		t.Fatal(err)
	}
	want := []string{".carload-2.tmp", ".carload-3", ".carload-6.tmp", "4.tmp", "5.car"}
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("the directory has %q, want %q", got, want)
	}
}
