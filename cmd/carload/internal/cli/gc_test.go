//go:build unix

package cli_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A collection beside a service that runs does nothing, and says that the
// service does it.
func TestCollectBesideAService(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	store := filepath.Join(home, "store")
	startService(t, home, "serve", "-q", "--store", store, "--listen", "127.0.0.1:0")
	out, err := newCommand(t, home, "service", "gc", "--store", store).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 11 || !strings.Contains(string(out), "--gc-interval") {
		t.Errorf("%v: %s", err, out)
	}
	file := filepath.Join(home, "file")
	if err := os.WriteFile(file, []byte("here still"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := newCommand(t, home, "up", file, "--store", store).CombinedOutput(); err != nil {
		t.Errorf("an upload afterwards: %v: %s", err, out)
	}
}
