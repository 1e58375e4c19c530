package chunker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/carload/carload/car"
)

// FileSource is a regular file on disk as a [car.Source]. Every Open opens the
// file read-only. If its size is no longer the one it had when the source was
// made, the file is reported as changed.
type FileSource struct {
	path string
	info fs.FileInfo
}

// OpenFile makes a source of the regular file at path. It follows symlinks. The
// source holds no file descriptor, so there is nothing to close.
func OpenFile(path string) (*FileSource, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file", path)
	}
	return &FileSource{path: path, info: info}, nil
}

// Name is the path passed to [OpenFile].
func (s *FileSource) Name() string { return s.path }

// Size is the length that the file had when the source was made.
func (s *FileSource) Size() int64 { return s.info.Size() }

// Info is the file info from when the source was made.
func (s *FileSource) Info() fs.FileInfo { return s.info }

// Open implements [car.Source].
func (s *FileSource) Open() (car.SourceFile, error) { return reopen(s.path, s.Size()) }

// openFlags make open(2) return at once if the file has become a FIFO.
const openFlags = os.O_RDONLY | syscall.O_NONBLOCK

// reopen opens the regular file at path, which had this size when it was
// described.
func reopen(path string, size int64) (*os.File, error) {
	f, err := os.OpenFile(path, openFlags, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &car.SourceChangedError{Name: path, Reason: "it is gone"}
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = sameSize(path, info, size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// sameSize returns an error unless info is that of a regular file of this size.
func sameSize(path string, info fs.FileInfo, size int64) error {
	switch is := info.Size(); {
	case !info.Mode().IsRegular():
		return &car.SourceChangedError{Name: path, Reason: "it is no longer a regular file"}
	case is != size:
		return &car.SourceChangedError{Name: path, Offset: min(is, size), Reason: fmt.Sprintf("it had %d bytes and has %d now", size, is)}
	}
	return nil
}
