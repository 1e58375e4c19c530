// Package dirtarget is the upload target that writes each shard as a CAR file
// into a directory.
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

// Options configure [New].
type Options struct {
	// NoSync skips fsync: the operating system decides when files reach the
	// disk.
	NoSync bool
}

// Target is a directory. Its files are named ROOT-00001-of-00335.car. They
// appear complete or not at all; an existing file is replaced. A Target is safe
// for concurrent use and need not be closed.
type Target struct {
	dir    string
	opts   Options
	reader reader
}

// Incomplete files match tmpPattern. If one has not been written to for
// staleAfter, a crashed run has left it: a live run writes all the time.
const (
	tmpPattern = ".carload-*.tmp"
	staleAfter = 24 * time.Hour
)

// New makes a target of a directory, which it creates if necessary. It removes
// incomplete files that have not been written to for a day.
func New(dir string, opts Options) (*Target, error) {
	dir, err := filepath.Abs(dir) // the name identifies the target in the ledger
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

// makeDir creates a directory and its parents. Their names are as durable as
// the files.
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
			return nil // somebody else made it meanwhile
		}
		return err
	}
	if t.opts.NoSync {
		return nil
	}
	return durable.SyncDir(parent)
}

// sweep removes what crashed runs have left.
func (t *Target) sweep() {
	entries, _ := os.ReadDir(t.dir) // use what can be read
	for _, e := range entries {
		if ok, _ := filepath.Match(tmpPattern, e.Name()); !ok || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > staleAfter {
			_ = os.Remove(filepath.Join(t.dir, e.Name())) // it does no harm if it stays
		}
	}
}

// String returns the absolute path of the directory.
func (t *Target) String() string { return t.dir }

// FileName returns the name of a shard's file. The index counts from 0.
func FileName(root cid.Cid, index, count int) string {
	return fmt.Sprintf("%s-%05d-of-%05d.car", root, index+1, count)
}

// Holds implements [uploader.ShardChecker]. It checks the file's existence and
// size.
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

// permanent marks a disk error: writing again does not help.
func permanent(err error) error { return diskError{err} }

type diskError struct{ error }

func (e diskError) Unwrap() error { return e.error }

func ignoreNotExist(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Retry returns false; see [uploader.Retryable].
func (diskError) Retry() (again bool, after time.Duration) { return false, 0 }
