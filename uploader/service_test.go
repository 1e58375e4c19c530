package uploader_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/boltledger"
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
