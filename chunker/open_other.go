//go:build !(linux || darwin || dragonfly || freebsd || netbsd || openbsd)

package chunker

import (
	"errors"
	"os"
)

// openList opens the directory root to list it.
func openList(root *os.Root) (*os.File, error) { return root.Open(".") }

// fileHandle is an open file in a directory that is being read.
type fileHandle struct{ *os.File }

// open opens a file of dir and returns its size and metadata.
func (h *fileHandle) open(dir *openDir, name string) (size int64, stat Stat, err error) {
	f, err := dir.root.OpenFile(name, openFlags, 0)
	if err != nil {
		return 0, Stat{}, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotRegular
	}
	if err != nil {
		return 0, Stat{}, errors.Join(err, f.Close())
	}
	h.File = f
	return info.Size(), infoStat(info), nil
}
