//go:build unix

package unpack_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/unpack"
)

// watched counts the loads of its blocks, and calls a function before each.
type watched struct {
	*unpack.IndexBlocks
	loads  int
	before func(n int) error
}

// Load implements unpack.Blocks.
func (w *watched) Load(ctx context.Context, cids ...cid.Cid) ([][]byte, error) {
	if w.before != nil {
		if err := w.before(w.loads); err != nil {
			return nil, err
		}
	}
	out, err := w.IndexBlocks.Load(ctx, cids[:1]...)
	w.loads++
	return out, err
}

const resumedBytes = 4_000_000

// begun restores a file up to the n-th load, and returns what is left of it.
func begun(t *testing.T, n int) (blocks func(before func(int) error) *watched, root cid.Cid, dir, part string) {
	t.Helper()
	all := recipe{cidVersion: 1, rawLeaves: true, chunk: 64 << 10, width: 174}.build(t, tree{"file": mod251(resumedBytes)})
	x := indexOf(t, all)
	blocks = func(before func(int) error) *watched {
		b := unpack.Index(x)
		t.Cleanup(func() { _ = b.Close() })
		return &watched{IndexBlocks: b, before: before}
	}
	root, dir = all[0].Cid, t.TempDir()
	broken := errors.New("the line broke")
	_, err := unpack.RestoreFrom(t.Context(), blocks(func(i int) error {
		if i == n {
			return broken
		}
		return nil
	}), root, dir, unpack.Options{Resume: true})
	if !errors.Is(err, broken) {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() == "file" {
		t.Fatalf("it leaves %v, %v", left, err)
	}
	return blocks, root, dir, filepath.Join(dir, left[0].Name())
}

// TestResume: an unfinished file is completed, whatever happened to it. Content
// that is there and right is not loaded again.
func TestResume(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		harm  func(path string) error
		loads [2]int // at least and at most: of 62 leaves, 38 are there
	}{
		"as it was":  {func(string) error { return nil }, [2]int{24, 28}},
		"cut":        {func(p string) error { return os.Truncate(p, 1_500_000) }, [2]int{39, 44}},
		"emptied":    {func(p string) error { return os.Truncate(p, 0) }, [2]int{62, 66}},
		"gone":       {os.Remove, [2]int{62, 66}},
		"other byte": {func(p string) error { return overwrite(p, 1_000_000, "x") }, [2]int{46, 52}},
		"too long":   {func(p string) error { return overwrite(p, 5_000_000, "more than there is") }, [2]int{24, 28}},
		"a symlink": {func(p string) error {
			return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p))
		}, [2]int{62, 66}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blocks, root, dir, part := begun(t, 40)
			if err := test.harm(part); err != nil {
				t.Fatal(err)
			}
			b := blocks(nil)
			done, err := unpack.RestoreFrom(t.Context(), b, root, dir, unpack.Options{Resume: true})
			if err != nil || done.Files != 1 {
				t.Fatalf("%+v, %v", done, err)
			}
			if b.loads < test.loads[0] || b.loads > test.loads[1] {
				t.Errorf("%d loads, want %v", b.loads, test.loads)
			}
			if diff := cmp.Diff(tree{"file": mod251(resumedBytes)}, readTree(t, dir)); diff != "" {
				t.Error(diff)
			}
			// A complete file is left alone.
			b = blocks(nil)
			done, err = unpack.RestoreFrom(t.Context(), b, root, dir, unpack.Options{Resume: true})
			if err != nil || done.Held != 1 || b.loads > 2 {
				t.Errorf("%+v with %d loads, %v", done, b.loads, err)
			}
		})
	}
}

func overwrite(path string, at int64, with string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(with), at)
	return errors.Join(err, f.Close())
}

// TestResumeLarge: a large file bypasses the page cache. If it is interrupted,
// everything up to that point is in the file. It is completed even if that
// point is not the start of a page.
func TestResumeLarge(t *testing.T) {
	t.Parallel()
	const size = 70<<20 + 12345
	for name, chunk := range map[string]int{"pages": 256 << 10, "no pages": 200_001} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all := recipe{cidVersion: 1, rawLeaves: true, chunk: int64(chunk), width: 174}.build(t, tree{"file": mod251(size)})
			x := indexOf(t, all)
			dir, enough := t.TempDir(), errors.New("enough")
			const before = 20 << 20
			for _, want := range []error{enough, nil} {
				b := &watched{IndexBlocks: unpack.Index(x), before: func(n int) error {
					if n*chunk > before {
						return want
					}
					return nil
				}}
				done, err := unpack.RestoreFrom(t.Context(), b, all[0].Cid, dir, unpack.Options{Resume: true})
				_ = b.Close()
				if !errors.Is(err, want) {
					t.Fatal(err)
				}
				left, errDir := os.ReadDir(dir)
				if errDir != nil || len(left) != 1 {
					t.Fatalf("%v, %v", left, errDir)
				}
				if want == nil {
					if most := (size-before)/chunk + 12; b.loads > most || done.Files != 1 {
						t.Errorf("%+v after %d loads, want at most %d", done, b.loads, most)
					}
					continue
				}
				info, err := left[0].Info()
				if err != nil || info.Size() < before-4*int64(chunk) {
					t.Errorf("%v, %v", info, err)
				}
			}
			if got, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(got) != mod251(size) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

// TestResumeIsBusy: a file that another process is restoring is left to it.
func TestResumeIsBusy(t *testing.T) {
	t.Parallel()
	blocks, root, dir, _ := begun(t, 40)
	inside, release := make(chan struct{}), make(chan struct{})
	first := make(chan error)
	go func() {
		_, err := unpack.RestoreFrom(t.Context(), blocks(func(i int) error {
			if i == 10 {
				close(inside)
				<-release
			}
			return nil
		}), root, dir, unpack.Options{Resume: true})
		first <- err
	}()
	<-inside
	if _, err := unpack.RestoreFrom(t.Context(), blocks(nil), root, dir, unpack.Options{Resume: true}); !errors.Is(err, unpack.ErrBusy) {
		t.Errorf("error %v", err)
	}
	close(release)
	if err := <-first; err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(tree{"file": mod251(resumedBytes)}, readTree(t, dir)); diff != "" {
		t.Error(diff)
	}
}

// TestResumeIsNotKept: if the next try cannot do better, the unfinished file is
// removed.
func TestResumeIsNotKept(t *testing.T) {
	t.Parallel()
	blocks, root, _, _ := begun(t, 40)
	dir := t.TempDir()
	_, err := unpack.RestoreFrom(t.Context(), blocks(func(i int) error {
		if i == 50 {
			return unpack.ErrMissing
		}
		return nil
	}), root, dir, unpack.Options{Resume: true})
	if !errors.Is(err, unpack.ErrMissing) {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}
