package sqliteledger_test

import (
	"bytes"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/ledgertest"
	"github.com/carload/carload/uploader/receipts"
	"github.com/carload/carload/uploader/sqliteledger"
)

func openAt(t *testing.T, path string) *sqliteledger.Ledger {
	t.Helper()
	l, err := sqliteledger.Open(t.Context(), path, sqliteledger.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func export(t *testing.T, l *sqliteledger.Ledger) []byte {
	t.Helper()
	var buf bytes.Buffer
	if _, err := receipts.Write(&buf, l.Export(t.Context())); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// More than a batch of each table goes from one ledger to another. Repeating
// the import, or importing something older, changes nothing.
func TestExportAndImport(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from, to := openAt(t, filepath.Join(dir, "from")), openAt(t, filepath.Join(dir, "to"))
	const many = 2100
	for i := range many {
		k := uploader.UploadKey{Target: "t", Root: ledgertest.CID(i), MaxShardBytes: 1}
		if i > 0 {
			k.Root = ledgertest.CID(many)
		}
		if err := from.Record(t.Context(), k, i, ledgertest.CID(i)); err != nil {
			t.Fatal(err)
		}
		if err := from.Finish(t.Context(), k, nil, uploader.Finished{Source: ledgertest.CID(i).String(), Bytes: int64(i), Level: uploader.VerifyFull}); err != nil {
			t.Fatal(err)
		}
	}
	sent := export(t, from)
	n, err := to.Import(t.Context(), receipts.Read(bytes.NewReader(sent)))
	if want := 2 + many + many; err != nil || n != want {
		t.Fatalf("%d records, %v; want %d", n, err, want)
	}
	if got := export(t, to); !bytes.Equal(got, sent) {
		t.Error("the other ledger exports something else")
	}
	var order []string
	for s, err := range to.LastSources(t.Context()) {
		if err != nil || !s.Known || s.Level != uploader.VerifyFull {
			t.Fatalf("%+v, %v", s, err)
		}
		order = append(order, s.Source)
	}
	if len(order) != many || !slices.IsSorted(order) {
		t.Errorf("%d sources, sorted: %t", len(order), slices.IsSorted(order))
	}

	later := uploader.UploadKey{Target: "t", Root: ledgertest.CID(many + 1), MaxShardBytes: 1}
	if err := to.Finish(t.Context(), later, nil, uploader.Finished{Source: order[0], Bytes: 7}); err != nil {
		t.Fatal(err)
	}
	mine := export(t, to)
	if _, err := to.Import(t.Context(), receipts.Read(bytes.NewReader(sent))); err != nil {
		t.Fatal(err)
	}
	if got := export(t, to); !bytes.Equal(got, mine) {
		t.Error("an older import changed what was there")
	}
	if last, err := to.Last(t.Context(), "t", order[0]); err != nil || last != later {
		t.Errorf("last is %+v, %v", last, err)
	}
}

// An import that fails is an error. If a source comes without its verification,
// the previous one is dropped.
func TestImportForgetsWhatIsNotKnown(t *testing.T) {
	t.Parallel()
	l := openAt(t, filepath.Join(t.TempDir(), "ledger"))
	k := uploader.UploadKey{Target: "t", Root: ledgertest.CID(1), MaxShardBytes: 1}
	if err := l.Finish(t.Context(), k, nil, uploader.Finished{Source: "/a", Bytes: 5}); err != nil {
		t.Fatal(err)
	}
	newer := receipts.Source{UploadKey: k, Finished: uploader.Finished{Source: "/a"}, At: time.Now().Add(time.Hour)}
	n, err := l.Import(t.Context(), func(yield func(receipts.Record, error) bool) { yield(newer, nil) })
	if err != nil || n != 1 {
		t.Fatal(n, err)
	}
	for s, err := range l.LastSources(t.Context()) {
		if err != nil || s.Known {
			t.Errorf("%+v, %v", s, err)
		}
	}
}
