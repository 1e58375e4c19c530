package uploader_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/sqliteledger"
	"github.com/carload/carload/uploader/uploadertest"
)

// What a bad line does to a request, by the names used in the log.
const (
	tooMany     = "429"
	unavailable = "503"
	timeout     = "502"         // after the whole body
	reset       = "reset"       // within the body
	stall       = "stall"       // within the body, for longer than the client waits
	crawl       = "crawl"       // within the body, but not slow enough to give up
	lostReply   = "lost reply"  // after storing
	cutReply    = "cut reply"   // after storing
	cutArchive  = "cut archive" // while fetching back
	lostCheck   = "lost check"  // no reply to a check
)

// badLine is a proxy before a service that makes requests fail at random.
type badLine struct {
	URL   string
	proxy *httputil.ReverseProxy
	stall time.Duration

	mu   sync.Mutex
	rng  *rand.Rand
	deck []string // faults for the next uploads
	met  map[string]int
}

// fault is what happens to one request.
type fault struct {
	kind string
	at   int64 // the byte of the body that it affects
}

type faultKey struct{}

var errBroken = errors.New("the line broke")

func newBadLine(t *testing.T, to string, stall time.Duration, seed uint64) *badLine {
	t.Helper()
	dest, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 8}
	l := &badLine{stall: stall, rng: rand.New(rand.NewPCG(seed, 1)), met: map[string]int{}}
	l.proxy = &httputil.ReverseProxy{
		Transport:     transport,
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(dest) },
		FlushInterval: -1,
		ModifyResponse: func(resp *http.Response) error {
			switch f, _ := resp.Request.Context().Value(faultKey{}).(fault); f.kind {
			case lostReply, lostCheck:
				return errBroken
			case cutReply, cutArchive:
				resp.Body = &brokenBody{ReadCloser: resp.Body, left: f.at, fail: func(context.Context) error { return errBroken }}
			}
			return nil
		},
		ErrorLog:     slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { uploadertest.Reset(w) },
	}
	srv := httptest.NewServer(l)
	l.URL = srv.URL
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		transport.CloseIdleConnections()
	})
	return l
}

// draw decides what happens to a request.
func (l *badLine) draw(r *http.Request) fault {
	l.mu.Lock()
	defer l.mu.Unlock()
	var f fault
	archive := r.URL.Query().Get("format") == "car"
	switch {
	case r.Method == http.MethodPost && l.rng.IntN(4) == 0:
		if len(l.deck) == 0 { // each kind once before any repeats
			l.deck = []string{reset, stall, crawl, tooMany, unavailable, timeout, lostReply, cutReply}
			l.rng.Shuffle(len(l.deck), func(i, j int) { l.deck[i], l.deck[j] = l.deck[j], l.deck[i] })
		}
		f = fault{l.deck[0], l.rng.Int64N(max(r.ContentLength, 1))}
		l.deck = l.deck[1:]
		if f.kind == cutReply {
			f.at = l.rng.Int64N(200)
		}
	case archive && (l.met[cutArchive] == 0 || l.rng.IntN(3) == 0):
		f = fault{cutArchive, l.rng.Int64N(256 << 20)}
	case r.Method == http.MethodGet && !archive && (l.met[lostCheck] == 0 || l.rng.IntN(100) == 0):
		f = fault{lostCheck, 0}
	}
	if f.kind != "" {
		l.met[f.kind]++
	}
	return f
}

// faults returns what happened so far.
func (l *badLine) faults() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.met)
}

// ServeHTTP implements http.Handler.
func (l *badLine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := l.draw(r)
	r = r.WithContext(context.WithValue(r.Context(), faultKey{}, f))
	switch f.kind {
	case tooMany:
		uploadertest.RateLimited("1")(w, r, nil)
		return
	case unavailable:
		uploadertest.Status(http.StatusServiceUnavailable)(w, r, nil)
		return
	case timeout:
		_, _ = io.Copy(io.Discard, r.Body)
		uploadertest.Status(http.StatusBadGateway)(w, r, nil)
		return
	case reset:
		r.Body = &brokenBody{ReadCloser: r.Body, left: f.at, fail: func(context.Context) error { return errBroken }}
	case stall:
		r.Body = &brokenBody{ReadCloser: r.Body, left: f.at, ctx: r.Context(), fail: func(ctx context.Context) error {
			return errors.Join(errBroken, pause(ctx, 2*l.stall))
		}}
	case crawl:
		// Slow enough for the client to check whether it is stuck, for as long
		// as it would wait.
		steps := 8
		r.Body = &brokenBody{ReadCloser: r.Body, left: f.at, ctx: r.Context(), fail: func(ctx context.Context) error {
			if steps--; steps < 0 {
				return nil
			}
			return pause(ctx, l.stall/4)
		}}
	}
	l.proxy.ServeHTTP(w, r)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// brokenBody calls fail before each read after the first bytes, and fails if
// fail does.
type brokenBody struct {
	io.ReadCloser
	ctx  context.Context
	left int64
	fail func(context.Context) error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		if err := b.fail(b.ctx); err != nil {
			return 0, err
		}
		return b.ReadCloser.Read(p)
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// TestSoak uploads CARLOAD_SOAK_BYTES (20 GiB) during CARLOAD_SOAK ("20m") in
// four transfers to the service, which stores it in CARLOAD_SOAK_DIR, over a
// line that fails at random. Then it fetches everything back over that line. At
// the end nothing is left behind.
func TestSoak(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("CARLOAD_SOAK"))
	if err != nil {
		t.Skip("CARLOAD_SOAK is not set")
	}
	size := int64(20 << 30)
	if s := os.Getenv("CARLOAD_SOAK_BYTES"); s != "" {
		if size, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	parent := os.Getenv("CARLOAD_SOAK_DIR")
	if parent == "" {
		parent = os.TempDir()
	}
	dir, err := os.MkdirTemp(parent, "soak-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	open, running := descriptors(t), runtime.NumGoroutine()
	// What the inner test begins must end with it.
	if !t.Run("upload", func(t *testing.T) { soak(t, dir, length, size) }) {
		return
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); descriptors(t) > open || runtime.NumGoroutine() > running; <-tick.C {
		if time.Now().After(deadline) {
			t.Errorf("%d descriptors and %d goroutines are left, %d and %d were before", descriptors(t), runtime.NumGoroutine(), open, running)
			break
		}
	}
	t.Logf("%d descriptors and %d goroutines before, %d and %d after", open, running, descriptors(t), runtime.NumGoroutine())
}

func soak(t *testing.T, dir string, length time.Duration, size int64) {
	const patience = 5 * time.Second
	const mostHeap = 384 << 20 // of client, line and service together
	start := time.Now()
	srv := newService(t, filepath.Join(dir, "store"))
	line := newBadLine(t, srv.URL, patience, uint64(size))
	ledger, err := sqliteledger.Open(t.Context(), filepath.Join(dir, "ledger.db"), sqliteledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ledger.Close() })
	dag, err := chunker.Build(t.Context(), pattern{1, size}, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	// Enough shards for every fault, however little is sent.
	plan, err := splitter.Split(dag, splitter.Options{MaxShardBytes: min(splitter.DefaultMaxShardBytes, max(size/100, 4<<20))})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	retries := map[string]int{}
	obs := observerFunc(func(e uploader.Event) {
		mu.Lock()
		defer mu.Unlock()
		switch e := e.(type) {
		case uploader.Retrying:
			retries[fmt.Sprintf("attempt %d", e.Attempt)]++
		case uploader.ShardSent:
			if e.Index%20 == 0 {
				t.Logf("%s: shard %d of %d, in %d attempts", time.Since(start).Round(time.Second), e.Index+1, e.Count, e.Attempts)
			}
		}
	})
	target := newTarget(t, srv, func(o *nftstorage.Options) { o.Endpoint, o.Stall = line.URL, patience })
	u, err := uploader.New(target, uploader.Options{
		Transfers: 4, Ledger: ledger, Observer: obs, Verify: uploader.VerifyFull, Retries: 20,
		// Some shards are sent twice, and some time passes without sending.
		BytesPerSecond: max(int64(1.2*float64(plan.Size())/length.Seconds()), 1<<20),
	})
	if err != nil {
		t.Fatal(err)
	}

	stop := make(chan struct{})
	heap := make(chan uint64, 1)
	go func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		var most uint64
		for {
			select {
			case <-stop:
				heap <- most
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapInuse)
			}
		}
	}()
	r, err := u.Send(t.Context(), "soak", plan)
	close(stop)
	most := <-heap
	if err != nil || r.Root != dag.Root() || r.Level != uploader.VerifyFull {
		t.Fatalf("%+v, %v", r, err)
	}
	p, met := u.Progress(), line.faults()
	t.Logf("%d bytes in %d shards in %s; sent again %d (%.2f %%); %d retries %v; faults %v; most heap %d MiB",
		plan.Size(), len(plan.Shards), time.Since(start).Round(time.Second), p.BytesResent,
		100*float64(p.BytesResent)/float64(plan.Size()), p.Retries, retries, met, most>>20)
	for _, kind := range []string{reset, stall, crawl, tooMany, unavailable, timeout, lostReply, cutReply, cutArchive, lostCheck} {
		if met[kind] == 0 {
			t.Errorf("no fault of kind %q was met: %v", kind, slices.Sorted(maps.Keys(met)))
		}
	}
	if p.BytesSent != plan.Size() || p.ShardsDone != int64(len(plan.Shards)) {
		t.Errorf("progress %+v", p)
	}
	// Each fault but the slow line costs exactly one attempt of one shard.
	tries := met[tooMany] + met[unavailable] + met[timeout] + met[reset] + met[stall] + met[lostReply] + met[cutReply]
	if int(p.Retries) < tries || p.BytesResent > int64(tries)*plan.MaxShardBytes {
		t.Errorf("%d retries, %d bytes were sent again after %d faults", p.Retries, p.BytesResent, tries)
	}
	if most > mostHeap {
		t.Errorf("%d MiB of heap, want at most %d", most>>20, mostHeap>>20)
	}
	if status, err := target.Status(t.Context(), r.Root); err == nil && status.State != uploader.StatePinned {
		t.Errorf("the service calls it %s", status.State)
	}
}
