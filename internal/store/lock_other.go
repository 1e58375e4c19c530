//go:build !unix

package store

import (
	"fmt"
	"os"
	"path/filepath"
)

// shareDir does nothing here.
func shareDir(string) (*os.File, error) { return nil, nil } //nolint:nilnil // no lock

// lockDir opens the lock file. This system has no lock that ends with its
// process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock store: %w", err)
	}
	return f, nil
}
