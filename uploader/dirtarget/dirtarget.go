// Package dirtarget is the upload target that writes shards into a directory,
// one CAR file each.
package dirtarget

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/uploader"
)

// Options are the knobs of [New].
type Options struct {
	// NoSync leaves it to the system when the files reach the disk.
	NoSync bool
}

// Target is a directory. Files are called ROOT-00001-of-00335.car. They appear
// complete or not at all, and one that is there is replaced by the same bytes.
// It is safe for concurrent use.
type Target struct {
	dir    string
	opts   Options
	reader reader
}

// Files that are not complete yet have these names. What was not written to for
// staleAfter was left by a run that crashed: one that lives writes all the time.
const (
	tmpPattern = ".carload-*.tmp"
	staleAfter = 24 * time.Hour
)

// New makes a target of a directory, and the directory if it is not there. It
// removes incomplete files that nothing was written to for a day.
func New(dir string, opts Options) (*Target, error) {
	dir, err := filepath.Abs(dir) // the ledger knows it by its name
	if err != nil {
		return nil, err
	}
	t := &Target{dir: dir, opts: opts}
	if err := t.makeDir(dir); err != nil {
		return nil, err
	}
	t.sweep()
	return t, nil
}

// makeDir makes a directory and those above it that are not there. Their names
// are as durable as the files.
func (t *Target) makeDir(dir string) error {
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := t.makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o777); err != nil {
		if info, serr := os.Stat(dir); serr == nil && info.IsDir() {
			return nil // made by another meanwhile
		}
		return err
	}
	if t.opts.NoSync {
		return nil
	}
	return durable.SyncDir(parent)
}

// sweep removes what crashed runs left, as far as it is ours to remove.
func (t *Target) sweep() {
	entries, _ := os.ReadDir(t.dir) // what can be read of it
	for _, e := range entries {
		if ok, _ := filepath.Match(tmpPattern, e.Name()); !ok || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleAfter {
			_ = os.Remove(filepath.Join(t.dir, e.Name())) // it is in nobody's way
		}
	}
}

// String is the directory.
func (t *Target) String() string { return t.dir }

// FileName is what a shard of this root is called.
func FileName(root cid.Cid, index, count int) string {
	return fmt.Sprintf("%s-%05d-of-%05d.car", root, index+1, count)
}

// Holds implements [uploader.ShardChecker]: it looks for the file and its size.
func (t *Target) Holds(_ context.Context, root cid.Cid, index, count int, size int64) (bool, error) {
	info, err := os.Stat(filepath.Join(t.dir, FileName(root, index, count)))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Mode().IsRegular() && info.Size() == size, err
}

var _ uploader.ShardChecker = (*Target)(nil)

// Put implements [uploader.Target].
func (t *Target) Put(ctx context.Context, s *uploader.Shard) (_ uploader.Receipt, err error) {
	path := filepath.Join(t.dir, FileName(s.Root, s.Index, s.Count))
	f, err := os.CreateTemp(t.dir, tmpPattern)
	if err != nil {
		return uploader.Receipt{}, permanent(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ignoreNotExist(os.Remove(f.Name())))
		}
	}()
	body := s.Open(ctx)
	if err = errors.Join(t.write(f, body), f.Close(), body.Close()); err != nil {
		return uploader.Receipt{}, permanent(err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return uploader.Receipt{}, permanent(err)
	}
	if !t.opts.NoSync {
		if err = durable.SyncDir(t.dir); err != nil {
			return uploader.Receipt{}, permanent(err)
		}
	}
	archive, _ := body.CID()
	return uploader.Receipt{Root: s.Root, Parts: []cid.Cid{archive}}, nil
}

// write writes all of body to f, which is empty.
func (t *Target) write(f *os.File, body io.WriterTo) error {
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if t.opts.NoSync {
		_, err := body.WriteTo(f)
		return err
	}
	w := durable.NewWriter(f)
	if _, err := body.WriteTo(w); err != nil {
		return err
	}
	return w.Sync()
}

// permanent marks an error of the disk: writing again does not help.
func permanent(err error) error { return diskError{err} }

type diskError struct{ error }

func (e diskError) Unwrap() error { return e.error }

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Retry says no: see [uploader.Retryable].
func (diskError) Retry() (again bool, after time.Duration) { return false, 0 }
