package store

import (
	"bytes"
	"crypto/sha256"
	"io"
	"log/slog"
	"testing"

	"github.com/ipfs/go-cid"

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

// TestJournalFillsMeanwhile: the journal is full by the time a small shard has
// come in. Then the shard goes to a file that is synced.
func TestJournalFillsMeanwhile(t *testing.T) {
	t.Parallel()
	st, _, token := openWithKey(t)
	who, err := st.Authenticate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	leaf := []byte("leaf")
	c := cid.NewCidV1(cid.Raw, car.CID(sha256.Sum256(leaf)).Hash())
	body := car.AppendHeader(nil, c)
	body = append(append(append(body, byte(c.ByteLen()+len(leaf))), c.Bytes()...), leaf...)
	src := readerFunc(func(p []byte) (int, error) {
		st.journal.bytes.Store(journalBytes)
		n := copy(p, body)
		body = body[n:]
		if n == 0 {
			return 0, io.EOF
		}
		return n, nil
	})
	in, err := st.Receive(t.Context(), src, int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if in.small != nil || in.f == nil {
		t.Error("not in a file")
	}
	if err := st.Accept(t.Context(), in, &NewUpload{Caller: who, Kind: KindCAR}); err != nil {
		t.Fatal(err)
	}
	if got, err := st.Block(t.Context(), c); err != nil || !bytes.Equal(got, leaf) {
		t.Errorf("%q, %v", got, err)
	}
	st.journal.bytes.Store(0)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
