//go:build unix

package sqliteledger

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Opening a FIFO would wait for somebody to write into it.
func TestFIFOIsNoLedger(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "ledger.db")
	beside := filepath.Join(t.TempDir(), "ledger.db")
	for _, path := range []string{pipe, beside + journalSuffix} {
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, f := range map[string]func() error{
		"IsLedger":       func() error { _, err := IsLedger(pipe); return err },
		"Repair":         func() error { _, err := Repair(t.Context(), pipe); return err },
		"Open":           func() error { _, err := Open(t.Context(), pipe, Options{}); return err },
		"Open beside it": func() error { _, err := Open(t.Context(), beside, Options{}); return err },
	} {
		done := make(chan error, 1)
		go func() { done <- f() }()
		select {
		case err := <-done:
			if err == nil || !strings.Contains(err.Error(), "regular file") && !strings.Contains(err.Error(), journalSuffix) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s waits", name)
		}
	}
}
