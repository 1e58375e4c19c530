package uploader_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/sqliteledger"
	"github.com/carload/carload/uploader/uploadertest"
)

// oldFile makes a file that was not modified recently.
func oldFile(tb testing.TB) string {
	tb.Helper()
	path, err := exec.LookPath("go")
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		tb.Skip(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() < 8<<20 {
		tb.Skip("the go command is smaller than what is kept")
	}
	return path
}

// TestPlanIsKept interrupts an upload. The next process does not hash again.
func TestPlanIsKept(t *testing.T) {
	t.Parallel()
	path := oldFile(t)
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	ledgerPath := filepath.Join(t.TempDir(), "ledger.db")
	var events []uploader.Described
	obs := observerFunc(func(e uploader.Event) {
		if d, ok := e.(uploader.Described); ok {
			events = append(events, d)
		}
	})
	run := func(change func(*uploader.Options), p chunker.Profile) (uploader.Result, error) {
		l, err := sqliteledger.Open(t.Context(), ledgerPath, sqliteledger.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		opts := uploader.Options{Ledger: l, Observer: obs, Transfers: 1, MaxShardBytes: 4_000_000}
		change(&opts)
		in, err := uploader.File(path, chunker.Options{Profile: p})
		if err != nil {
			t.Fatal(err)
		}
		return uploadOne(t.Context(), newUploader(t, newTarget(t, srv), opts), in)
	}
	same := func(*uploader.Options) {}
	srv.Script(uploadertest.Upload, uploadertest.Pass, uploadertest.Maintenance)
	if _, err := run(same, chunker.UnixFSv1()); err == nil {
		t.Fatal("the fault did not show")
	}
	r, err := run(same, chunker.UnixFSv1())
	if err != nil || r.Held != 1 || r.Level != uploader.VerifyPinned || !srv.Store.Complete(r.Root) {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := run(func(o *uploader.Options) { o.Rehash = true }, chunker.UnixFSv1()); err != nil {
		t.Fatal(err)
	}
	if _, err := run(func(o *uploader.Options) { o.MaxShardBytes = 5_000_000 }, chunker.UnixFSv1()); err != nil {
		t.Fatal(err)
	}
	if _, err := run(same, chunker.UnixFSv0()); err != nil {
		t.Fatal(err)
	}
	for i, cached := range []bool{false, true, false, true, false} {
		if events[i].Cached != cached || i < 4 && events[i].Root != r.Root {
			t.Errorf("upload %d: %+v, want cached %t", i, events[i], cached)
		}
	}
}

// keyed is an input whose key does not depend on the file.
type keyed struct {
	uploader.Input
	src *chunker.FileSource
}

func (keyed) CacheKey() string { return "always the same" }

func (k keyed) Restore(description []byte) (uploader.DAG, error) {
	return chunker.RestoreFile(k.src, description)
}

// TestStaleDescription edits a file whose key stays the same. The upload
// notices, and the next one starts with the file as it is.
func TestStaleDescription(t *testing.T) {
	t.Parallel()
	const size = 9 << 20
	path := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(path, randomBytes(size, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	ledger := new(uploader.MemoryLedger)
	run := func() (uploader.Result, error) {
		in, err := uploader.File(path, chunker.Options{})
		if err != nil {
			t.Fatal(err)
		}
		src, err := chunker.OpenFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{Ledger: ledger, MaxShardBytes: 2_000_000}), keyed{in, src})
	}
	srv.Script(uploadertest.Upload, uploadertest.Maintenance)
	if _, err := run(); err == nil {
		t.Fatal("the fault did not show")
	}
	if p, err := ledger.Description(t.Context(), "always the same"); err != nil || len(p) == 0 {
		t.Fatalf("description of %d bytes, %v", len(p), err)
	}
	edited := randomBytes(size, 1)
	copy(edited[5<<20:], "edited")
	if err := os.WriteFile(path, edited, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := run(); !errors.Is(err, uploader.ErrSourceChanged) {
		t.Fatalf("error %v", err)
	}
	r, err := run()
	if err != nil || !srv.Store.Complete(r.Root) {
		t.Fatalf("%+v, %v", r, err)
	}
	d, err := chunker.Build(t.Context(), memory(edited), chunker.Options{})
	if err != nil || d.Root() != r.Root {
		t.Errorf("root %s, want that of the edited file, %v", r.Root, err)
	}
	// An unusable description does no harm.
	if err := ledger.SaveDescription(t.Context(), "always the same", []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	if r, err := run(); err != nil || r.Held != r.Shards {
		t.Errorf("%+v, %v", r, err)
	}
}

// memory is a source in memory.
type memory []byte

func (m memory) Name() string                  { return "memory" }
func (m memory) Size() int64                   { return int64(len(m)) }
func (m memory) Open() (car.SourceFile, error) { return readerAt{bytes.NewReader(m)}, nil }

type readerAt struct{ *bytes.Reader }

func (readerAt) Close() error { return nil }
