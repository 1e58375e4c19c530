package chunker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/carload/carload/car"
)

// FileSource is a regular file on disk as a [car.Source]. It is opened
// read-only each time it is needed. A file that has another size than it had
// when the source was made is reported as changed.
type FileSource struct {
	path string
	info fs.FileInfo
}

// OpenFile makes a source of the regular file at path, following symlinks. It
// holds no descriptor.
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

// Name is the path that was given to [OpenFile].
func (s *FileSource) Name() string { return s.path }

// Size is the length of the file when the source was made.
func (s *FileSource) Size() int64 { return s.info.Size() }

// Info is what the file system said when the source was made.
func (s *FileSource) Info() fs.FileInfo { return s.info }

// Open implements [car.Source].
func (s *FileSource) Open() (car.SourceFile, error) { return reopen(s.path, s.Size()) }

// openFlags let open(2) return at once should the file be a FIFO by now.
const openFlags = os.O_RDONLY | syscall.O_NONBLOCK

// reopen opens the regular file at path, which had size bytes when it was
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

// sameSize reports a file that is not a regular one of that size any more.
func sameSize(path string, info fs.FileInfo, size int64) error {
	switch is := info.Size(); {
	case !info.Mode().IsRegular():
		return &car.SourceChangedError{Name: path, Reason: "it is no longer a regular file"}
	case is != size:
		return &car.SourceChangedError{Name: path, Offset: min(is, size), Reason: fmt.Sprintf("it had %d bytes and has %d now", size, is)}
	}
	return nil
}
