package durable_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/carload/carload/internal/durable"
)

func isDirect(t *testing.T, f *os.File) bool {
	t.Helper()
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	return flags&unix.O_DIRECT != 0
}

// TestWriterDirect: the file is written past the page cache, until its end or
// until it turns out that it can't be.
func TestWriterDirect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	probe := filepath.Join(dir, "probe")
	fd, err := unix.Open(probe, unix.O_CREAT|unix.O_WRONLY|unix.O_DIRECT, 0o600)
	if err != nil {
		t.Skipf("no direct writing here: %v", err)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("0123456"), 300_000)
	for name, misaligned := range map[string]bool{"aligned": false, "misaligned": true} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var writers durable.Writers
			w := writers.New(f)
			if misaligned {
				w.Misalign()
			}
			if _, err := w.Write(want); err != nil {
				t.Fatal(err)
			}
			// A file system may take what is not aligned.
			if !misaligned && !isDirect(t, f) {
				t.Error("written through the page cache")
			}
			if err := w.Sync(); err != nil {
				t.Fatal(err)
			}
			if isDirect(t, f) {
				t.Error("the file is left unlike others")
			}
			if got, err := os.ReadFile(f.Name()); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}
