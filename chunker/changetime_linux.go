package chunker

import (
	"io/fs"
	"syscall"
	"time"
)

// changeTime is when a file was last written to, or anything else about it
// changed; unlike its modification time nobody can set it.
func changeTime(info fs.FileInfo) time.Time {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return time.Unix(st.Ctim.Unix())
	}
	return info.ModTime()
}
