package durable_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/carload/carload/internal/durable"
)

func TestWriter(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte("0123456"), 1<<20)
	for _, step := range []int{1 << 20, 1<<20 - 1, 1<<20 + 1, 3<<20 + 7, len(long)} {
		for _, size := range []int{0, 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3 << 20, len(long)} {
			want := long[:size]
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
			if err := w.Sync(); err != nil {
				t.Fatal(err)
			}
			// The file can be used normally afterwards.
			got := make([]byte, size+1)
			if n, err := f.ReadAt(got, 0); n != size || err != io.EOF || !bytes.Equal(got[:n], want) {
				t.Errorf("%d bytes in steps of %d: got %d, %v", size, step, n, err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestWriterAt appends to files with small writes.
func TestWriterAt(t *testing.T) {
	t.Parallel()
	long := bytes.Repeat([]byte("0123456"), 1<<20)
	for _, there := range []int{0, 1, durable.AlignBytes, 2 << 20, 2<<20 + 5} {
		for _, step := range []int{100_000, 1 << 20, len(long)} {
			f, err := os.Create(filepath.Join(t.TempDir(), "f"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.Write(long[:there]); err != nil {
				t.Fatal(err)
			}
			w := durable.NewWriterAt(f, int64(there))
			b := durable.Buffered(w)
			for rest := long[there:]; len(rest) > 0; rest = rest[min(step, len(rest)):] {
				if _, err := b.Write(rest[:min(step, len(rest))]); err != nil {
					t.Fatal(err)
				}
			}
			if err := errors.Join(b.Flush(), w.Flush()); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, long) {
				t.Errorf("after %d bytes, in steps of %d: %d bytes, %v", there, step, len(got), err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
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
	w := durable.NewWriter(f)
	if n, err := w.Write(make([]byte, 2<<20)); n != 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("write: %d, %v", n, err)
	}
	if err := w.Sync(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("sync: %v", err)
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
