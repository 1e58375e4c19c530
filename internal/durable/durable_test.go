package durable_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/carload/carload/internal/durable"
)

func TestWriter(t *testing.T) {
	t.Parallel()
	want := bytes.Repeat([]byte("0123456"), 1<<20)
	for _, step := range []int{1 << 20, 1<<20 - 1, 1<<20 + 1, 3<<20 + 7, len(want)} {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		w := durable.NewWriter(f)
		for rest := want; len(rest) > 0; {
			n, err := w.Write(rest[:min(step, len(rest))])
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
			t.Errorf("steps of %d: %d bytes, %v", step, len(got), err)
		}
	}
}

func TestWriterError(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := durable.NewWriter(f).Write([]byte("x")); n != 0 || err == nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestSyncDir(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := durable.SyncDir(dir); err != nil {
		t.Error(err)
	}
	if err := durable.SyncDir(filepath.Join(dir, "none")); !os.IsNotExist(err) {
		t.Errorf("%v", err)
	}
}
