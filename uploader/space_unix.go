//go:build linux || darwin || freebsd

package uploader

import (
	"os"

	"golang.org/x/sys/unix"
)

// freeBytes is what this user can still write to the file system of f.
func freeBytes(f *os.File) (n int64, ok bool) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true
}
