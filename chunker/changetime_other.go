//go:build !linux

package chunker

import (
	"io/fs"
	"time"
)

// changeTime is when the file was last modified.
func changeTime(info fs.FileInfo) time.Time { return info.ModTime() }
