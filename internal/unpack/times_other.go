//go:build !linux

package unpack

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// setTime sets the modification time of an entry. On this system it can't set
// that of a symlink itself, or one that does not fit into 64 bits of
// nanoseconds.
func setTime(dir *os.Root, name string, mtime time.Time) error {
	if info, err := dir.Lstat(name); err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return err
	}
	if !time.Unix(0, mtime.UnixNano()).Equal(mtime) {
		return &os.PathError{Op: "set time", Path: name, Err: errors.New("this system can't represent the time")}
	}
	return dir.Chtimes(name, time.Time{}, mtime)
}
