//go:build !linux

package unpack

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// setTime sets the time of an entry's last modification. A symlink's own can't
// be set here, and neither can one that has no room in 64 bits of nanoseconds.
func setTime(dir *os.Root, name string, mtime time.Time) error {
	if info, err := dir.Lstat(name); err != nil || info.Mode()&fs.ModeSymlink != 0 {
		return err
	}
	if !time.Unix(0, mtime.UnixNano()).Equal(mtime) {
		return &os.PathError{Op: "set time", Path: name, Err: errors.New("a time that this system can't have")}
	}
	return dir.Chtimes(name, time.Time{}, mtime)
}
