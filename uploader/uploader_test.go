package uploader_test

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"go.uber.org/goleak"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

func TestMain(m *testing.M) {
	if run := os.Getenv("CARLOAD_TEST_CHILD"); run != "" {
		os.Exit(child(run))
	}
	goleak.VerifyTestMain(m)
}

// clock is a [uploader.Clock] whose waits take no time.
type clock struct {
	mu    sync.Mutex
	now   time.Time
	waits []time.Duration
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.waits = append(c.waits, d)
	return context.Cause(ctx)
}

func (c *clock) slept() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.waits)
}

// Sizes in these tests: leaves of 16 KiB, and shards of a few leaves.
const (
	leafBytes  = 16 << 10
	shardBytes = 100_000
	fileBytes  = 40*leafBytes + 5
)

func profile() chunker.Profile {
	p := chunker.UnixFSv1()
	p.ChunkBytes, p.Width = leafBytes, 8
	return p
}

func chunking() chunker.Options { return chunker.Options{Profile: profile(), Workers: 2} }

// randomFile makes a file of this size, with bytes generated from the seed.
func randomFile(tb testing.TB, size int, seed uint64) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "source.bin")
	if err := os.WriteFile(path, randomBytes(size, seed), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func randomBytes(size int, seed uint64) []byte {
	p := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(p)
	return p
}

// rootOf is the expected root of a file.
func rootOf(tb testing.TB, path string) cid.Cid {
	tb.Helper()
	src, err := chunker.OpenFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	dag, err := chunker.Build(tb.Context(), src, chunking())
	if err != nil {
		tb.Fatal(err)
	}
	return dag.Root()
}

// newTarget makes a target for the server, and closes its idle connections at
// the end.
func newTarget(tb testing.TB, srv *uploadertest.Server, change ...func(*nftstorage.Options)) *nftstorage.Target {
	tb.Helper()
	token, err := nftstorage.NewToken(srv.Token)
	if err != nil {
		tb.Fatal(err)
	}
	opts := nftstorage.Options{Endpoint: srv.URL, Token: token}
	for _, f := range change {
		f(&opts)
	}
	target, err := nftstorage.New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = target.Close() })
	return target
}

func newUploader(tb testing.TB, target uploader.Target, opts uploader.Options) *uploader.Uploader {
	tb.Helper()
	if opts.MaxShardBytes == 0 {
		opts.MaxShardBytes = shardBytes
	}
	if opts.Clock == nil {
		opts.Clock = &clock{now: time.Unix(1e9, 0)}
	}
	u, err := uploader.New(target, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

func input(tb testing.TB, path string) uploader.Input {
	tb.Helper()
	in, err := uploader.File(path, chunking())
	if err != nil {
		tb.Fatal(err)
	}
	return in
}

// uploadOne uploads one input.
func uploadOne(ctx context.Context, u *uploader.Uploader, in uploader.Input) (result uploader.Result, err error) {
	n := 0
	for r, e := range u.Upload(ctx, slices.Values([]uploader.Input{in})) {
		result, err = r, e
		n++
	}
	if n != 1 {
		return result, errors.Join(err, errors.New("an input must have one result"))
	}
	return result, err
}

func TestUpload(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, leafBytes - 1, leafBytes, leafBytes + 1, fileBytes} {
		for _, verify := range []uploader.VerifyLevel{uploader.VerifyReceipt, uploader.VerifyPinned, uploader.VerifySample, uploader.VerifyFull} {
			t.Run(verify.String(), func(t *testing.T) {
				t.Parallel()
				srv := uploadertest.NewServer(t, uploadertest.Options{})
				path := randomFile(t, size, uint64(size))
				u := newUploader(t, newTarget(t, srv), uploader.Options{Verify: verify})
				r, err := uploadOne(t.Context(), u, input(t, path))
				if err != nil {
					t.Fatal(err)
				}
				if want := rootOf(t, path); r.Root != want || !srv.Store.Complete(want) {
					t.Errorf("root %s, complete %t; want %s", r.Root, srv.Store.Complete(r.Root), want)
				}
				count := srv.Count(uploadertest.Upload)
				if r.Bytes != int64(size) || r.Sent != count.Bytes || r.Shards != count.Requests || r.Held != 0 || r.Level != verify {
					t.Errorf("result %+v; %+v arrived", r, count)
				}
				p := u.Progress()
				if p.BytesSent != p.BytesToSend || p.BytesHashed != int64(size) || p.BytesToHash != int64(size) || p.BytesResent != 0 ||
					p.ShardsDone != p.Shards || p.InputsDone != 1 || p.Inputs != 1 {
					t.Errorf("progress %+v", p)
				}
				if verify == uploader.VerifySample && (r.Sample == nil || r.Sample.Sample != r.Blocks || r.Sample.Blocks != r.Blocks) {
					t.Errorf("sample %+v of %d blocks", r.Sample, r.Blocks)
				}
			})
		}
	}
}

// TestFaults lists what a network and a service can do to an upload.
func TestFaults(t *testing.T) {
	t.Parallel()
	const shards = 7
	spelled := func(spell func(cid.Cid) string) func(*uploadertest.Server, cid.Cid) uploadertest.Fault {
		return func(_ *uploadertest.Server, root cid.Cid) uploadertest.Fault {
			return uploadertest.NamesRoot(spell(root))
		}
	}
	v0 := spelled(func(c cid.Cid) string { return cid.NewCidV0(c.Hash()).String() })
	other := "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
	tests := []struct {
		name    string
		upload  []uploadertest.Fault // one for each request
		check   []uploadertest.Fault
		first   func(srv *uploadertest.Server, root cid.Cid) uploadertest.Fault // for the first upload
		always  uploadertest.Fault                                              // for all uploads
		checks  uploadertest.Fault                                              // for all checks
		want    error
		resends int // shards that are sent again, completely or partly
		verify  uploader.VerifyLevel
	}{
		{name: "bursts of 5xx", upload: []uploadertest.Fault{
			uploadertest.Status(500), uploadertest.Status(502), uploadertest.Status(503), uploadertest.Status(504), uploadertest.OriginTimeout,
		}, resends: 5},
		{name: "endless 503", always: uploadertest.Status(503), want: uploader.ErrUnavailable, resends: -1},
		{name: "rate limited", upload: []uploadertest.Fault{uploadertest.RateLimited("35"), uploadertest.RateLimited("")}, resends: 2},
		{name: "unauthorized at first", always: uploadertest.Refuse(401, "ERROR_TOKEN_NOT_FOUND", "API Key not found."), want: uploader.ErrUnauthorized, resends: -1},
		{
			name: "unauthorized later", upload: []uploadertest.Fault{uploadertest.Pass, uploadertest.Pass, uploadertest.Refuse(401, "ERROR_TOKEN_NOT_FOUND", "gone")},
			always: uploadertest.Refuse(401, "ERROR_TOKEN_NOT_FOUND", "gone"), want: uploader.ErrUnauthorized, resends: -1,
		},
		{name: "blocked", always: uploadertest.Refuse(403, "ERROR_TOKEN_BLOCKED", "API Key is blocked."), want: uploader.ErrUnauthorized, resends: -1},
		{name: "no room", always: uploadertest.Refuse(403, "ERROR_QUOTA_EXCEEDED", "The quota of this API Key is 1 bytes."), want: uploader.ErrQuotaExceeded, resends: -1},
		{name: "other root", first: func(*uploadertest.Server, cid.Cid) uploadertest.Fault { return uploadertest.NamesRoot(other) }, want: uploader.ErrRootMismatch, resends: -1},
		{name: "no root", first: func(*uploadertest.Server, cid.Cid) uploadertest.Fault { return uploadertest.NamesNoRoot }, want: uploader.ErrRootMismatch, resends: -1},
		{name: "root spelled as v0", first: v0},
		{name: "root in upper case", first: spelled(func(c cid.Cid) string { return strings.ToUpper(c.String()) })},
		{name: "root in base 36", first: spelled(func(c cid.Cid) string {
			s, _ := c.StringOfBase('k') // an empty string would mean no root
			return s
		})},
		{name: "root with spaces", first: spelled(func(c cid.Cid) string { return " " + c.String() + " " }), want: uploader.ErrRootMismatch, resends: -1},
		{name: "root with a codec of its own", first: spelled(func(c cid.Cid) string { return cid.NewCidV1(cid.Raw, c.Hash()).String() })},
		{name: "refused with status 200", always: uploadertest.Refuse(200, "ERROR_X", "no"), want: errPermanent, resends: -1},
		{name: "part missing once", upload: []uploadertest.Fault{uploadertest.MissingPart}, resends: 1},
		{name: "part missing always", always: uploadertest.Rewrite(func(v map[string]any) { v["parts"] = []string{} }), want: uploader.ErrRootMismatch, resends: -1},
		{name: "part that is no CID", first: func(*uploadertest.Server, cid.Cid) uploadertest.Fault {
			return uploadertest.Rewrite(func(v map[string]any) { v["parts"] = []string{"\x1b[2Jnonsense"} })
		}, want: errPermanent, resends: -1},
		{name: "never pinned", checks: uploadertest.Reports("pinning"), want: uploader.ErrIncomplete},
		{name: "pin failed", checks: uploadertest.Reports("failed"), want: uploader.ErrIncomplete},
		{name: "unknown afterwards", checks: uploadertest.Status(404), want: uploader.ErrIncomplete},
		{name: "pinned in the end", check: append([]uploadertest.Fault{uploadertest.Status(404)}, uploadertest.Repeat(5, uploadertest.Reports("pinning"))...)},
		{name: "dropped before the first byte", upload: []uploadertest.Fault{uploadertest.Drop(0)}, resends: 1},
		{name: "dropped after a byte", upload: []uploadertest.Fault{uploadertest.Drop(1)}, resends: 1},
		{name: "dropped half-way", upload: []uploadertest.Fault{uploadertest.Drop(shardBytes / 2)}, resends: 1},
		{name: "dropped late", upload: []uploadertest.Fault{uploadertest.Drop(shardBytes - 20_000)}, resends: 1},
		{name: "read and not answered", upload: []uploadertest.Fault{uploadertest.Swallow}, resends: 1},
		{name: "stored and not answered", upload: []uploadertest.Fault{uploadertest.LoseReply}, resends: 1},
		{name: "reply breaks off", upload: []uploadertest.Fault{uploadertest.Break(20)}, resends: 1},
		{name: "reply is cut", upload: []uploadertest.Fault{uploadertest.Truncate(20)}, resends: 1},
		{name: "reply is empty", upload: []uploadertest.Fault{uploadertest.Truncate(0)}, resends: 1},
		{name: "reply is huge", always: uploadertest.Huge(32 << 20), want: errPermanent, resends: -1},
		{name: "captive portal", always: uploadertest.Page(200), want: errPermanent, resends: -1},
		{name: "web page with 503", upload: []uploadertest.Fault{uploadertest.Page(503)}, resends: 1},
		{name: "too large", always: uploadertest.Page(413), want: errPermanent, resends: -1},
		{name: "bad archive", always: uploadertest.Refuse(500, "Error", "missing root block"), want: errPermanent, resends: -1},
		{name: "invalid CAR", always: uploadertest.Refuse(400, "ERROR_INVALID_CAR", "Invalid CAR file received"), want: errPermanent, resends: -1},
		{name: "maintenance", always: uploadertest.Maintenance, want: errPermanent, resends: -1},
		{name: "disk full", always: uploadertest.Status(507), want: errPermanent, resends: -1},
		{name: "stall at first", upload: []uploadertest.Fault{uploadertest.Stall(0)}, resends: 1},
		{name: "stall half-way", upload: []uploadertest.Fault{uploadertest.Stall(shardBytes / 2)}, resends: 1},
		{name: "stall within the reply", upload: []uploadertest.Fault{uploadertest.StallReply(10)}, resends: 1},
		{name: "check fails", check: []uploadertest.Fault{uploadertest.Status(502), uploadertest.Break(10), uploadertest.Drop(0)}},
		{name: "redirect elsewhere", always: uploadertest.Redirect(307, "http://127.0.0.1:1/upload"), want: errPermanent, resends: -1},
		{name: "redirect loop", always: uploadertest.Redirect(308, "/upload"), want: uploader.ErrUnavailable, resends: -1},
		{name: "redirect here", upload: []uploadertest.Fault{uploadertest.Redirect(308, "/upload")}},
		{name: "redirect here for now", upload: []uploadertest.Fault{uploadertest.Redirect(307, "/upload")}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv := uploadertest.NewServer(t, uploadertest.Options{})
			path := randomFile(t, fileBytes, 1)
			root := rootOf(t, path)
			if test.first != nil {
				srv.Script(uploadertest.Upload, test.first(srv, root))
			}
			srv.Script(uploadertest.Upload, test.upload...)
			srv.Script(uploadertest.Check, test.check...)
			srv.Always(uploadertest.Upload, test.always)
			srv.Always(uploadertest.Check, test.checks)
			ledger := new(uploader.MemoryLedger)
			c := &clock{now: time.Unix(1e9, 0)}
			stall := func(o *nftstorage.Options) {
				if strings.HasPrefix(test.name, "stall") {
					o.Stall = 2 * time.Second // a busy machine must not look like a stall
				}
			}
			target := newTarget(t, srv, stall)
			opts := uploader.Options{Verify: test.verify, Ledger: ledger, Clock: c, NoResume: true, Transfers: 2}
			u := newUploader(t, target, opts)
			r, err := uploadOne(t.Context(), u, input(t, path))
			switch {
			case errors.Is(test.want, errPermanent) && err != nil:
				if again, _ := uploader.Retryable(err); again {
					t.Errorf("retryable: %v", err)
				}
				if n := len(c.slept()); n > 0 {
					t.Errorf("waited %d times for %v", n, err)
				}
			case !errors.Is(err, test.want) || (err == nil) != (test.want == nil):
				t.Errorf("error %v, want %v", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), srv.Token) {
				t.Errorf("the error shows the token: %v", err)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("the error has control characters: %q", err)
			}
			if r.Root != root {
				t.Errorf("root %s, want %s", r.Root, root)
			}
			receipts, lerr := ledger.Receipts(t.Context(), uploader.UploadKey{Target: srv.URL, Root: root, MaxShardBytes: shardBytes})
			if lerr != nil {
				t.Fatal(lerr)
			}
			for i, c := range receipts {
				if !slices.Contains(srv.Store.Parts(root), c.String()) {
					t.Errorf("the ledger has shard %d, the service does not", i)
				}
			}
			p := u.Progress()
			if test.want == nil {
				if !srv.Store.Complete(root) {
					t.Error("the service does not have it all")
				}
				if p.BytesSent != p.BytesToSend || p.ShardsDone != shards || len(receipts) != shards {
					t.Errorf("progress %+v, %d receipts", p, len(receipts))
				}
			} else if sum := sizeOf(t, path, receipts); p.BytesSent != sum {
				t.Errorf("%d bytes count as sent, the receipts are for %d", p.BytesSent, sum)
			}
			if test.resends >= 0 {
				if most := p.BytesToSend + int64(test.resends)*shardBytes; srv.Count(uploadertest.Upload).Bytes > most {
					t.Errorf("%d bytes arrived, want at most %d", srv.Count(uploadertest.Upload).Bytes, most)
				}
				if int(p.Retries) != test.resends && test.check == nil {
					t.Errorf("%d retries, want %d", p.Retries, test.resends)
				}
			}
			if test.want == nil {
				return
			}
			// Whatever the fault: once it is over, the same command completes.
			if err := srv.Disconnect(); err != nil {
				t.Fatal(err)
			}
			srv.Always(uploadertest.Upload, nil)
			srv.Always(uploadertest.Check, nil)
			opts.NoResume = false
			before := srv.Count(uploadertest.Upload).Bytes
			r, err = uploadOne(t.Context(), newUploader(t, newTarget(t, srv, stall), opts), input(t, path))
			if err != nil || !srv.Store.Complete(root) || r.Held < len(receipts) {
				t.Errorf("resumed with %d receipts: %+v, %v", len(receipts), r, err)
			}
			if got, most := srv.Count(uploadertest.Upload).Bytes-before, p.BytesToSend-sizeOf(t, path, receipts); got > most {
				t.Errorf("resuming sent %d bytes, %d were missing", got, most)
			}
		})
	}
}

// errPermanent stands for any error that is not worth a retry.
var errPermanent = errors.New("permanent")

// sizeOf adds up the sizes of shards.
func sizeOf(tb testing.TB, path string, receipts map[int]cid.Cid) int64 {
	tb.Helper()
	plan := planOf(tb, path)
	var n int64
	for i := range receipts {
		n += plan.Shards[i].Size
	}
	return n
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	tests := []struct {
		header   string
		date     time.Duration // from now on, as a date, if there is no header
		min, max time.Duration
	}{
		{"35", 0, 35 * time.Second, 36 * time.Second},
		{"", 0, 30 * time.Second, 31 * time.Second},
		{"-5", 0, 30 * time.Second, 31 * time.Second},
		{"soon", 0, 30 * time.Second, 31 * time.Second},
		{"31536000", 0, 5 * time.Minute, 5*time.Minute + time.Second},
		{"99999999999999999999", 0, 30 * time.Second, 31 * time.Second},
		{"", 4 * time.Minute, 3 * time.Minute, 241 * time.Second},
		{"", -time.Minute, 30 * time.Second, 31 * time.Second},
	}
	for _, test := range tests {
		t.Run(test.header+test.date.String(), func(t *testing.T) {
			t.Parallel()
			if test.date != 0 { // this test may have waited for others
				test.header = time.Now().Add(test.date).UTC().Format(http.TimeFormat)
			}
			srv := uploadertest.NewServer(t, uploadertest.Options{})
			srv.Script(uploadertest.Upload, uploadertest.RateLimited(test.header))
			c := &clock{now: time.Unix(1e9, 0)}
			u := newUploader(t, newTarget(t, srv), uploader.Options{Clock: c, Verify: uploader.VerifyReceipt})
			if _, err := uploadOne(t.Context(), u, input(t, randomFile(t, 100, 1))); err != nil {
				t.Fatal(err)
			}
			if got := c.slept(); len(got) != 1 || got[0] < test.min || got[0] > test.max {
				t.Errorf("waited %v, want one wait of %s to %s", got, test.min, test.max)
			}
		})
	}
}

// TestSourceChanged edits the source between the passes. The service accepts
// nothing wrong, and the error has the file and the offset.
func TestSourceChanged(t *testing.T) {
	t.Parallel()
	edit := func(change func(f *os.File) error) func(path string) error {
		return func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			return errors.Join(change(f), f.Close())
		}
	}
	tests := []struct {
		name   string
		change func(path string) error
		want   error
		offset int64
	}{
		{"touched", func(path string) error { return os.Chtimes(path, time.Time{}, time.Unix(1e9, 0)) }, nil, 0},
		{"truncated", edit(func(f *os.File) error { return f.Truncate(fileBytes / 2) }), uploader.ErrSourceChanged, fileBytes / 2},
		{"emptied", edit(func(f *os.File) error { return f.Truncate(0) }), uploader.ErrSourceChanged, 0},
		{"grown", edit(func(f *os.File) error { _, err := f.WriteAt([]byte("x"), fileBytes); return err }), uploader.ErrSourceChanged, fileBytes},
		{"edited", edit(func(f *os.File) error { _, err := f.WriteAt([]byte("edit"), 20*leafBytes+7); return err }), uploader.ErrSourceChanged, 20 * leafBytes},
		{"replaced", func(path string) error {
			if err := os.WriteFile(path+".new", randomBytes(fileBytes, 99), 0o600); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}, uploader.ErrSourceChanged, 0},
		{"replaced by the same", func(path string) error {
			if err := os.WriteFile(path+".new", randomBytes(fileBytes, 1), 0o600); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		}, nil, 0},
		{"removed", os.Remove, uploader.ErrSourceChanged, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv := uploadertest.NewServer(t, uploadertest.Options{})
			path := randomFile(t, fileBytes, 1)
			root := rootOf(t, path)
			obs := observerFunc(func(e uploader.Event) {
				if _, ok := e.(uploader.Described); ok {
					if err := test.change(path); err != nil {
						t.Error(err)
					}
				}
			})
			u := newUploader(t, newTarget(t, srv), uploader.Options{Observer: obs, Transfers: 1})
			_, err := uploadOne(t.Context(), u, input(t, path))
			if !errors.Is(err, test.want) {
				t.Fatalf("error %v, want %v", err, test.want)
			}
			if test.want == nil {
				return
			}
			var changed *car.SourceChangedError
			if !errors.As(err, &changed) || changed.Name != path || changed.Offset != test.offset {
				t.Errorf("error %+v, want one for %s at offset %d", err, path, test.offset)
			}
			var source *uploader.SourceError
			if !errors.As(err, &source) {
				t.Errorf("error %v is not one of the source", err)
			}
			if srv.Store.Complete(root) {
				t.Error("the service has a DAG whose source was gone")
			}
			if n := u.Progress().Retries; n != 0 {
				t.Errorf("%d retries", n)
			}
		})
	}
}

type observerFunc func(uploader.Event)

func (f observerFunc) Observe(e uploader.Event) { f(e) }

func TestObserverPanics(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	u := newUploader(t, newTarget(t, srv), uploader.Options{Observer: observerFunc(func(uploader.Event) { panic("observer") })})
	path := randomFile(t, fileBytes, 1)
	if _, err := uploadOne(t.Context(), u, input(t, path)); err != nil || !srv.Store.Complete(rootOf(t, path)) {
		t.Errorf("error %v", err)
	}
}

func TestCallerPanics(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	u := newUploader(t, newTarget(t, srv), uploader.Options{})
	path := randomFile(t, fileBytes, 1)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	for _, err := range u.Upload(t.Context(), slices.Values([]uploader.Input{input(t, path), input(t, path)})) {
		if err != nil {
			t.Error(err)
		}
		panic("caller")
	}
}

func TestSameTwice(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	for _, ledger := range []uploader.Ledger{new(uploader.MemoryLedger), nil} {
		for i := range 2 {
			before := srv.Count(uploadertest.Upload)
			u := newUploader(t, newTarget(t, srv), uploader.Options{Ledger: ledger})
			r, err := uploadOne(t.Context(), u, input(t, path))
			if err != nil {
				t.Fatal(err)
			}
			sent := srv.Count(uploadertest.Upload).Requests - before.Requests
			if first := ledger != nil && i == 0; first && sent != r.Shards || !first && (sent != 0 || r.Held != r.Shards || r.Sent != 0) {
				t.Errorf("ledger %v, time %d: %d requests, %+v", ledger, i, sent, r)
			}
			if p := u.Progress(); p.BytesSent != p.BytesToSend || p.ShardsDone != p.Shards {
				t.Errorf("progress %+v", p)
			}
		}
	}
}

// TestHeldElsewhere continues, without a ledger, what another machine began.
func TestHeldElsewhere(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	srv.Script(uploadertest.Upload, uploadertest.Pass, uploadertest.Pass, uploadertest.Pass, uploadertest.Maintenance)
	u := newUploader(t, newTarget(t, srv), uploader.Options{Transfers: 1})
	if _, err := uploadOne(t.Context(), u, input(t, path)); err == nil {
		t.Fatal("the fault did not show")
	}
	ledger := new(uploader.MemoryLedger)
	u = newUploader(t, newTarget(t, srv), uploader.Options{Ledger: ledger})
	r, err := uploadOne(t.Context(), u, input(t, path))
	if err != nil || r.Held != 3 || srv.Count(uploadertest.Upload).Requests != r.Shards+1 {
		t.Errorf("%+v, %v; %+v", r, err, srv.Count(uploadertest.Upload))
	}
	receipts, err := ledger.Receipts(t.Context(), uploader.UploadKey{Target: srv.URL, Root: r.Root, MaxShardBytes: shardBytes})
	if err != nil || len(receipts) != r.Shards {
		t.Errorf("%d receipts, %v", len(receipts), err)
	}
}

// TestServiceForgot: the service lost shards for which it gave receipts.
func TestServiceForgot(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	ledger := new(uploader.MemoryLedger)
	opts := uploader.Options{Ledger: ledger}
	if _, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), opts), input(t, path)); err != nil {
		t.Fatal(err)
	}
	srv.Store.Reset()
	r, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), opts), input(t, path))
	if err != nil || r.Held != 0 || !srv.Store.Complete(r.Root) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestConcurrentUploadsOfOneFile(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	u := newUploader(t, newTarget(t, srv), uploader.Options{})
	ins := make([]uploader.Input, 6)
	for i := range ins {
		ins[i] = input(t, path)
	}
	n := 0
	for r, err := range u.Upload(t.Context(), slices.Values(ins)) {
		if err != nil || r.Root != rootOf(t, path) {
			t.Errorf("%+v, %v", r, err)
		}
		n++
	}
	if n != len(ins) || !srv.Store.Complete(rootOf(t, path)) {
		t.Errorf("%d results", n)
	}
	if p := u.Progress(); p.BytesSent != p.BytesToSend || p.ShardsDone != p.Shards || p.InputsDone != 6 {
		t.Errorf("progress %+v", p)
	}
}

// TestOneOfManyFails: the others go on, and each has its result.
func TestOneOfManyFails(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	u := newUploader(t, newTarget(t, srv), uploader.Options{MaxUploadBytes: fileBytes})
	failed := map[string]error{}
	gone := randomFile(t, 5000, 3)
	ins := []uploader.Input{
		input(t, randomFile(t, fileBytes, 1)), input(t, gone), input(t, randomFile(t, fileBytes+1, 4)), input(t, randomFile(t, fileBytes, 5)),
	}
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	for r, err := range u.Upload(t.Context(), slices.Values(ins)) {
		failed[r.Name] = err
	}
	for i, want := range []error{nil, uploader.ErrSourceChanged, uploader.ErrTooLarge, nil} {
		if err, ok := failed[ins[i].Name()]; !ok || !errors.Is(err, want) || (want == nil) != (err == nil) {
			t.Errorf("input %d: %v, want %v", i, err, want)
		}
	}
}

// TestBitFlipBeforeSending changes a byte in memory between planning and
// sending.
func TestBitFlipBeforeSending(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	plan := planOf(t, randomFile(t, fileBytes, 1))
	plan.Blocks = flipped{plan.Blocks}
	_, err := newUploader(t, newTarget(t, srv), uploader.Options{}).Send(t.Context(), "x", plan)
	if !errors.Is(err, car.ErrCorrupt) {
		t.Errorf("error %v", err)
	}
	if n := srv.Count(uploadertest.Upload).Bytes; n != 0 {
		t.Errorf("%d bytes were sent", n)
	}
}

// flipped is a list whose first block has a different byte.
type flipped struct{ car.List }

func (f flipped) At(i int) car.Block {
	b := f.List.At(i)
	if i == 0 {
		b.Head = slices.Clone(b.Head)
		b.Head[5] ^= 1
	}
	return b
}

// brokenTarget reads a shard and returns any receipt.
type brokenTarget struct {
	read int64
	err  error
}

func (brokenTarget) String() string { return "broken" }

func (b brokenTarget) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	if b.read == 0 {
		return uploader.Receipt{Root: s.Root}, b.err
	}
	body := s.Open(ctx)
	_, err := io.CopyN(io.Discard, body, b.read)
	return uploader.Receipt{Root: s.Root}, errors.Join(err, body.Close(), b.err)
}

func TestReceiptWithoutReading(t *testing.T) {
	t.Parallel()
	for _, read := range []int64{0, 10} {
		u := newUploader(t, brokenTarget{read: read}, uploader.Options{})
		_, err := u.Send(t.Context(), "x", planOf(t, randomFile(t, fileBytes, 1)))
		if !errors.Is(err, uploader.ErrRootMismatch) {
			t.Errorf("read %d: error %v", read, err)
		}
		if p := u.Progress(); p.BytesSent != 0 {
			t.Errorf("read %d: progress %+v", read, p)
		}
	}
}

func TestVerifyNeedsATargetThatGivesBack(t *testing.T) {
	t.Parallel()
	if _, err := uploader.New(brokenTarget{}, uploader.Options{Verify: uploader.VerifyFull}); err == nil {
		t.Error("no error")
	}
}
