package dirtarget_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/dirtarget"
)

// TestFetchBlock reads blocks from the files as they are, even after files were
// removed, truncated, or sent again.
func TestFetchBlock(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target, err := dirtarget.New(filepath.Join(dir, "sh[elf"), dirtarget.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "file")
	data := make([]byte, 3_000_000)
	for i := range data {
		data[i] = byte(i * i >> 8)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	put := func() uploader.Result {
		u, err := uploader.New(target, uploader.Options{MaxShardBytes: 1_200_000, NoResume: true})
		if err != nil {
			t.Fatal(err)
		}
		in, err := uploader.File(path, chunker.Options{})
		if err != nil {
			t.Fatal(err)
		}
		for r, err := range u.Upload(t.Context(), slices.Values([]uploader.Input{in})) {
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		return uploader.Result{}
	}
	src, err := chunker.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	dag, err := chunker.Build(t.Context(), src, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	last := dag.At(dag.Len() - 1)
	if _, err := target.FetchBlock(t.Context(), dag.Root(), car.MaxBlockBytes); !errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("from nothing: %v", err)
	}
	r := put()
	all := func() {
		t.Helper()
		var l car.Loader
		defer l.Close()
		for i := range dag.Len() {
			b := dag.At(i)
			want, err := l.Load(t.Context(), b)
			if err != nil {
				t.Fatal(err)
			}
			got, err := target.FetchBlock(t.Context(), b.Cid, car.MaxBlockBytes)
			if err != nil || string(got) != string(want) {
				t.Errorf("block %d: %d bytes, %v", i, len(got), err)
			}
		}
	}
	all()
	if _, err := target.FetchBlock(t.Context(), last.Cid, last.Size()-1); !errors.Is(err, car.ErrCorrupt) {
		t.Errorf("beyond the limit: %v", err)
	}
	shard := filepath.Join(dir, "sh[elf", dirtarget.FileName(r.Root, r.Shards-1, r.Shards))
	if err := os.Truncate(shard, 5000); err != nil {
		t.Fatal(err)
	}
	if _, err := target.FetchBlock(t.Context(), last.Cid, car.MaxBlockBytes); err == nil {
		t.Error("out of a file that is cut")
	}
	if err := os.Remove(shard); err != nil {
		t.Fatal(err)
	}
	if _, err := target.FetchBlock(t.Context(), last.Cid, car.MaxBlockBytes); !errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("out of a file that is gone: %v", err)
	}
	put()
	all()
}
