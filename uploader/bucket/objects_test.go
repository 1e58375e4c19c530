package bucket_test

import (
	"bytes"
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
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"

	ours "github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/bucket"
	"github.com/carload/carload/uploader/targettest"
	"github.com/carload/carload/uploader/uploadertest"
)

// place puts an object into the bucket through the server's API.
func place(t *testing.T, target *bucket.Target, key string, data []byte) {
	t.Helper()
	if err := target.PutObject(t.Context(), key, data); err != nil {
		t.Fatal(err)
	}
}

func someBytes(seed byte, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// getKind recognises reads of objects.
func getKind(r *http.Request) uploadertest.Op {
	if r.Method == http.MethodGet && r.Header.Get("Range") != "" {
		return uploadertest.Block
	}
	return uploadertest.Other
}

// TestObjects reads objects of a real server as sources: in order and at
// random, by several goroutines, and through faults. Each byte is requested
// once.
func TestObjects(t *testing.T) {
	t.Parallel()
	s := targettest.StartS3(t)
	front := uploadertest.NewServer(t, uploadertest.Options{Handler: uploadertest.Forward(t, s.URL), Kind: getKind})
	target := open(t, s, front.URL, s.Secret)
	data := someBytes(1, 13_000_001)
	place(t, target, "films/deep/a b+é.mkv", data)
	o, err := target.Object(t.Context(), "films/deep/a b+é.mkv")
	if err != nil || o.Size() != int64(len(data)) || o.Name() != "s3://shards/films/deep/a b+é.mkv" || o.Version() == "" {
		t.Fatalf("%+v, %v", o, err)
	}
	whole := func(what string, requests int) {
		t.Helper()
		before := front.Count(uploadertest.Block).Requests
		f, err := o.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		got, err := io.ReadAll(io.NewSectionReader(f, 0, o.Size()))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: %d bytes, %v", what, len(got), err)
		}
		if n := front.Count(uploadertest.Block).Requests - before; n != requests {
			t.Errorf("%s: it took %d requests, want %d", what, n, requests)
		}
	}
	whole("in order", 7)
	front.Script(uploadertest.Block, uploadertest.Status(503), uploadertest.Break(1000), uploadertest.Pass, uploadertest.Truncate(70_000), uploadertest.Drop(0))
	whole("with faults", 11)

	f, err := o.Open()
	if err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	for k := range 6 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(k)))
			p := make([]byte, 3_000_000)
			for range 30 {
				from := rng.IntN(len(data))
				q := p[:1+rng.IntN(len(p))]
				n, err := f.ReadAt(q, int64(from))
				end := min(from+len(q), len(data))
				if n != end-from || !bytes.Equal(q[:n], data[from:end]) || (n < len(q)) != errors.Is(err, io.EOF) {
					t.Errorf("%d bytes from %d on: %d, %v", len(q), from, n, err)
				}
			}
		})
	}
	readers.Wait()
	if err := f.Close(); err != nil {
		t.Error(err)
	}

	// Described and sent, it has the same root as the file on disk.
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	src, err := chunker.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []chunker.Profile{chunker.UnixFSv1(), chunker.UnixFSv0()} {
		want, err := chunker.Build(t.Context(), src, chunker.Options{Profile: p})
		if err != nil {
			t.Fatal(err)
		}
		before := front.Count(uploadertest.Block).Requests
		got, err := chunker.Build(t.Context(), o, chunker.Options{Profile: p, Workers: 8})
		if err != nil || !got.Root().Equals(want.Root()) {
			t.Errorf("%s: %v", p.Name, err)
		}
		if n := front.Count(uploadertest.Block).Requests - before; n != 7 {
			t.Errorf("%s: it took %d requests to describe it", p.Name, n)
		}
	}
}

// TestObjectChanges: if an object was replaced, its bytes are never mixed with
// those of the old one.
func TestObjectChanges(t *testing.T) {
	t.Parallel()
	s := targettest.StartS3(t)
	target := open(t, s, s.URL, s.Secret)
	data := someBytes(2, 5_000_000)
	for what, change := range map[string]func(key string){
		"the same size": func(key string) { place(t, target, key, someBytes(3, len(data))) },
		"shorter":       func(key string) { place(t, target, key, data[:100]) },
		"gone": func(key string) {
			if err := target.RemoveObject(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		},
	} {
		key := strings.ReplaceAll(what, " ", "-")
		place(t, target, key, data)
		o, err := target.Object(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		in := uploader.Source(o, chunker.Options{})
		dag, err := in.Describe(t.Context(), new(atomic.Int64))
		if err != nil {
			t.Fatal(err)
		}
		change(key)
		var packer ours.Packer
		stream := packer.Open(t.Context(), ours.NewArchive(dag.Root(), dag))
		_, err = stream.WriteTo(io.Discard)
		var changed *ours.SourceChangedError
		if !errors.As(err, &changed) || changed.Name != "s3://shards/"+key {
			t.Errorf("%s: %v", what, err)
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
		if _, err := in.Describe(t.Context(), new(atomic.Int64)); !errors.Is(err, ours.ErrSourceChanged) {
			t.Errorf("%s, described again: %v", what, err)
		}
	}
	if _, err := target.Object(t.Context(), "nothing"); !errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
	// A storage that ignores ranges is detected.
	deaf := uploadertest.NewServer(t, uploadertest.Options{Handler: uploadertest.Forward(t, s.URL), Kind: getKind})
	deaf.Always(uploadertest.Block, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { _, _ = w.Write(data) })
	place(t, target, "all", data)
	o, err := open(t, s, deaf.URL, s.Secret).Object(t.Context(), "all")
	if err != nil {
		t.Fatal(err)
	}
	f, err := o.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(make([]byte, 10), 4_500_000); !errors.As(err, new(*uploader.NetworkError)) {
		t.Errorf("all for a part: %v", err)
	}
}

// TestObjectsListed lists more objects than fit on a page, and ends reads with
// their context.
func TestObjectsListed(t *testing.T) {
	t.Parallel()
	s := targettest.StartS3(t)
	target := open(t, s, s.URL, s.Secret)
	const n = 1005 // a page has 1,000
	place(t, target, "other/file", []byte("other"))
	var g errgroup.Group
	g.SetLimit(16)
	for i := range n {
		g.Go(func() error {
			return target.PutObject(t.Context(), "many/"+string(rune('a'+i%26))+"/"+string(rune('0'+i/26)), []byte{byte(i)})
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var keys []string
	for o, err := range target.Objects(t.Context(), "many/") {
		if err != nil {
			t.Fatal(err)
		}
		path, isFile := o.Below("many/")
		if isFile {
			keys = append(keys, path)
		}
		if o.Size() != 1 && isFile {
			t.Errorf("%s has %d bytes", o.Key(), o.Size())
		}
	}
	if len(keys) != n || !slices.IsSorted(keys) {
		t.Errorf("%d objects", len(keys))
	}
	ctx, cancel := context.WithCancel(t.Context())
	o, err := target.Object(ctx, "other/file")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	f, err := o.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(make([]byte, 5), 0); !errors.Is(err, context.Canceled) {
		t.Errorf("read after the end: %v", err)
	}
}
