package uploader_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/uploadertest"
)

func planOf(tb testing.TB, path string) *splitter.Plan {
	tb.Helper()
	src, err := chunker.OpenFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	dag, err := chunker.Build(tb.Context(), src, chunking())
	if err != nil {
		tb.Fatal(err)
	}
	plan, err := splitter.Split(dag, splitter.Options{MaxShardBytes: shardBytes})
	if err != nil {
		tb.Fatal(err)
	}
	return plan
}

// TestDrain: shards in flight are finished and recorded, no new ones begin, and
// the same upload goes on later.
func TestDrain(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	ledger := new(uploader.MemoryLedger)
	opts := uploader.Options{Ledger: ledger, Transfers: 2}
	var u *uploader.Uploader
	// One shard waits for a retry while another is sent. The drain ends the
	// wait and does not affect the sending.
	var begun atomic.Int32
	opts.Observer = observerFunc(func(e uploader.Event) {
		if _, ok := e.(uploader.ShardSent); ok && begun.Add(1) == 2 {
			u.Drain()
		}
	})
	u = newUploader(t, newTarget(t, srv), opts)
	r, err := uploadOne(t.Context(), u, input(t, path))
	if !errors.Is(err, uploader.ErrStopped) {
		t.Fatalf("error %v", err)
	}
	receipts, lerr := ledger.Receipts(t.Context(), uploader.UploadKey{Target: srv.URL, Root: r.Root, MaxShardBytes: shardBytes})
	if lerr != nil {
		t.Fatal(lerr)
	}
	requests := srv.Count(uploadertest.Upload).Requests
	if len(receipts) != requests || requests >= r.Shards || requests < 2 {
		t.Errorf("%d receipts for %d requests", len(receipts), requests)
	}
	u.Drain()
	opts.Observer = nil
	r, err = uploadOne(t.Context(), newUploader(t, newTarget(t, srv), opts), input(t, path))
	if err != nil || r.Held != len(receipts) || srv.Count(uploadertest.Upload).Requests != r.Shards {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestDrainLetsOthersFinish: a shard that waits for a retry gives up, which
// does not cancel the one that is being sent.
func TestDrainLetsOthersFinish(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, 8*leafBytes, 1) // two shards
	retrying := make(chan struct{})
	srv.Script(uploadertest.Upload, uploadertest.Status(503))
	ledger := new(uploader.MemoryLedger)
	u := newUploader(t, newTarget(t, srv), uploader.Options{Ledger: ledger, Transfers: 2, Clock: waitClock{retrying}})
	slow := uploadertest.Fault(nil)
	slow = gate(retrying, u.Drain)
	srv.Script(uploadertest.Upload, slow)
	r, err := uploadOne(t.Context(), u, input(t, path))
	if !errors.Is(err, uploader.ErrStopped) {
		t.Fatalf("error %v", err)
	}
	receipts, _ := ledger.Receipts(t.Context(), uploader.UploadKey{Target: srv.URL, Root: r.Root, MaxShardBytes: shardBytes})
	if len(receipts) != 1 || r.Shards != 2 {
		t.Errorf("%d receipts of %d shards, want 1 of 2", len(receipts), r.Shards)
	}
}

// TestCancelAnywhere cancels or drains at random points. Nothing is left
// running, no descriptor stays open, the ledger is never ahead, and the upload
// completes in the end.
func TestCancelAnywhere(t *testing.T) {
	// Not parallel, because it counts descriptors.
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	root := rootOf(t, path)
	rounds := 60
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		rounds = 1000
	}
	target := newTarget(t, srv)
	before := -1
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range rounds {
		ledger := new(uploader.MemoryLedger)
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("the test stops it")
		// Points are counted in events and reads of the payload, not in time.
		left := int64(rng.IntN(25))
		var u *uploader.Uploader
		drain := rng.IntN(2) == 0
		tick := func() {
			if left--; left == 0 {
				if drain {
					u.Drain()
				} else {
					cancel(stop)
				}
			}
		}
		mu := make(chan struct{}, 1)
		obs := observerFunc(func(uploader.Event) { mu <- struct{}{}; tick(); <-mu })
		u = newUploader(t, target, uploader.Options{Ledger: ledger, Observer: obs, NoResume: true, Transfers: 3})
		srv.Always(uploadertest.Upload, tickBody(func() { mu <- struct{}{}; tick(); <-mu }))
		_, err := uploadOne(ctx, u, input(t, path))
		if err != nil && !errors.Is(err, stop) && !errors.Is(err, uploader.ErrStopped) {
			t.Fatalf("round %d: error %v", round, err)
		}
		cancel(nil)
		receipts, _ := ledger.Receipts(t.Context(), uploader.UploadKey{Target: srv.URL, Root: root, MaxShardBytes: shardBytes})
		if p := u.Progress(); p.BytesSent != sizeOf(t, path, receipts) {
			t.Fatalf("round %d: %+v, %d receipts for %d bytes", round, p, len(receipts), sizeOf(t, path, receipts))
		}
		if round == 10 {
			before = descriptors(t)
		}
	}
	srv.Always(uploadertest.Upload, nil)
	if after := descriptors(t); after > before+8 {
		t.Errorf("%d descriptors are open, %d were before", after, before)
	}
	if _, err := uploadOne(t.Context(), newUploader(t, target, uploader.Options{}), input(t, path)); err != nil || !srv.Store.Complete(root) {
		t.Errorf("error %v", err)
	}
}

func descriptors(tb testing.TB) int {
	tb.Helper()
	if runtime.GOOS != "linux" {
		tb.Skip("counts descriptors in /proc")
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(entries)
}
