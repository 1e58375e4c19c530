package sqliteledger_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/ledgertest"
	"github.com/carload/carload/uploader/sqliteledger"
)

// FuzzLedger writes arbitrary bytes into a ledger, and truncates it. It is
// refused and can be repaired, or it can be used as it is.
func FuzzLedger(f *testing.F) {
	dir := f.TempDir()
	whole := filepath.Join(dir, "whole.db")
	filled(f, whole, 20)
	data, err := os.ReadFile(whole)
	if err != nil {
		f.Fatal(err)
	}
	page := os.Getpagesize()
	f.Add(uint32(0), []byte{0}, uint32(0))
	f.Add(uint32(page+16), bytes.Repeat([]byte{0xff}, 64), uint32(0))
	f.Add(uint32(4*page+8), []byte{1, 0, 0xff, 0xff}, uint32(0))
	f.Add(uint32(3*page), make([]byte, 2*page), uint32(1))
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, cut uint32) {
		path := filepath.Join(t.TempDir(), "ledger.db")
		file := bytes.Clone(data)
		copy(file[int(at)%len(file):], patch)
		if err := os.WriteFile(path, file[:len(file)-int(cut)%len(file)], 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := sqliteledger.Open(t.Context(), path, sqliteledger.Options{NoSync: true})
		if err != nil {
			if _, err := sqliteledger.Repair(t.Context(), path); err != nil {
				t.Fatal(err)
			}
			if l, err = sqliteledger.Open(t.Context(), path, sqliteledger.Options{NoSync: true}); err != nil {
				t.Fatalf("repaired: %v", err)
			}
		}
		list, err := l.Uploads(t.Context())
		if errors.Is(err, uploader.ErrLedgerDamaged) {
			t.Errorf("it was opened: %v", err)
		}
		for _, u := range list {
			if u.Receipts < 0 || u.MaxShardBytes < 0 || !u.Root.Defined() {
				t.Errorf("%+v", u)
			}
		}
		if err := errors.Join(err, l.Record(t.Context(), key, 1000, ledgertest.CID(1000)), l.Close()); err != nil {
			t.Error(err)
		}
	})
}
