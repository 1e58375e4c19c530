package uploader_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
)

func describe(t *testing.T, in uploader.Input) uploader.DAG {
	t.Helper()
	var read atomic.Int64
	dag, err := in.Describe(t.Context(), &read)
	if err != nil {
		t.Fatal(err)
	}
	if read.Load() != dag.Size() {
		t.Errorf("%s: %d bytes counted as read, the DAG has %d", in.Name(), read.Load(), dag.Size())
	}
	return dag
}

// A stream has the root of a file with the same bytes, can be read again, and
// never leaves anything on disk.
func TestStreamIsSpooledWithoutAName(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("stream "), 400_000)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := uploader.File(path, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := describe(t, file)

	dir := filepath.Join(t.TempDir(), "spool")
	in := uploader.Stream("-", iotest.HalfReader(bytes.NewReader(content)), uploader.StreamOptions{Dir: dir})
	dag := describe(t, in)
	if dag.Root() != want.Root() {
		t.Errorf("root %s, the file's is %s", dag.Root(), want.Root())
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("the spool has names: %v, %v", left, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others can look into the spool: %v, %v", info.Mode(), err)
	}
	var packer car.Packer
	s := packer.Open(t.Context(), car.NewArchive(dag.Root(), dag))
	if _, err := io.Copy(io.Discard, s); err != nil {
		t.Errorf("read the spool again: %v", err)
	}
	if err := errors.Join(s.Close(), in.Close()); err != nil {
		t.Error(err)
	}
}

func TestStreamErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("the pipe broke")
	for _, tt := range []struct {
		name string
		r    io.Reader
		max  int64
		want error
	}{
		{"longer than the bound", strings.NewReader("12345678901"), 10, uploader.ErrTooLarge},
		{"a reader that fails", io.MultiReader(strings.NewReader("123"), iotest.ErrReader(broken)), 10, broken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			in := uploader.Stream("-", tt.r, uploader.StreamOptions{Dir: dir, MaxBytes: tt.max})
			if _, err := in.Describe(t.Context(), new(atomic.Int64)); !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if err := in.Close(); err != nil {
				t.Error(err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		})
	}
	in := uploader.Stream("-", strings.NewReader("1234567890"), uploader.StreamOptions{Dir: t.TempDir(), MaxBytes: 10})
	if dag := describe(t, in); dag.Size() != 10 {
		t.Errorf("a stream of just the bound has %d bytes", dag.Size())
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}

// An archive of a tree is an input with the same root.
func TestArchiveOfATree(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte(name), 100_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tree := chunker.NewTree()
	if err := tree.AddDisk("", dir); err != nil {
		t.Fatal(err)
	}
	dag := describe(t, uploader.Tree(dir, tree, chunker.Options{}))

	path := filepath.Join(t.TempDir(), "tree.car")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	var packer car.Packer
	s := packer.Open(t.Context(), car.NewArchive(dag.Root(), dag))
	_, err = s.WriteTo(f)
	if err := errors.Join(err, s.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	in, err := uploader.CAR(path)
	if err != nil {
		t.Fatal(err)
	}
	if again := describe(t, in); again.Root() != dag.Root() || again.Len() != dag.Len() {
		t.Errorf("%s with %d blocks, the tree was %s with %d", again.Root(), again.Len(), dag.Root(), dag.Len())
	}
	if err := in.Close(); err != nil {
		t.Error(err)
	}
}

// A file that has content but no size does not count as empty.
func TestFileWithoutSize(t *testing.T) {
	t.Parallel()
	const path = "/proc/self/status"
	content, err := os.ReadFile(path)
	if info, serr := os.Stat(path); err != nil || serr != nil || info.Size() > 0 || len(content) == 0 {
		t.Skipf("there is none here: %v, %v", err, serr)
	}
	u := newUploader(t, new(nowhere), uploader.Options{})
	r, err := uploadOne(t.Context(), u, input(t, path))
	var source *uploader.SourceError
	if !errors.As(err, &source) || !strings.Contains(err.Error(), "no size") || r.Root.Defined() {
		t.Errorf("%+v, %v", r, err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := uploadOne(t.Context(), u, input(t, empty)); err != nil || r.Bytes != 0 || r.Blocks != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}
