package cli

import (
	"os"
	"path/filepath"
)

// newFile creates a temporary file that is to get the name path when it is
// complete. It returns the path to rename it to, which differs if path is a
// link: that stays. A device or a pipe would be lost.
func newFile(path, pattern string) (*os.File, string, error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, "", usagef("%q is not a regular file: carload would replace it", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), pattern)
	return f, path, err
}
