package sqliteledger_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/ledgertest"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/sqliteledger"
	"github.com/carload/carload/uploader/uploadertest"
)

// sectorBytes is what a disk writes atomically.
const sectorBytes = 512

// merge returns the file a with the chosen sectors of b.
func merge(a, b []byte, chosen func(sector int) bool) []byte {
	out := make([]byte, max(len(a), len(b)))
	copy(out, a)
	for at := 0; at < len(b); at += sectorBytes {
		if end := min(at+sectorBytes, len(b)); chosen(at / sectorBytes) {
			copy(out[at:end], b[at:end])
		}
	}
	return out
}

// disk is the files of a ledger: the database and its log.
type disk struct{ db, wal []byte }

func read(t *testing.T, path string) disk {
	t.Helper()
	db, err := os.ReadFile(path)
	wal, werr := os.ReadFile(path + "-wal")
	if err != nil || werr != nil && !errors.Is(werr, os.ErrNotExist) {
		t.Fatal(err, werr)
	}
	return disk{db, wal}
}

// write writes the files to path.
func (d disk) write(t *testing.T, path string) {
	t.Helper()
	_ = os.Remove(path + "-shm")
	if err := errors.Join(os.WriteFile(path, d.db, 0o600), os.WriteFile(path+"-wal", d.wal, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// some returns the file a with some of the sectors of b that differ, but not
// all.
func some(a, b []byte, rng *rand.Rand) []byte {
	var changed []int
	grown := make([]byte, max(len(a), len(b))) // padded with zeros
	copy(grown, a)
	for at := 0; at < len(b); at += sectorBytes {
		if end := min(at+sectorBytes, len(b)); !bytes.Equal(grown[at:end], b[at:end]) {
			changed = append(changed, at/sectorBytes)
		}
	}
	if len(changed) == 0 {
		return a
	}
	out := changed[rng.IntN(len(changed))]
	return merge(a, b, func(s int) bool { return s != out && rng.IntN(2) == 0 })
}

// outage is a possible state of the disk after a power loss during one change.
type outage struct {
	name string
	disk disk
	done bool // whether the change took place
}

// kindsOfOutages is the number of results of [outages] for a change that is not
// a checkpoint.
const kindsOfOutages = 8

// outages returns states between two durable ones. A change adds pages to the
// log, or overwrites pages that are in the database already, and syncs. A
// checkpoint writes pages of the database, syncs, and then handles the log.
// Before a sync, any of the sectors may have been written.
func outages(before, after disk, rng *rand.Rand) []outage {
	checkpoint := !bytes.Equal(before.db, after.db)
	list := []outage{{"nothing was written", before, checkpoint}, {"all of it was written", after, true}}
	if checkpoint {
		for i := range 3 {
			list = append(list, outage{fmt.Sprintf("some of the database was written (%d)", i), disk{some(before.db, after.db, rng), before.wal}, true})
		}
		before.db = after.db
		list = append(list, outage{"the database was written", before, true})
	} else {
		zeros := make([]byte, len(after.wal))
		list = append(list, outage{"the log has grown", disk{before.db, merge(before.wal, zeros, func(s int) bool { return s*sectorBytes >= len(before.wal) })}, false})
	}
	for i := range kindsOfOutages - 3 {
		list = append(list, outage{fmt.Sprintf("some of the log was written (%d)", i), disk{before.db, some(before.wal, after.wal, rng)}, checkpoint})
	}
	return list
}

// known is what a ledger knows of key.
type known struct {
	receipts    map[int]cid.Cid
	suspects    []cid.Cid
	description []byte
}

func (k known) equal(other known) bool {
	return maps.Equal(k.receipts, other.receipts) && slices.Equal(k.suspects, other.suspects) && bytes.Equal(k.description, other.description)
}

func ask(t *testing.T, l *sqliteledger.Ledger) known {
	t.Helper()
	receipts, err := l.Receipts(t.Context(), key)
	suspects, serr := l.Suspects(t.Context(), key)
	description, perr := l.Description(t.Context(), "plan")
	if err := errors.Join(err, serr, perr); err != nil {
		t.Fatal(err)
	}
	return known{receipts, suspects, description}
}

// changes returns writes to a ledger of every kind, small and large.
func changes(ctx context.Context, l *sqliteledger.Ledger) []func() error {
	var list []func() error
	for i := range 12 {
		list = append(list, func() error { return l.Record(ctx, key, i, ledgertest.CID(i)) })
	}
	description := func(size int, fill byte) func() error {
		return func() error { return l.SaveDescription(ctx, "plan", bytes.Repeat([]byte{fill}, size)) }
	}
	list = append(list,
		description(100_000, 'a'),
		func() error { return l.Suspect(ctx, key, []cid.Cid{ledgertest.CID(5), ledgertest.CID(6)}) },
		func() error { return l.Record(ctx, key, 3, ledgertest.CID(333)) },
		description(300_000, 'b'),
		func() error { return l.Finish(ctx, key, nil, uploader.Finished{}) },
		func() error { return l.Forget(ctx, key) },
		func() error { return l.Record(ctx, key, 0, ledgertest.CID(0)) },
		description(50_000, 'c'),
		func() error { return l.Record(ctx, key, 1, ledgertest.CID(1)) },
	)
	return list
}

// checkpoint makes SQLite move the contents of the log into the database.
func checkpoint(t *testing.T, path, how string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var busy, log, moved int
	if err := db.QueryRowContext(t.Context(), `PRAGMA wal_checkpoint(`+how+`)`).Scan(&busy, &log, &moved); err != nil || busy != 0 {
		t.Fatalf("checkpoint: busy %d, %v", busy, err)
	}
}

// withCheckpoints returns changes with checkpoints between them.
func withCheckpoints(t *testing.T, path string, l *sqliteledger.Ledger) []func() error {
	var list []func() error
	for i, c := range changes(t.Context(), l) {
		list = append(list, c)
		switch i % 6 {
		case 2:
			list = append(list, func() error { checkpoint(t, path, "RESTART"); return nil })
		case 5:
			list = append(list, func() error { checkpoint(t, path, "TRUNCATE"); return nil })
		}
	}
	return list
}

// TestPowerLoss cuts the power at any point of any change. The ledger opens,
// has everything that was durable and the change completely or not at all, and
// can be used.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, lost := filepath.Join(dir, "ledger.db"), filepath.Join(dir, "lost.db")
	l := open(t, path)
	rng := rand.New(rand.NewPCG(22, 1))
	before, old := read(t, path), ask(t, l)
	checkpoints := 0
	for n, change := range withCheckpoints(t, path, l) {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		after, now := read(t, path), ask(t, l)
		if !bytes.Equal(before.db, after.db) {
			checkpoints++
		}
		for _, o := range outages(before, after, rng) {
			o.disk.write(t, lost)
			again, err := sqliteledger.Open(t.Context(), lost, sqliteledger.Options{NoSync: true})
			if err != nil {
				t.Fatalf("change %d, %s: %v", n, o.name, err)
			}
			want := old
			if o.done {
				want = now
			}
			if got := ask(t, again); !got.equal(want) {
				t.Errorf("change %d, %s: %d receipts, %d suspects, a description of %d bytes; want %d, %d, %d", n, o.name,
					len(got.receipts), len(got.suspects), len(got.description), len(want.receipts), len(want.suspects), len(want.description))
			}
			if err := again.Record(t.Context(), key, 1000, ledgertest.CID(1000)); err != nil {
				t.Fatalf("change %d, %s: %v", n, o.name, err)
			}
			if got := ask(t, again); got.receipts[1000] != ledgertest.CID(1000) || len(got.receipts) != len(want.receipts)+1 {
				t.Errorf("change %d, %s: a record after it is not there", n, o.name)
			}
			if err := again.Close(); err != nil {
				t.Fatal(err)
			}
		}
		before, old = after, now
	}
	if checkpoints < 5 {
		t.Errorf("only %d checkpoints", checkpoints)
	}
}

// TestPowerLossOnALyingDisk: the disk reports writes as durable, but keeps them
// in any order, so some sectors of the changes are missing. The ledger is
// refused, or nothing in it is untrue.
func TestPowerLossOnALyingDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, lost := filepath.Join(dir, "ledger.db"), filepath.Join(dir, "lost.db")
	l := open(t, path)
	files := []disk{read(t, path)}
	ever := map[int]map[cid.Cid]bool{} // receipts that were true at any time
	for _, change := range withCheckpoints(t, path, l) {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		files = append(files, read(t, path))
		for i, c := range ask(t, l).receipts {
			if ever[i] == nil {
				ever[i] = map[cid.Cid]bool{}
			}
			ever[i][c] = true
		}
	}
	isTrue := func(k known) bool {
		for i, c := range k.receipts {
			if !ever[i][c] {
				return false
			}
		}
		for _, c := range k.suspects {
			if c != ledgertest.CID(5) && c != ledgertest.CID(6) {
				return false
			}
		}
		return len(k.description) == 0 || bytes.Count(k.description, k.description[:1]) == len(k.description) && slices.Contains([]int{100_000, 300_000, 50_000}, len(k.description))
	}
	rng := rand.New(rand.NewPCG(22, 2))
	rounds := 150
	if testing.Short() {
		rounds = 30
	}
	refused := 0
	for round := range rounds {
		// The disk has everything up to one change, and arbitrary parts of the
		// next few.
		first := rng.IntN(len(files) - 1)
		file := files[first]
		part := func(now, old, next []byte) []byte {
			return merge(now, next, func(s int) bool {
				at := s * sectorBytes
				end := min(at+sectorBytes, len(next))
				changed := end > len(old) || !bytes.Equal(next[at:end], old[at:end])
				return changed && rng.IntN(2) == 0
			})
		}
		for n := first + 1; n < min(first+1+rng.IntN(4)+1, len(files)); n++ {
			last := files[n-1]
			file = disk{part(file.db, last.db, files[n].db), part(file.wal, last.wal, files[n].wal)}
		}
		file.write(t, lost)
		again, err := sqliteledger.Open(t.Context(), lost, sqliteledger.Options{NoSync: true})
		if errors.Is(err, uploader.ErrLedgerDamaged) {
			refused++
			report, rerr := sqliteledger.Repair(t.Context(), lost)
			if rerr != nil {
				t.Fatalf("round %d: %v", round, rerr)
			}
			if err := os.Remove(report.Old); err != nil {
				t.Fatal(err)
			}
			again, err = sqliteledger.Open(t.Context(), lost, sqliteledger.Options{NoSync: true})
		}
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if got := ask(t, again); !isTrue(got) {
			t.Errorf("round %d: %+v", round, got)
		}
		if err := errors.Join(again.Record(t.Context(), key, 1000, ledgertest.CID(1000)), again.Close()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	if refused == 0 || refused == rounds {
		t.Errorf("%d of %d files were refused", refused, rounds)
	}
}

// doomed is a ledger under which the power fails at its n-th receipt.
type doomed struct {
	*sqliteledger.Ledger
	t             *testing.T
	left          int
	before, after disk
}

var errPower = errors.New("the power is out")

func (d *doomed) Record(ctx context.Context, u uploader.UploadKey, index int, archive cid.Cid) error {
	if d.left--; d.left > 0 {
		return d.Ledger.Record(ctx, u, index, archive)
	}
	d.before = read(d.t, d.Path())
	if err := d.Ledger.Record(ctx, u, index, archive); err != nil {
		return err
	}
	d.after = read(d.t, d.Path())
	return errPower
}

// TestUploadAfterPowerLoss cuts the power while each of an upload's receipts is
// recorded. The upload goes on with what was durable, does not send again what
// the service has, and completes.
func TestUploadAfterPowerLoss(t *testing.T) {
	t.Parallel()
	const shards = 5
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	data := make([]byte, 20*16<<10)
	_, _ = rand.NewChaCha8([32]byte{22}).Read(data)
	if err := os.WriteFile(source, data, 0o600); err != nil {
		t.Fatal(err)
	}
	profile := chunker.UnixFSv1()
	profile.ChunkBytes = 16 << 10
	const shardBytes = 70_000
	rng := rand.New(rand.NewPCG(22, 3))
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	token, err := nftstorage.NewToken(srv.Token)
	if err != nil {
		t.Fatal(err)
	}
	target, err := nftstorage.New(nftstorage.Options{Endpoint: srv.URL, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	upload := func(l uploader.Ledger) (r uploader.Result, err error) {
		in, err := uploader.File(source, chunker.Options{Profile: profile, Workers: 1})
		if err != nil {
			t.Fatal(err)
		}
		u, err := uploader.New(target, uploader.Options{Ledger: l, MaxShardBytes: shardBytes, Transfers: 1})
		if err != nil {
			t.Fatal(err)
		}
		for r, err = range u.Upload(t.Context(), slices.Values([]uploader.Input{in})) {
		}
		return r, err
	}
	for at := 1; at <= shards; at++ {
		for kind := range kindsOfOutages {
			if testing.Short() && kind > 3 {
				break // there is one kind of those
			}
			srv.Store.Reset()
			d := &doomed{Ledger: open(t, filepath.Join(dir, fmt.Sprintf("ledger-%d-%d", at, kind))), t: t, left: at}
			first, err := upload(d)
			if !errors.Is(err, errPower) || first.Shards != shards {
				t.Fatalf("%+v, %v", first, err)
			}
			o := outages(d.before, d.after, rng)[kind]
			path := filepath.Join(dir, "lost")
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			o.disk.write(t, path)
			l := open(t, path)
			k := uploader.UploadKey{Target: srv.URL, Root: first.Root, MaxShardBytes: shardBytes}
			receipts, err := l.Receipts(t.Context(), k)
			durable := at - 1
			if o.done {
				durable = at
			}
			if err != nil || len(receipts) != durable {
				t.Errorf("power cut at receipt %d, %s: %d receipts, %v", at, o.name, len(receipts), err)
			}
			before := srv.Count(uploadertest.Upload).Requests
			r, err := upload(l)
			sent := srv.Count(uploadertest.Upload).Requests - before
			if err != nil || !srv.Store.Complete(r.Root) || r.Held != at || sent != shards-at {
				t.Errorf("power cut at receipt %d, %s: %+v, %d sent, %v", at, o.name, r, sent, err)
			}
			if receipts, err := l.Receipts(t.Context(), k); err != nil || len(receipts) != shards {
				t.Errorf("power cut at receipt %d, %s: %d receipts in the end, %v", at, o.name, len(receipts), err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}
