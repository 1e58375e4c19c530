package cli

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// readSmall reads a file that the user named. It may be a pipe, as from
// <(command) in a shell, or an endless device. A pipe that nobody has open for
// writing counts as empty, and readSmall does not wait for it.
func readSmall(path string, limit int64) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	p, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(p)) > limit {
		err = fmt.Errorf("%q is larger than %d bytes", path, limit)
	}
	return p, info, err
}

// readLocal reads a file in which a program on this machine left its address or
// a key. The directory may be from someone else.
func readLocal(dir, name string) ([]byte, error) {
	p, _, err := readSmall(filepath.Join(dir, name), 4<<10)
	return p, err
}
