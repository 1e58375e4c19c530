//go:build linux || darwin || freebsd || netbsd || openbsd

package uploader

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// settled is how long a file must be unchanged before its times are trusted: a
// second change within one tick of a coarse clock would not show.
const settled = 2 * time.Second

// fileKey identifies the content of a file without reading it. It returns "" if
// the times of the file cannot be trusted.
func fileKey(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return ""
	}
	changed := time.Unix(st.Ctim.Unix())
	if since := time.Since(changed); since < settled {
		return ""
	}
	return fmt.Sprintf("dev %d inode %d size %d mtime %d ctime %d", st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano())
}
