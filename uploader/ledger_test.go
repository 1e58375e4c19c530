package uploader_test

import (
	"context"
	"errors"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/ledgertest"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

func TestMemoryLedger(t *testing.T) {
	t.Parallel()
	ledgertest.Run(t, func(*testing.T) (uploader.Ledger, func() uploader.Ledger) {
		return new(uploader.MemoryLedger), nil
	})
}

// countingLedger counts records of single shards.
type countingLedger struct {
	uploader.Ledger
	records int
}

func (l *countingLedger) Record(ctx context.Context, u uploader.UploadKey, i int, c cid.Cid) error {
	l.records++
	return l.Ledger.Record(ctx, u, i, c)
}

// hastyTarget calls after as soon as a shard has arrived.
type hastyTarget struct {
	*nftstorage.Target
	after func()
}

func (t hastyTarget) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	r, err := t.Target.Put(ctx, s)
	t.after()
	return r, err
}

// The receipt of a small upload is recorded together with its end, unless
// something comes in between. It is never lost.
func TestReceiptWithEnd(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		level   uploader.VerifyLevel
		cancel  bool
		records int
	}{
		"at once":   {level: uploader.VerifyPinned},
		"verified":  {level: uploader.VerifyFull, records: 1},
		"cancelled": {level: uploader.VerifyPinned, cancel: true, records: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := uploadertest.NewServer(t, uploadertest.Options{})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			after := func() {}
			if tt.cancel {
				after = cancel
			}
			l := &countingLedger{Ledger: new(uploader.MemoryLedger)}
			u := newUploader(t, hastyTarget{newTarget(t, srv), after}, uploader.Options{Ledger: l, Verify: tt.level})
			var last uploader.Result
			for r, err := range u.Upload(ctx, inputs(t, []string{randomFile(t, 5000, 1)})) {
				if tt.cancel != errors.Is(err, context.Canceled) || !tt.cancel && err != nil {
					t.Errorf("error %v", err)
				}
				last = r
			}
			if l.records != tt.records {
				t.Errorf("%d records, want %d", l.records, tt.records)
			}
			key := uploader.UploadKey{Target: srv.URL, Root: last.Root, MaxShardBytes: shardBytes}
			if got, err := l.Receipts(t.Context(), key); err != nil || len(got) != 1 {
				t.Errorf("receipts %v, %v", got, err)
			}
		})
	}
}

// Somebody else is sending a root. An upload of it that has nothing to send does
// not wait, unless its receipts cannot be read.
func TestNothingToWaitFor(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	l := &lockedLedger{Ledger: new(uploader.MemoryLedger)}
	u := newUploader(t, newTarget(t, srv), uploader.Options{Ledger: l})
	path := randomFile(t, 5000, 1)
	first, err := uploadOne(t.Context(), u, input(t, path))
	if err != nil {
		t.Fatal(err)
	}
	l.locked = true
	again, err := uploadOne(t.Context(), u, input(t, path))
	if err != nil || again.Held != 1 || !again.Root.Equals(first.Root) {
		t.Errorf("%+v, %v", again, err)
	}
	l.broken = errors.New("broken")
	if _, err := uploadOne(t.Context(), u, input(t, path)); !errors.Is(err, l.broken) {
		t.Errorf("error %v", err)
	}
}

// lockedLedger has all its claims taken by somebody else.
type lockedLedger struct {
	uploader.Ledger
	locked bool
	broken error // of Receipts
}

func (l *lockedLedger) Begin(ctx context.Context, u uploader.UploadKey, waits func()) (func(), error) {
	if !l.locked {
		return l.Ledger.Begin(ctx, u, waits)
	}
	waits()
	<-ctx.Done()
	return nil, ctx.Err()
}

func (l *lockedLedger) Receipts(ctx context.Context, u uploader.UploadKey) (map[int]cid.Cid, error) {
	if l.broken != nil {
		return nil, l.broken
	}
	return l.Ledger.Receipts(ctx, u)
}
