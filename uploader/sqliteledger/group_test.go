package sqliteledger

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/carload/carload/internal/sqlite"
	"github.com/carload/carload/uploader"
)

// TestChangesTogether lets changes gather while another is in progress. They
// share a transaction, and one that fails does not affect the others.
func TestChangesTogether(t *testing.T) {
	t.Parallel()
	l, err := Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bad := errors.New("bad")
	for _, fails := range []bool{false, true} {
		const n = 5
		var committed [n]int // rows that were committed when a change was made
		errs := make(chan error, n)
		l.mu.Lock() // as if a change were in progress
		for i := range n {
			go func() {
				errs <- l.change(t.Context(), func(ctx context.Context, tx *sqlite.Writer) error {
					committed[i] = 0
					if err := each(ctx, l.read, descriptionsTable, "", nil, func(row) error { committed[i]++; return nil }, nil); err != nil {
						return err
					}
					if fails && i == 2 {
						return bad
					}
					return descriptionsTable.put(ctx, tx, []byte{byte(i)}, int64(i), []byte{})
				})
			}()
		}
		for gathered := 0; gathered < n; runtime.Gosched() {
			l.queueMu.Lock()
			gathered = len(l.queue)
			l.queueMu.Unlock()
		}
		l.mu.Unlock()
		failed := 0
		for range n {
			if err := <-errs; errors.Is(err, bad) {
				failed++
			} else if err != nil {
				t.Error(err)
			}
		}
		if fails != (failed == 1) || failed > 1 {
			t.Errorf("%d failed", failed)
		}
		if shared := slices.Max(committed[:]) == 0; shared == fails {
			t.Errorf("rows committed before each: %v", committed)
		}
		there := map[byte]bool{}
		if err := l.each(t.Context(), descriptionsTable, "", nil, func(r row) error { there[r[0].([]byte)[0]] = true; return nil }); err != nil {
			t.Error(err)
		}
		for i := range byte(n) {
			if there[i] == (fails && i == 2) {
				t.Errorf("change %d: %t", i, there[i])
			}
		}
		if err := l.change(t.Context(), func(ctx context.Context, tx *sqlite.Writer) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM plans`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestBusy: whoever is kept out for longer than SQLite waits gets
// ErrLedgerLocked, and may write later.
func TestBusy(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	l, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	other, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.write.ExecContext(t.Context(), `PRAGMA busy_timeout = 1`); err != nil {
		t.Fatal(err)
	}
	save := func() error { return other.SaveDescription(t.Context(), "x", []byte("plan")) }
	if err := l.change(t.Context(), func(context.Context, *sqlite.Writer) error {
		if err := save(); !errors.Is(err, uploader.ErrLedgerLocked) {
			t.Errorf("error %v", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := save(); err != nil {
		t.Error(err)
	}
}
