//go:build linux || darwin || freebsd

package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// Free returns how many bytes this user can still write to f's file system.
func Free(f *os.File) (n int64, ok bool) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true
}
