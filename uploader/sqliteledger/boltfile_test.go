package sqliteledger_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/uploader/ledgertest"
	"github.com/carload/carload/uploader/sqliteledger"
)

// oldLedger is a file of the last carload that kept its ledger in bbolt: two
// uploads, one of them with 200 receipts and suspects, and descriptions.
func oldLedger(tb testing.TB) []byte {
	tb.Helper()
	f, err := os.Open(filepath.Join("testdata", "bolt.db.gz"))
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		tb.Fatal(err)
	}
	if data[16] != 0xed {
		tb.Skip("the file is for machines of another byte order")
	}
	return data
}

func TestCarriedOver(t *testing.T) {
	t.Parallel()
	data := oldLedger(t)
	path := filepath.Join(t.TempDir(), "ledger.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if is, err := sqliteledger.IsLedger(path); !is || err != nil {
		t.Errorf("%t, %v", is, err)
	}
	for range 2 { // the second time, nothing changes
		l := open(t, path)
		receipts, err := l.Receipts(t.Context(), key)
		if err != nil || len(receipts) != 200 {
			t.Errorf("%d receipts, %v", len(receipts), err)
		}
		wantSubset(t, l, filledReceipts(200))
		suspects, err := l.Suspects(t.Context(), key)
		if err != nil || !slices.Equal(suspects, []cid.Cid{ledgertest.CID(5), ledgertest.CID(6)}) {
			t.Errorf("suspects %v, %v", suspects, err)
		}
		for k, want := range map[string][]byte{"small": []byte("plan"), "large": bytes.Repeat([]byte("p"), 30_000), "gone": nil} {
			if description, err := l.Description(t.Context(), k); err != nil || !bytes.Equal(description, want) {
				t.Errorf("description %s has %d bytes, %v", k, len(description), err)
			}
		}
		list, err := l.Uploads(t.Context())
		if err != nil || len(list) != 2 {
			t.Fatalf("%+v, %v", list, err)
		}
		for _, u := range list {
			if done := u.Target == "store:/home/me/store"; u.Begun.IsZero() || u.Finished.IsZero() == done || done && u.Receipts != 1 {
				t.Errorf("%+v", u)
			}
		}
		if err := errors.Join(l.Record(t.Context(), key, 7, ledgertest.CID(7)), l.Close()); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := filepath.Glob(path + ".bbolt-*")
	if err != nil || len(kept) != 1 {
		t.Fatalf("%v, %v", kept, err)
	}
	if old, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(old, data) {
		t.Errorf("the old file was changed: %v", err)
	}
}

func filledReceipts(n int) map[int]cid.Cid {
	receipts := map[int]cid.Cid{}
	for i := range n {
		receipts[i] = ledgertest.CID(i)
	}
	return receipts
}

// TestCarriedOverDamaged truncates an old ledger and flips its bits. It is
// carried over completely, or refused, left unchanged, and repaired to
// something true.
func TestCarriedOverDamaged(t *testing.T) {
	t.Parallel()
	data := oldLedger(t)
	path := filepath.Join(t.TempDir(), "ledger.db")
	refused, step := 0, 7919
	if testing.Short() {
		step *= 4
	}
	for n := 0; n < len(data); n += step {
		for _, file := range [][]byte{data[:n], append(append(bytes.Clone(data[:n]), data[n]^1), data[n+1:]...)} {
			if err := os.WriteFile(path, file, 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := sqliteledger.Open(t.Context(), path, sqliteledger.Options{NoSync: true})
			if err == nil {
				if got, err := l.Receipts(t.Context(), key); err != nil || len(got) != 200 {
					t.Errorf("%d bytes, %d: %d receipts, %v", len(file), n, len(got), err)
				}
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
				continue
			}
			refused++
			refusedAndRepaired(t, path, file, filledReceipts(200))
		}
	}
	if refused == 0 {
		t.Error("all of them were taken")
	}
}
