package store

import (
	"bytes"
	"crypto/sha256"
	"log/slog"
	"testing"

	"github.com/carload/carload/car"
)

func newJournal(t *testing.T) *journal {
	t.Helper()
	f := files{t.TempDir(), new(openFiles), new(folders)}
	if err := f.prepare(); err != nil {
		t.Fatal(err)
	}
	return &journal{files: f, log: slog.New(slog.DiscardHandler)}
}

// A write to the journal fails after others have appended. What they appended
// is synced, or its sync fails; it is not taken to be durable.
func TestSyncAfterFailedAppend(t *testing.T) {
	t.Parallel()
	j := newJournal(t)
	put := func(text string) error { return j.append(car.CID(sha256.Sum256([]byte(text))), []byte(text)) }
	if err := put("first"); err != nil {
		t.Fatal(err)
	}
	if err := j.f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := put("second"); err == nil {
		t.Fatal("the write did not fail")
	}
	if err := j.sync(); err == nil {
		t.Error("the first was not synced, and nobody says so")
	}
	if err := put("third"); err != nil {
		t.Errorf("after a failure: %v", err)
	}
	if err := j.sync(); err != nil {
		t.Errorf("after a failure: %v", err)
	}
	if err := j.close(); err != nil {
		t.Error(err)
	}
}

// Segments that are closed while others are being settled are settled too, so
// that a full journal has room again.
func TestSegmentsAreSettled(t *testing.T) {
	t.Parallel()
	j := newJournal(t)
	data := bytes.Repeat([]byte("."), journalShardBytes)
	c := car.CID(sha256.Sum256(data))
	for j.bytes.Load() < journalBytes/2 {
		for range 50 {
			if err := j.append(c, data); err != nil {
				t.Fatal(err)
			}
		}
		if err := j.sync(); err != nil {
			t.Fatal(err)
		}
		if j.next > 12 {
			break // they are settled faster than they are filled
		}
	}
	j.settling.Wait()
	if len(j.full) > 0 || j.bytes.Load() != j.cur.bytes && j.f != nil || j.f == nil && j.bytes.Load() != 0 {
		t.Errorf("%d segments are left, %d bytes count, %d are in the last one", len(j.full), j.bytes.Load(), j.cur.bytes)
	}
	if err := j.close(); err != nil {
		t.Error(err)
	}
	if n := j.bytes.Load(); n != 0 {
		t.Errorf("%d bytes count after the end", n)
	}
}
