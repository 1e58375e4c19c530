package unpack

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// setTime sets the modification time of an entry, or of a symlink itself. It
// does not use os.Root.Chtimes, which follows symlinks and counts nanoseconds
// since 1970 in 64 bits, which overflow in 2262.
func setTime(dir *os.Root, name string, mtime time.Time) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: mtime.Unix(), Nsec: int64(mtime.Nanosecond())}}
	if err := unix.UtimesNanoAt(int(d.Fd()), name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "set time", Path: name, Err: err}
	}
	return nil
}
