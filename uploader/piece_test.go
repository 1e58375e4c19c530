package uploader_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/carload/carload/car"
	"github.com/carload/carload/car/piece"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/dirtarget"
	"github.com/carload/carload/uploader/uploadertest"
)

// piecesOf returns the pieces of the files in a directory, ordered by name.
func piecesOf(t *testing.T, dir string) []piece.Piece {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var pool piece.Pool
	var pieces []piece.Piece
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		p, err := pool.Read(f)
		if err != nil || f.Close() != nil {
			t.Fatal(err)
		}
		pieces = append(pieces, p)
	}
	return pieces
}

// TestPieceCIDs sends shards with their pieces: to a directory, to a service
// that sometimes fails, and again to where they are already.
func TestPieceCIDs(t *testing.T) {
	t.Parallel()
	path := randomFile(t, fileBytes, 70)
	dir := t.TempDir()
	target, err := dirtarget.New(dir, dirtarget.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	srv.Script(uploadertest.Upload, uploadertest.Status(503), uploadertest.Drop(shardBytes/2))
	var want []piece.Piece
	for _, target := range []uploader.Target{target, newTarget(t, srv)} {
		name := target.String()
		var mu sync.Mutex
		told := map[int]piece.Piece{}
		ledger := new(uploader.MemoryLedger)
		for run := range 3 {
			clear(told)
			if run == 2 {
				ledger = new(uploader.MemoryLedger) // as on another machine, or with a lost ledger
			}
			u := newUploader(t, target, uploader.Options{PieceCIDs: true, Ledger: ledger, Observer: observerFunc(func(e uploader.Event) {
				if s, ok := e.(uploader.ShardSent); ok && s.Piece != nil {
					mu.Lock()
					defer mu.Unlock()
					told[s.Index] = *s.Piece
				}
			})})
			r, err := uploadOne(t.Context(), u, input(t, path))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if held := r.Held; run == 1 && held != r.Shards || run == 0 && held != 0 {
				t.Errorf("%s, run %d: %d of %d held", name, run, held, r.Shards)
			}
			var got []piece.Piece
			for i, p := range r.Pieces {
				got = append(got, p.Piece)
				if told[i] != p.Piece || !p.CID.Defined() {
					t.Errorf("%s, run %d: shard %d: event with %v, result with %v", name, run, i, told[i], p)
				}
			}
			if want == nil {
				want = piecesOf(t, dir)
			}
			if !slices.Equal(got, want) || len(got) < 5 {
				t.Errorf("%s, run %d: pieces %v, want %v", name, run, got, want)
			}
		}
	}
}

// readInput counts the bytes that are read from a pattern.
type readInput struct {
	pattern
	read *atomic.Int64
}

func (c readInput) UploadName() string            { return "counted" }
func (c readInput) Open() (car.SourceFile, error) { return c, nil }

func (c readInput) ReadAt(p []byte, off int64) (int, error) {
	c.read.Add(int64(len(p)))
	return c.pattern.ReadAt(p, off)
}

func (c readInput) Describe(ctx context.Context, read *atomic.Int64) (uploader.DAG, error) {
	opts := chunking()
	opts.Read = read
	return chunker.Build(ctx, c, opts)
}

// TestPiecesAreKept: the ledger keeps pieces, so shards that are held are not
// read again for them.
func TestPiecesAreKept(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	ledger := new(uploader.MemoryLedger)
	var want []uploader.ShardPiece
	for run, ledger := range []uploader.Ledger{ledger, ledger, new(uploader.MemoryLedger)} {
		in := readInput{pattern{5, fileBytes}, new(atomic.Int64)}
		u := newUploader(t, newTarget(t, srv), uploader.Options{PieceCIDs: true, Ledger: ledger})
		r, err := uploadOne(t.Context(), u, in)
		if err != nil || len(r.Pieces) != r.Shards || r.Shards < 2 {
			t.Fatalf("run %d: %+v, %v", run, r, err)
		}
		if want == nil {
			want = r.Pieces
		}
		if !slices.Equal(r.Pieces, want) {
			t.Errorf("run %d: pieces %v, want %v", run, r.Pieces, want)
		}
		if read := in.read.Load(); (read < 2*fileBytes) != (run == 1) {
			t.Errorf("run %d: %d bytes read of %d", run, read, fileBytes)
		}
	}
}
