package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// openShards counts the open descriptors of a store's shard files.
func openShards(t *testing.T, dir string) (n int) {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, filepath.Join(dir, "shards")) {
			n++
		}
	}
	return n
}
