package chunker_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/sha256mb"
)

// If a file is truncated while it is hashed in the page cache, the hashing code
// faults, and use survives that.
func TestTruncatedWhileMapped(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	for kept, want := range map[int64]bool{size: true, size - 1: true, size - 4096: false, 1 << 20: false, 0: false} {
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, random(size, 1), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		got := chunker.UseMapped(f, size, func(data []byte) {
			if err := os.Truncate(name, kept); err != nil {
				t.Error(err)
			}
			var ds [4]sha256mb.Digest
			const lane = size / 4
			sha256mb.Update([]*sha256mb.Digest{&ds[0], &ds[1], &ds[2], &ds[3]},
				[][]byte{data[:lane], data[lane:][:lane], data[2*lane:][:lane], data[3*lane:]})
		})
		if got != want {
			t.Errorf("truncated to %d bytes: %v", kept, got)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Other panics are not taken for faults.
func TestPanicWhileMapped(t *testing.T) {
	t.Parallel()
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer func() {
		if got := recover(); got != "other" {
			t.Errorf("%v", got)
		}
	}()
	chunker.UseMapped(f, 1<<16, func([]byte) { panic("other") })
}

// shrinking is a file that is truncated as soon as it is open.
type shrinking struct{ *chunker.FileSource }

func (s shrinking) Open() (car.SourceFile, error) {
	f, err := s.FileSource.Open()
	if err != nil {
		return nil, err
	}
	return f, os.Truncate(s.Name(), 3<<20)
}

func TestTruncatedBeforeMapped(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, random(10<<20, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := chunker.OpenFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// One worker: with more, another might be the first to find its part gone.
	_, err = chunker.Build(t.Context(), shrinking{src}, chunker.Options{Workers: 1})
	var changed *car.SourceChangedError
	if !errors.As(err, &changed) || changed.Offset != 3<<20 || changed.Name != name {
		t.Errorf("%v, want that %s ends at 3 MiB", err, name)
	}
}

// opaque is a source that can only be read.
type opaque struct{ *chunker.FileSource }

func (o opaque) Open() (car.SourceFile, error) {
	f, err := o.FileSource.Open()
	if err != nil {
		return nil, err
	}
	return struct {
		io.ReaderAt
		io.Closer
	}{f, f}, nil
}

func TestMappedLikeRead(t *testing.T) {
	t.Parallel()
	for _, size := range []int{65_538, 300_000, 4<<20 - 1, 4 << 20, 4<<20 + 1, 9_000_001} {
		name := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(name, random(size, uint64(size)), 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := chunker.OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, profile := range []string{"unixfs-v1-2025", "unixfs-v0-2015"} {
			for _, cut := range []string{"size-65537", "size-100000", "size-262144", "size-1048576"} {
				opts := chunker.Options{Profile: with(t, profile, cut)}
				mapped, err := chunker.Build(t.Context(), src, opts)
				if err != nil {
					t.Fatal(err)
				}
				read, err := chunker.Build(t.Context(), opaque{src}, opts)
				if err != nil {
					t.Fatal(err)
				}
				if mapped.Root() != read.Root() {
					t.Errorf("%d bytes, %s %s: %s mapped, %s read", size, profile, cut, mapped.Root(), read.Root())
				}
			}
		}
	}
}
