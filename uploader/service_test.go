package uploader_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/boltledger"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

// newService is the self-hosted service behind a script of faults.
func newService(t *testing.T, dir string) *uploadertest.Server {
	t.Helper()
	svc, err := service.Open(t.Context(), service.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	token, err := svc.CreateKey(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	return uploadertest.NewServer(t, uploadertest.Options{Handler: svc.Handler(), Token: token})
}

// TestSelfHosted uploads to the real service through faults, and has all of it
// back.
func TestSelfHosted(t *testing.T) {
	t.Parallel()
	srv := newService(t, t.TempDir())
	path := randomFile(t, fileBytes, 1)
	ledger, err := boltledger.Open(filepath.Join(t.TempDir(), "ledger.db"), boltledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close()
	srv.Script(uploadertest.Upload, uploadertest.Status(502), uploadertest.Drop(50_000), uploadertest.LoseReply, uploadertest.Swallow,
		uploadertest.OriginTimeout, uploadertest.MissingPart)
	srv.Script(uploadertest.Archive, uploadertest.Break(200_000))
	opts := uploader.Options{Ledger: ledger, Verify: uploader.VerifyFull}
	u := newUploader(t, newTarget(t, srv), opts)
	r, err := uploadOne(t.Context(), u, input(t, path))
	if err != nil || r.Root != rootOf(t, path) || r.Held != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if p := u.Progress(); p.Retries < 6 || p.BytesSent != p.BytesToSend {
		t.Errorf("progress %+v", p)
	}
	requests := srv.Count(uploadertest.Upload).Requests
	for _, l := range []uploader.Ledger{ledger, nil} {
		opts.Ledger, opts.Verify = l, uploader.VerifySample
		r, err = uploadOne(t.Context(), newUploader(t, newTarget(t, srv), opts), input(t, path))
		if err != nil || r.Held != r.Shards || srv.Count(uploadertest.Upload).Requests != requests {
			t.Errorf("again: %+v, %v", r, err)
		}
	}
}

// pattern is a source of any size that takes no room: each 64 KiB are drawn
// from their number.
type pattern struct {
	seed uint64
	size int64
}

func (p pattern) Name() string                  { return fmt.Sprint("pattern ", p.seed) }
func (p pattern) Size() int64                   { return p.size }
func (p pattern) Open() (car.SourceFile, error) { return p, nil }
func (p pattern) Close() error                  { return nil }

func (p pattern) ReadAt(b []byte, off int64) (int, error) {
	const piece = 64 << 10
	n := int(min(int64(len(b)), p.size-off))
	var buf [piece]byte
	for done := 0; done < n; {
		at := off + int64(done)
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], p.seed)
		binary.LittleEndian.PutUint64(key[8:], uint64(at/piece))
		_, _ = rand.NewChaCha8(key).Read(buf[:])
		done += copy(b[done:n], buf[at%piece:])
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// TestSoak sends for as long as CARLOAD_SOAK says ("20m") as much as
// CARLOAD_SOAK_BYTES says to the service, in CARLOAD_SOAK_DIR, while requests
// fail at random, and has all of it back.
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
	srv := newService(t, filepath.Join(dir, "store"))
	ledger, err := boltledger.Open(filepath.Join(dir, "ledger.db"), boltledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close()
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	met := map[string]int{}
	srv.Always(uploadertest.Upload, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		at := rng.Int64N(max(r.ContentLength, 1))
		names := [...]string{"reset", "stall", "429", "503", "502", "lost reply", "swallowed", "missing part"}
		faults := [...]uploadertest.Fault{
			uploadertest.Drop(at), uploadertest.Stall(at), uploadertest.RateLimited("1"), uploadertest.Status(503),
			uploadertest.OriginTimeout, uploadertest.LoseReply, uploadertest.Swallow, uploadertest.MissingPart,
		}
		i := rng.IntN(4 * len(faults)) // one request in four fails
		f := uploadertest.Fault(uploadertest.Pass)
		if i < len(faults) {
			f = faults[i]
			met[names[i]]++
		}
		mu.Unlock()
		f(w, r, next)
	})
	src := pattern{1, size}
	dag, err := chunker.Build(t.Context(), src, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := splitter.Split(dag, splitter.Options{})
	if err != nil {
		t.Fatal(err)
	}
	target := newTarget(t, srv, func(o *nftstorage.Options) { o.Stall = 5 * time.Second })
	var heap uint64
	obs := observerFunc(func(e uploader.Event) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		mu.Lock()
		defer mu.Unlock()
		heap = max(heap, m.HeapInuse)
		if s, ok := e.(uploader.ShardSent); ok && s.Index%20 == 0 {
			t.Logf("shard %d of %d, %d MiB of heap, %d goroutines", s.Index, s.Count, m.HeapInuse>>20, runtime.NumGoroutine())
		}
	})
	u, err := uploader.New(target, uploader.Options{
		Ledger: ledger, Observer: obs, Verify: uploader.VerifyFull, Retries: 20,
		BytesPerSecond: max(int64(float64(plan.Size())/length.Seconds()), 1<<10),
	})
	if err != nil {
		t.Fatal(err)
	}
	before := descriptors(t)
	start := time.Now()
	r, err := u.Send(t.Context(), "soak", plan)
	if err != nil || r.Root != dag.Root() {
		t.Fatalf("%+v, %v", r, err)
	}
	p := u.Progress()
	t.Logf("%d bytes in %s; sent again %d (%.2f %%), %d retries, faults %v; most heap %d MiB; descriptors %d before, %d after",
		plan.Size(), time.Since(start).Round(time.Second), p.BytesResent, 100*float64(p.BytesResent)/float64(plan.Size()), p.Retries, met,
		heap>>20, before, descriptors(t))
	if p.BytesSent != plan.Size() {
		t.Errorf("progress %+v", p)
	}
	// What is left is what the test itself holds: the service's connections to
	// its database, and requests that stall until the server ends.
	_ = target.Close()
	const databases = 9 * 2
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); descriptors(t) > before+met["stall"]+databases; <-tick.C {
		if time.Now().After(deadline) {
			t.Errorf("%d descriptors are open, %d were before, %d requests stall", descriptors(t), before, met["stall"])
			break
		}
	}
	if heap > 512<<20 {
		t.Errorf("%d MiB of heap", heap>>20)
	}
}
