package durable_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
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

// TestWriterDirect: large, aligned writes bypass the page cache, until a write
// is not aligned or the file system does not support it.
func TestWriterDirect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fd, err := unix.Open(filepath.Join(dir, "probe"), unix.O_CREAT|unix.O_WRONLY|unix.O_DIRECT, 0o600)
	if err != nil {
		t.Skipf("no direct writing here: %v", err)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456"), 400_000)
	elsewhere := slices.Concat([]byte("x"), data)[1:]
	for _, c := range []struct {
		name   string
		skip   bool
		writes [][]byte
		direct bool
	}{
		{name: "whole", writes: [][]byte{data}, direct: true},
		{name: "in parts", writes: [][]byte{data[:2<<20+5], data[2<<20+5:]}, direct: true},
		{name: "page by page", writes: [][]byte{data[:1<<20+5], data[1<<20+5:][:7], data[1<<20+12:]}, direct: true},
		{name: "small at first", writes: [][]byte{data[:100], data[100:]}},
		{name: "not aligned", writes: [][]byte{elsewhere}},
		{name: "not aligned later", writes: [][]byte{data[:2<<20+5], elsewhere[2<<20+5:]}},
		{name: "refused", skip: true, writes: [][]byte{data}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(dir, c.name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			w := durable.NewWriter(f)
			want := slices.Concat(c.writes...)
			if c.skip {
				w.SkipByte()
				want = slices.Concat([]byte{0}, want)
			}
			for _, p := range c.writes {
				if n, err := w.Write(p); n != len(p) || err != nil {
					t.Fatalf("%d of %d bytes, %v", n, len(p), err)
				}
			}
			if direct := isDirect(t, f); direct != c.direct {
				t.Errorf("direct: %v", direct)
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

// TestBufferedDirect: small writes through a buffer bypass the page cache, even
// when they append to a file.
func TestBufferedDirect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fd, err := unix.Open(filepath.Join(dir, "probe"), unix.O_CREAT|unix.O_WRONLY|unix.O_DIRECT, 0o600)
	if err != nil {
		t.Skipf("no direct writing here: %v", err)
	}
	if err := unix.Close(fd); err != nil {
		t.Fatal(err)
	}
	for there, want := range map[int]bool{0: true, 1 << 20: true, 1<<20 + 1: false} {
		f, err := os.Create(filepath.Join(dir, "file"))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(int64(there)); err != nil {
			t.Fatal(err)
		}
		w := durable.NewWriterAt(f, int64(there))
		b := durable.Buffered(w)
		for range 50 {
			if _, err := b.Write(make([]byte, 100_000)); err != nil {
				t.Fatal(err)
			}
		}
		if direct := isDirect(t, f); direct != want {
			t.Errorf("after %d bytes: direct: %v", there, direct)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
