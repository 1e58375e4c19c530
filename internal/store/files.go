package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/durable"
)

const (
	databaseName = "index.db"
	shardsDir    = "shards"
	incomingDir  = "incoming"
	journalDir   = "journal"
)

// IsStore reports whether [Open] would find a store in a directory, even a
// broken one, rather than create one.
func IsStore(dir string) (bool, error) {
	for _, name := range []string{databaseName, shardsDir} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true, nil
		} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return false, err
		}
	}
	return false, nil
}

// files are the shard files below a directory.
type files struct {
	dir     string
	open    *openFiles
	folders *folders
}

// folders records which folders of shards are durable. That a folder exists
// does not prove it: it may have just been made, perhaps for a shard that was
// not synced.
type folders struct {
	mu      sync.Mutex
	durable map[string]bool // guarded by mu
}

// sync makes the entry of a folder durable, once.
func (f *folders) sync(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.durable[dir] {
		return nil
	}
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	if f.durable == nil {
		f.durable = make(map[string]bool)
	}
	f.durable[dir] = true
	return nil
}

// prepare makes the directories, and removes partly received files of an
// earlier process.
func (f files) prepare() error {
	for _, d := range []string{shardsDir, incomingDir, journalDir} {
		if err := os.MkdirAll(filepath.Join(f.dir, d), 0o700); err != nil {
			return fmt.Errorf("create store: %w", err)
		}
	}
	dir := filepath.Join(f.dir, incomingDir)
	left, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list incoming: %w", err)
	}
	for _, e := range left {
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("clear incoming: %w", err)
		}
	}
	return nil
}

// create makes a file for receiving a shard.
func (f files) create() (*os.File, error) {
	out, err := os.CreateTemp(filepath.Join(f.dir, incomingDir), "*.part")
	if err != nil {
		return nil, fmt.Errorf("receive shard: %w", err)
	}
	return out, nil
}

func (f files) path(c cid.Cid) string {
	name := c.String()
	return filepath.Join(f.dir, shardsDir, name[len(name)-2:], name+".car")
}

// has reports whether a shard's file exists with these bytes.
func (f files) has(c cid.Cid, data []byte) bool {
	path := f.path(c)
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(data)) {
		return false
	}
	have, err := os.ReadFile(path)
	return err == nil && bytes.Equal(have, data)
}

// publish renames a file to the name of a shard. If sync is set, it makes the
// name durable. It reports whether the file has that name; that may be so even
// after an error.
func (f files) publish(from string, c cid.Cid, sync bool) (bool, error) {
	path := f.path(c)
	dir := filepath.Dir(path)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return false, fmt.Errorf("publish shard: %w", err)
	}
	if sync {
		if err := f.folders.sync(dir); err != nil {
			return false, err
		}
	}
	if err := os.Rename(from, path); err != nil {
		return false, fmt.Errorf("publish shard: %w", err)
	}
	err := f.open.drop(c)
	if sync {
		err = errors.Join(err, durable.SyncDir(dir))
	}
	return true, err
}

// put writes the file of a shard, unless it exists. What it writes is not
// durable yet, and after a crash may be incomplete. It reports whether it wrote
// the file.
func (f files) put(c cid.Cid, data []byte) (wrote bool, err error) {
	path := f.path(c)
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	out, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return false, fmt.Errorf("write shard: %w", err)
		}
		out, err = os.OpenFile(path, flags, 0o600)
	}
	if errors.Is(err, fs.ErrExist) {
		return f.restore(c, data)
	}
	if err != nil {
		return false, fmt.Errorf("write shard: %w", err)
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Close()); err != nil {
		return false, errors.Join(fmt.Errorf("write shard: %w", err), os.Remove(path))
	}
	return true, f.open.drop(c)
}

// restore writes a shard's file again unless it has these bytes already. What
// it writes is not durable yet.
func (f files) restore(c cid.Cid, data []byte) (wrote bool, err error) {
	if f.has(c, data) {
		return false, nil
	}
	out, err := f.create()
	if err != nil {
		return false, err
	}
	_, err = out.Write(data)
	if err = errors.Join(err, out.Close()); err == nil {
		wrote, err = f.publish(out.Name(), c, false)
	}
	if !wrote {
		err = errors.Join(err, os.Remove(out.Name()))
	}
	return wrote, err
}

// remove deletes a shard's file.
func (f files) remove(c cid.Cid) error {
	path := f.path(c)
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove shard: %w", err)
	}
	if err := f.open.drop(c); err != nil {
		return fmt.Errorf("remove shard: %w", err)
	}
	return durable.SyncDir(filepath.Dir(path))
}

func (f files) any() (bool, error) {
	found := false
	err := f.each(func(cid.Cid, string) error {
		found = true
		return fs.SkipAll
	})
	return found, err
}

// each calls do for each file with the name of a shard.
func (f files) each(do func(c cid.Cid, path string) error) error {
	err := filepath.WalkDir(filepath.Join(f.dir, shardsDir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, isCAR := strings.CutSuffix(d.Name(), ".car")
		if !d.Type().IsRegular() || !isCAR {
			return nil
		}
		c, err := cid.Decode(name)
		if err != nil || f.path(c) != path {
			return nil //nolint:nilerr // not one of ours
		}
		return do(c, path)
	})
	if err != nil {
		return fmt.Errorf("list shards: %w", err)
	}
	return nil
}
