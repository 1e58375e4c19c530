package uploader_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/sqliteledger"
	"github.com/carload/carload/uploader/uploadertest"
)

// newService returns the self-hosted service behind a script of faults.
func newService(t *testing.T, dir string) *uploadertest.Server {
	t.Helper()
	srv, _ := newServiceAndStore(t, dir)
	return srv
}

func newServiceAndStore(t *testing.T, dir string) (*uploadertest.Server, *store.Store) {
	t.Helper()
	st, err := store.Open(t.Context(), store.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	svc, err := service.New(t.Context(), st, service.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = svc.Close() })
	_, token, err := st.CreateKey(t.Context(), store.KeyOptions{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return uploadertest.NewServer(t, uploadertest.Options{Handler: svc.Handler(), Token: token}), st
}

// TestSelfHosted uploads to the real service through faults, and gets
// everything back.
func TestSelfHosted(t *testing.T) {
	t.Parallel()
	srv := newService(t, t.TempDir())
	path := randomFile(t, fileBytes, 1)
	ledger, err := sqliteledger.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"), sqliteledger.Options{})
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

// TestDamagedAtService: a disk of the service changes some bytes. Verification
// within an upload finds the block, repairs it by sending its shard, and
// succeeds.
func TestDamagedAtService(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	srv := newService(t, store)
	path := randomFile(t, fileBytes, 1)
	u := newUploader(t, newTarget(t, srv), uploader.Options{Verify: uploader.VerifyFull})
	if _, err := uploadOne(t.Context(), u, input(t, path)); err != nil {
		t.Fatal(err)
	}
	damageArchive(t, store)
	if r, err := uploadOne(t.Context(), u, input(t, path)); err != nil || r.Held != r.Shards-1 || r.Sent == 0 {
		t.Errorf("mending: %+v, %v", r, err)
	}
	if r, err := uploadOne(t.Context(), u, input(t, path)); err != nil || r.Held != r.Shards || r.Sent != 0 {
		t.Errorf("afterwards: %+v, %v", r, err)
	}
}

// damageArchive changes bytes in the middle of an archive that the service
// stores.
func damageArchive(t *testing.T, store string) {
	t.Helper()
	done := false
	err := filepath.WalkDir(filepath.Join(store, "shards"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || done || filepath.Ext(path) != ".car" {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		done = true
		_, err = f.WriteAt([]byte("damage"), shardBytes/2)
		return errors.Join(err, f.Close())
	})
	if err != nil || !done {
		t.Fatalf("no archive to damage, %v", err)
	}
}

// pattern is a source of any size that takes no memory: each 64 KiB are
// generated from their number.
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
