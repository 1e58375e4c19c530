//go:build unix

package sqliteledger_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carload/carload/uploader/sqliteledger"
)

// TestOldLedgerInUse: an old ledger is not carried over while an earlier
// carload has it open, whose receipts would be lost.
func TestOldLedgerInUse(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	if err := os.WriteFile(path, oldLedger(t), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if l, err := sqliteledger.Open(ctx, path, sqliteledger.Options{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v, error %v", l, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	open(t, path)
}
