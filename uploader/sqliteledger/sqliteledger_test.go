package sqliteledger_test

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/ledgertest"
	"github.com/carload/carload/uploader/sqliteledger"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(tb testing.TB, path string) *sqliteledger.Ledger {
	tb.Helper()
	l, err := sqliteledger.Open(tb.Context(), path, sqliteledger.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

func TestConformance(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, func(t *testing.T) (uploader.Ledger, func() uploader.Ledger) {
		path := filepath.Join(t.TempDir(), "state", "ledger.db")
		l := open(t, path)
		return l, func() uploader.Ledger {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l = open(t, path)
			return l
		}
	})
}

var key = uploader.UploadKey{Target: "https://api.example.org", Root: ledgertest.CID(1), MaxShardBytes: 100}

// filled makes a ledger with some of everything.
func filled(tb testing.TB, path string, shards int) map[int]cid.Cid {
	tb.Helper()
	l, err := sqliteledger.Open(tb.Context(), path, sqliteledger.Options{NoSync: true})
	if err != nil {
		tb.Fatal(err)
	}
	receipts := map[int]cid.Cid{}
	for i := range shards {
		receipts[i] = ledgertest.CID(i)
		err = errors.Join(err, l.Record(tb.Context(), key, i, receipts[i]))
	}
	err = errors.Join(err,
		l.Suspect(tb.Context(), key, []cid.Cid{ledgertest.CID(5)}),
		l.Finish(tb.Context(), uploader.UploadKey{Target: key.Target, Root: ledgertest.CID(2), Base: ledgertest.CID(3)}, nil, uploader.Finished{Source: "/home/me/photos"}),
		l.Finish(tb.Context(), uploader.UploadKey{Target: key.Target, Root: ledgertest.CID(2)}, nil, uploader.Finished{Source: "/home/me/films"}),
		l.SaveDescription(tb.Context(), "small", []byte("plan")),
		l.SaveDescription(tb.Context(), "large", bytes.Repeat([]byte("p"), 30_000)),
		// If its newest page is torn, the file falls back to the same contents.
		l.Suspect(tb.Context(), key, []cid.Cid{ledgertest.CID(5)}),
		l.Close())
	if err != nil {
		tb.Fatal(err)
	}
	return receipts
}

// TestManyHaveItOpen: several have a ledger open, and each sees what the others
// record. It cannot be repaired meanwhile.
func TestManyHaveItOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	first, second := open(t, path), open(t, path)
	for i, l := range []*sqliteledger.Ledger{first, second, first} {
		if err := l.Record(t.Context(), key, i, ledgertest.CID(i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range []*sqliteledger.Ledger{first, second} {
		if got, err := l.Receipts(t.Context(), key); err != nil || len(got) != 3 {
			t.Errorf("%d receipts, %v", len(got), err)
		}
	}
	if _, err := sqliteledger.Repair(t.Context(), path); !errors.Is(err, uploader.ErrLedgerLocked) {
		t.Errorf("repair: error %v", err)
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := sqliteledger.Repair(t.Context(), path); err != nil {
		t.Error(err)
	}
	if got, err := open(t, path).Receipts(t.Context(), key); err != nil || len(got) != 3 {
		t.Errorf("repaired: %d receipts, %v", len(got), err)
	}
}

// TestMadeByMany: if several find no ledger, one of them creates it.
func TestMadeByMany(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state", "ledger.db")
	var g errgroup.Group
	for i := range 8 {
		g.Go(func() error {
			l, err := sqliteledger.Open(t.Context(), path, sqliteledger.Options{})
			if err != nil {
				return err
			}
			return errors.Join(l.Record(t.Context(), key, i, ledgertest.CID(i)), l.Close())
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if got, err := open(t, path).Receipts(t.Context(), key); err != nil || len(got) != 8 {
		t.Errorf("%d receipts, %v", len(got), err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".ledger-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// TestRemovedWhileOpen: the log of a ledger that was removed while open is not
// taken for the next one's.
func TestRemovedWhileOpen(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	l := open(t, path)
	if err := errors.Join(l.Record(t.Context(), key, 0, ledgertest.CID(0)), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
	if err := l.Record(t.Context(), key, 1, ledgertest.CID(1)); !errors.Is(err, uploader.ErrLedgerDamaged) {
		t.Errorf("error %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+"-wal", []byte("left behind"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := open(t, path).Receipts(t.Context(), key); err != nil || len(got) != 0 {
		t.Errorf("%d receipts, %v", len(got), err)
	}
}

func TestFutureVersion(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	filled(t, path, 1)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), `PRAGMA user_version = 9`)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	_, err = sqliteledger.Open(t.Context(), path, sqliteledger.Options{})
	if err == nil || errors.Is(err, uploader.ErrLedgerDamaged) || !strings.Contains(err.Error(), "format 9") {
		t.Errorf("error %v", err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("nothing is read-only to root")
	}
	path := filepath.Join(t.TempDir(), "ledger.db")
	filled(t, path, 1)
	if err := os.Chmod(path, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := sqliteledger.Open(t.Context(), path, sqliteledger.Options{}); !errors.Is(err, os.ErrPermission) {
		t.Errorf("error %v", err)
	}
}

// TestTruncated truncates a ledger at every page and nearby. It is refused and
// left unchanged, and what a repair keeps is true.
func TestTruncated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole.db")
	receipts := filled(t, whole, 200)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	used := len(bytes.TrimRight(data, "\x00"))
	path := filepath.Join(dir, "ledger.db")
	step := 2048
	if testing.Short() {
		step = 12288
	}
	for n := 0; n < used; n += step {
		for _, n := range []int{n, n + 1} {
			if err := os.WriteFile(path, data[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			refusedAndRepaired(t, path, data[:n], receipts)
		}
	}
}

// refusedAndRepaired checks that a ledger is refused, and that its repair is
// true.
func refusedAndRepaired(t *testing.T, path string, data []byte, receipts map[int]cid.Cid) {
	t.Helper()
	l, err := sqliteledger.Open(t.Context(), path, sqliteledger.Options{})
	if err == nil {
		_ = l.Close()
	}
	if !errors.Is(err, uploader.ErrLedgerDamaged) {
		t.Fatalf("%d bytes: error %v", len(data), err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(data, after) {
		t.Fatalf("%d bytes: the file was changed", len(data))
	}
	report, err := sqliteledger.Repair(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if kept, _ := os.ReadFile(report.Old); !bytes.Equal(data, kept) {
		t.Fatalf("%d bytes: the damaged file was not kept", len(data))
	}
	_ = os.Remove(report.Old)
	l, err = sqliteledger.Open(t.Context(), path, sqliteledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	wantSubset(t, l, receipts)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func wantSubset(t *testing.T, l *sqliteledger.Ledger, receipts map[int]cid.Cid) {
	t.Helper()
	got, err := l.Receipts(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range got {
		if receipts[i] != c {
			t.Errorf("receipt %d is %s, was %s", i, c, receipts[i])
		}
	}
}

// TestBitFlips flips any bits. The ledger is refused or right.
func TestBitFlips(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole.db")
	receipts := filled(t, whole, 200)
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	used := len(bytes.TrimRight(data, "\x00"))
	rng := rand.New(rand.NewPCG(3, 4))
	path := filepath.Join(dir, "ledger.db")
	rounds, refused := 250, 0
	if testing.Short() {
		rounds = 60
	}
	for range rounds {
		flipped := bytes.Clone(data)
		at := rng.IntN(used)
		flipped[at] ^= 1 << rng.IntN(8)
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := sqliteledger.Open(t.Context(), path, sqliteledger.Options{NoSync: true})
		if errors.Is(err, uploader.ErrLedgerDamaged) {
			refused++
			continue
		}
		if err != nil {
			t.Fatalf("flip at %d: %v", at, err)
		}
		got, err := l.Receipts(t.Context(), key)
		if err != nil || !maps.Equal(got, receipts) {
			t.Fatalf("flip at %d: %d receipts, %v", at, len(got), err)
		}
		suspects, err := l.Suspects(t.Context(), key)
		description, perr := l.Description(t.Context(), "large")
		if errors.Join(err, perr) != nil || len(suspects) != 1 || len(description) != 30_000 {
			t.Fatalf("flip at %d: %d suspects, description of %d bytes, %v, %v", at, len(suspects), len(description), err, perr)
		}
		if err := errors.Join(l.Record(t.Context(), key, 1000, ledgertest.CID(1000)), l.Close()); err != nil {
			t.Fatalf("flip at %d: %v", at, err)
		}
	}
	if refused < rounds/20 {
		t.Errorf("only %d of %d flips were seen", refused, rounds)
	}
}

func TestNotALedger(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	for _, data := range [][]byte{{}, []byte("x"), bytes.Repeat([]byte("not a ledger "), 10_000), make([]byte, 1<<16)} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		refusedAndRepaired(t, path, data, nil)
	}
}

func TestDescriptionsAreBounded(t *testing.T) {
	t.Parallel()
	l, err := sqliteledger.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"), sqliteledger.Options{MaxDescriptionBytes: 1000, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range 20 {
		// The first one is used again and again, and stays.
		for _, k := range []string{"0", fmt.Sprint(i)} {
			if err := l.SaveDescription(t.Context(), k, bytes.Repeat([]byte{byte(i)}, 200)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := l.SaveDescription(t.Context(), "huge", make([]byte, 1001)); err != nil {
		t.Fatal(err)
	}
	var kept []string
	for i := range 20 {
		if p, err := l.Description(t.Context(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		} else if p != nil {
			kept = append(kept, fmt.Sprint(i))
		}
	}
	if got, want := fmt.Sprint(kept), "[0 16 17 18 19]"; got != want {
		t.Errorf("kept %s, want %s", got, want)
	}
}

func TestUploads(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	filled(t, path, 7)
	l := open(t, path)
	other := key
	other.Target = "elsewhere"
	if err := errors.Join(l.Record(t.Context(), other, 3, ledgertest.CID(3)), l.Finish(t.Context(), other, nil, uploader.Finished{})); err != nil {
		t.Fatal(err)
	}
	list, err := l.Uploads(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	for _, u := range list {
		switch u.UploadKey {
		case key:
			if u.Receipts != 7 || u.Suspects != 1 || !u.Finished.IsZero() || u.Begun.IsZero() {
				t.Errorf("%+v", u)
			}
		case other:
			if u.Receipts != 1 || u.Suspects != 0 || u.Finished.IsZero() {
				t.Errorf("%+v", u)
			}
		default:
			t.Errorf("%+v", u)
		}
	}
	if _, err := json.Marshal(list); err != nil {
		t.Error(err)
	}
	if n, err := l.ForgetRoot(t.Context(), key.Root); n != 2 || err != nil {
		t.Errorf("forgot %d, %v", n, err)
	}
	if list, err := l.Uploads(t.Context()); len(list) != 0 || err != nil {
		t.Errorf("%v, %v", list, err)
	}
}
