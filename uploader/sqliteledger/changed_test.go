package sqliteledger_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/ledgertest"
	"github.com/carload/carload/uploader/sqliteledger"
)

// TestTruncatedWhileOpen truncates the file under an open ledger, and then
// calls the ledger from several goroutines. Each call returns; the ones that
// fail say why, and after the first of them all fail. Close closes the file.
func TestTruncatedWhileOpen(t *testing.T) {
	t.Parallel()
	calls := map[string]func(*testing.T, *sqliteledger.Ledger) error{
		"record": func(t *testing.T, l *sqliteledger.Ledger) error {
			return l.Record(t.Context(), key, 1, ledgertest.CID(1))
		},
		"plan": func(t *testing.T, l *sqliteledger.Ledger) error {
			return l.SaveDescription(t.Context(), "p", make([]byte, 9000))
		},
		"receipts": func(t *testing.T, l *sqliteledger.Ledger) error { _, err := l.Receipts(t.Context(), key); return err },
		"uploads":  func(t *testing.T, l *sqliteledger.Ledger) error { _, err := l.Uploads(t.Context()); return err },
	}
	for _, size := range []int64{0, 4096, 8192} {
		for name, first := range calls {
			t.Run(fmt.Sprintf("%d/%s", size, name), func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "ledger.db")
				filled(t, path, 200)
				l := open(t, path)
				if err := os.Truncate(path, size); err != nil {
					t.Fatal(err)
				}
				if err := first(t, l); !errors.Is(err, uploader.ErrLedgerDamaged) {
					t.Fatalf("error %v", err)
				}
				var g errgroup.Group
				for range 4 {
					for name, call := range calls {
						g.Go(func() error {
							if err := call(t, l); !errors.Is(err, uploader.ErrLedgerDamaged) {
								return fmt.Errorf("%s afterwards: error %w", name, err)
							}
							return nil
						})
					}
				}
				if err := g.Wait(); err != nil {
					t.Error(err)
				}
				if err := errors.Join(l.Close(), l.Close()); err != nil {
					t.Error(err)
				}
				if _, err := sqliteledger.Open(t.Context(), path, sqliteledger.Options{}); !errors.Is(err, uploader.ErrLedgerDamaged) {
					t.Errorf("open: error %v", err)
				}
				if _, err := sqliteledger.Repair(t.Context(), path); err != nil {
					t.Errorf("repair: %v", err)
				}
				open(t, path)
			})
		}
	}
}
