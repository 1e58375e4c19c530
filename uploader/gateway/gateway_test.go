package gateway_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"go.uber.org/goleak"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/unpack"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/gateway"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const fileBytes = 3_000_000

// held is a service that holds a file.
type held struct {
	store *uploadertest.Store
	root  cid.Cid
	data  []byte
}

func hold(t *testing.T) held {
	t.Helper()
	data := make([]byte, fileBytes)
	_, _ = rand.NewChaCha8([32]byte{7}).Read(data)
	return holdBytes(t, uploadertest.NewServer(t, uploadertest.Options{}), data, chunker.UnixFSv1())
}

func holdBytes(t *testing.T, srv *uploadertest.Server, data []byte, profile chunker.Profile) held {
	t.Helper()
	h := held{store: srv.Store, data: data}
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, h.data, 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := uploader.File(path, chunker.Options{Profile: profile})
	if err != nil {
		t.Fatal(err)
	}
	h.root = upload(t, srv, in)
	return h
}

func upload(t *testing.T, srv *uploadertest.Server, in uploader.Input) (root cid.Cid) {
	t.Helper()
	u, err := uploader.New(source(t, srv), uploader.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range u.Upload(t.Context(), slices.Values([]uploader.Input{in})) {
		if err != nil {
			t.Fatal(err)
		}
		root = r.Root
	}
	return root
}

func source(t *testing.T, srv *uploadertest.Server) *nftstorage.Target {
	t.Helper()
	token, err := nftstorage.NewToken(srv.Token)
	if err != nil {
		t.Fatal(err)
	}
	target, err := nftstorage.New(nftstorage.Options{Endpoint: srv.URL, Token: token, Stall: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	return target
}

// read reads the file from a pool.
func (h held) read(ctx context.Context, p *gateway.Pool) ([]byte, error) {
	r := p.NewReader(ctx)
	defer r.Close()
	var w bytes.Buffer
	_, err := unpack.WriteFileFrom(ctx, r, h.root, &w, unpack.Options{})
	return w.Bytes(), err
}

func endless(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	piece := make([]byte, 1<<20)
	for range 256 {
		if _, err := w.Write(piece); err != nil {
			return // the client has gone
		}
	}
}

// flipped flips a bit in everything it returns.
func flipped(w http.ResponseWriter, r *http.Request, next http.Handler) {
	rec := &recorder{header: w.Header()}
	next.ServeHTTP(rec, r)
	p := rec.body.Bytes()
	if len(p) > 0 {
		p[len(p)-1] ^= 1
	}
	_, _ = w.Write(p)
}

// recorder is a reply in memory.
type recorder struct {
	header http.Header
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
func (r *recorder) WriteHeader(int)             {}

// TestLyingGateway: whatever one of two gateways does wrong, the other one is
// tried, and nothing wrong is handed out.
func TestLyingGateway(t *testing.T) {
	t.Parallel()
	h := hold(t)
	other := func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { _, _ = w.Write([]byte("another block")) }
	for name, fault := range map[string]uploadertest.Fault{
		"wrong bytes":   flipped,
		"endless":       endless,
		"another block": other,
		"slow":          uploadertest.StallReply(1000),
		"cut":           uploadertest.Break(1000),
		"short":         uploadertest.Truncate(1000),
		"down":          uploadertest.Status(503),
		"empty-handed":  uploadertest.Status(404),
		"a web page":    uploadertest.Page(200),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := uploadertest.NewServer(t, uploadertest.Options{Handler: h.store})
			bad.Always(uploadertest.Block, fault)
			bad.Always(uploadertest.Archive, fault)
			good := uploadertest.NewServer(t, uploadertest.Options{Handler: h.store})
			p := gateway.NewPool(gateway.Options{}, source(t, bad), source(t, good))
			got, err := h.read(t.Context(), p)
			if err != nil || !bytes.Equal(got, h.data) {
				t.Errorf("%d bytes, error %v", len(got), err)
			}
			if bad.Count(uploadertest.Block).Faults+bad.Count(uploadertest.Archive).Faults == 0 {
				t.Error("the fault did not happen")
			}
		})
	}
}

// TestOnlyLiars: without an honest gateway, nothing wrong is handed out, and
// the error says why.
func TestOnlyLiars(t *testing.T) {
	t.Parallel()
	h := hold(t)
	for name, test := range map[string]struct {
		fault uploadertest.Fault
		want  error
	}{
		"wrong bytes": {flipped, car.ErrCorrupt},
		"endless":     {endless, car.ErrCorrupt},
		"nothing":     {uploadertest.Status(404), uploader.ErrNotFound},
		"down":        {uploadertest.Status(503), uploader.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bad := uploadertest.NewServer(t, uploadertest.Options{Handler: h.store})
			bad.Always(uploadertest.Block, test.fault)
			bad.Always(uploadertest.Archive, test.fault)
			p := gateway.NewPool(gateway.Options{Retries: -1}, source(t, bad))
			if got, err := h.read(t.Context(), p); len(got) > 0 || !errors.Is(err, test.want) {
				t.Errorf("%d bytes, error %v", len(got), err)
			}
		})
	}
}
