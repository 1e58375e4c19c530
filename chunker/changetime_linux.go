package chunker

import (
	"io/fs"
	"syscall"
	"time"
)

// changeTime is when the content or the metadata of a file last changed. Unlike
// the modification time, nobody can set it.
func changeTime(info fs.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Ctim.Unix())
	}
	return info.ModTime()
}
