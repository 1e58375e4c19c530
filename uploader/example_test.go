package uploader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/dirtarget"
	"github.com/carload/carload/uploader/gateway"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/sqliteledger"
	"github.com/carload/carload/uploader/uploadertest"
)

// exampleBytes returns the same bytes in each run.
func exampleBytes(size int) []byte {
	p := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{'c'}).Read(p)
	return p
}

// exampleFile makes a file of this size in a directory of its own.
func exampleFile(size int) (path string, remove func()) {
	dir, err := os.MkdirTemp("", "carload-example-")
	if err != nil {
		log.Fatal(err)
	}
	path = filepath.Join(dir, "movie.mkv")
	if err := os.WriteFile(path, exampleBytes(size), 0o600); err != nil {
		log.Fatal(err)
	}
	return path, func() { _ = os.RemoveAll(dir) }
}

// exampleService returns a service to upload to. Yours has a URL and a token.
func exampleService() (target *nftstorage.Target, remove func()) {
	server := httptest.NewServer(uploadertest.NewStore("secret"))
	token, err := nftstorage.NewToken("secret")
	if err != nil {
		log.Fatal(err)
	}
	target, err = nftstorage.New(nftstorage.Options{Endpoint: server.URL, Token: token})
	if err != nil {
		log.Fatal(err)
	}
	return target, func() { _ = target.Close(); server.Close() }
}

// Compute the root CID of a file without sending or writing anything.
func ExampleDescriber() {
	path, remove := exampleFile(4 << 20)
	defer remove()

	d, err := uploader.NewDescriber(uploader.Options{})
	if err != nil {
		log.Fatal(err)
	}
	file, err := uploader.File(path, chunker.Options{})
	if err != nil {
		log.Fatal(err)
	}
	result, err := d.Describe(context.Background(), file, func(uploader.DAG) error { return nil })
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Root, result.Bytes)
	// Output: bafybeifugmkrdvmblociaualuf4to37rzthhtfnov2ftzzxtjhtpp6u3kq 4194304
}

// Write the shards of a file into a directory.
func ExampleUploader_Upload_directory() {
	path, remove := exampleFile(4 << 20)
	defer remove()

	target, err := dirtarget.New(filepath.Join(filepath.Dir(path), "shards"), dirtarget.Options{})
	if err != nil {
		log.Fatal(err)
	}
	up, err := uploader.New(target, uploader.Options{MaxShardBytes: 2_000_000})
	if err != nil {
		log.Fatal(err)
	}
	file, err := uploader.File(path, chunker.Options{})
	if err != nil {
		log.Fatal(err)
	}
	for result, err := range up.Upload(context.Background(), slices.Values([]uploader.Input{file})) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(dirtarget.FileName(result.Root, 0, result.Shards))
	}
	// Output: bafybeifugmkrdvmblociaualuf4to37rzthhtfnov2ftzzxtjhtpp6u3kq-00001-of-00004.car
}

// printer is an [uploader.Observer] that prints each shard that was received.
type printer struct {
	mu    sync.Mutex // Observe is called by several goroutines
	bytes int64
}

func (p *printer) Observe(e uploader.Event) {
	sent, ok := e.(uploader.ShardSent)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bytes += sent.Bytes
	fmt.Printf("%d bytes of %d shards\n", p.bytes, sent.Count)
}

// Show the progress of an upload: events as they happen, and counters that can
// be polled at any time.
func ExampleUploader_Progress() {
	path, remove := exampleFile(4 << 20)
	defer remove()
	target, closeTarget := exampleService()
	defer closeTarget()

	up, err := uploader.New(target, uploader.Options{MaxShardBytes: 2_000_000, Observer: &printer{}})
	if err != nil {
		log.Fatal(err)
	}
	file, err := uploader.File(path, chunker.Options{})
	if err != nil {
		log.Fatal(err)
	}
	for result, err := range up.Upload(context.Background(), slices.Values([]uploader.Input{file})) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(result.Root)
	}
	p := up.Progress()
	fmt.Println(p.BytesHashed == p.BytesToHash, p.ShardsDone == p.Shards)
	// Output:
	// 1048921 bytes of 4 shards
	// 2097842 bytes of 4 shards
	// 3146763 bytes of 4 shards
	// 4195684 bytes of 4 shards
	// bafybeifugmkrdvmblociaualuf4to37rzthhtfnov2ftzzxtjhtpp6u3kq
	// true true
}

// memoryTarget is a custom target that keeps archives in memory. A target needs
// only two methods. It can implement more interfaces, such as
// [uploader.StatusChecker] and [uploader.BlockFetcher]: the more it implements,
// the more is verified.
type memoryTarget struct {
	mu       sync.Mutex
	archives map[cid.Cid][]byte
}

func (t *memoryTarget) String() string { return "memory" }

// Put receives a shard. The receipt is compared with what was sent, so it must
// be computed from what arrived.
func (t *memoryTarget) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	body := s.Open(ctx)
	defer body.Close()
	archive, err := io.ReadAll(body)
	if err != nil {
		return uploader.Receipt{}, err
	}
	receipt := uploader.Receipt{Root: s.Root}
	r, err := car.NewReader(bytes.NewReader(archive), car.ReaderOptions{})
	if err != nil {
		return uploader.Receipt{}, err
	}
	for {
		section, err := r.Next() // Next hashes each block
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return uploader.Receipt{}, err
		}
		receipt.Blocks++
		receipt.BlockBytes += int64(len(section.Data))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	c, _ := body.CID()
	t.archives[c] = archive
	return receipt, nil
}

// Use a custom target.
func ExampleTarget() {
	path, remove := exampleFile(4 << 20)
	defer remove()

	target := &memoryTarget{archives: map[cid.Cid][]byte{}}
	up, err := uploader.New(target, uploader.Options{Verify: uploader.VerifyReceipt})
	if err != nil {
		log.Fatal(err)
	}
	file, err := uploader.File(path, chunker.Options{})
	if err != nil {
		log.Fatal(err)
	}
	for result, err := range up.Upload(context.Background(), slices.Values([]uploader.Input{file})) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(result.Root, len(target.archives))
	}
	// Output: bafybeifugmkrdvmblociaualuf4to37rzthhtfnov2ftzzxtjhtpp6u3kq 1
}

// object is a custom source: an object in a store, read in ranges. It can be
// read repeatedly, and reports if it has changed.
type object struct {
	url  string
	size int64
	etag string
}

func newObject(url string) (*object, error) {
	resp, err := http.Head(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return &object{url, resp.ContentLength, resp.Header.Get("ETag")}, nil
}

func (o *object) Name() string                  { return o.url }
func (o *object) Size() int64                   { return o.size }
func (o *object) Open() (car.SourceFile, error) { return o, nil }
func (o *object) Close() error                  { return nil }

// ReadAt implements io.ReaderAt: it reads all bytes asked for, or returns an
// error.
func (o *object) ReadAt(p []byte, off int64) (int, error) {
	req, err := http.NewRequest(http.MethodGet, o.url, nil)
	if err != nil {
		return 0, err
	}
	end := min(off+int64(len(p)), o.size)
	if off >= end {
		return 0, io.EOF
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, end-1))
	req.Header.Set("If-Match", o.etag)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
	case http.StatusPreconditionFailed:
		return 0, &car.SourceChangedError{Name: o.url, Offset: off, Reason: "it has another ETag"}
	default:
		return 0, fmt.Errorf("GET %s: %s", o.url, resp.Status)
	}
	n, err := io.ReadFull(resp.Body, p[:end-off])
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Use a custom source: ranges of an object in a store.
func ExampleSource() {
	content := exampleBytes(4 << 20)
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		http.ServeContent(w, r, "movie.mkv", time.Time{}, bytes.NewReader(content))
	}))
	defer store.Close()
	target, closeTarget := exampleService()
	defer closeTarget()

	movie, err := newObject(store.URL + "/films/movie.mkv")
	if err != nil {
		log.Fatal(err)
	}
	up, err := uploader.New(target, uploader.Options{})
	if err != nil {
		log.Fatal(err)
	}
	input := uploader.Source(movie, chunker.Options{})
	for result, err := range up.Upload(context.Background(), slices.Values([]uploader.Input{input})) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(result.Root, result.Bytes)
	}
	// Output: bafybeifugmkrdvmblociaualuf4to37rzthhtfnov2ftzzxtjhtpp6u3kq 4194304
}

// Continue an interrupted upload: a ledger on disk knows what the target has.
func ExampleLedger() {
	path, remove := exampleFile(4 << 20)
	defer remove()
	target, closeTarget := exampleService()
	defer closeTarget()

	// For the library, each call is a new process.
	upload := func(ctx context.Context, stop func()) {
		ledger, err := sqliteledger.Open(ctx, filepath.Join(filepath.Dir(path), "ledger.db"), sqliteledger.Options{})
		if err != nil {
			log.Fatal(err)
		}
		defer ledger.Close()
		up, err := uploader.New(target, uploader.Options{
			Transfers: 1, MaxShardBytes: 2_000_000, Ledger: ledger,
			Observer: afterFirst{stop},
		})
		if err != nil {
			log.Fatal(err)
		}
		file, err := uploader.File(path, chunker.Options{Profile: chunker.UnixFSv0()})
		if err != nil {
			log.Fatal(err)
		}
		for result, err := range up.Upload(ctx, slices.Values([]uploader.Input{file})) {
			fmt.Println(result.Held, "of", result.Shards, "shards were there;", "done:", err == nil)
		}
	}

	ctx, cancel := context.WithCancel(context.Background())
	upload(ctx, cancel) // interrupted
	upload(context.Background(), func() {})
	// Output:
	// 0 of 3 shards were there; done: false
	// 1 of 3 shards were there; done: true
}

// afterFirst calls a function when the first shard has been received.
type afterFirst struct{ then func() }

func (a afterFirst) Observe(e uploader.Event) {
	if _, ok := e.(uploader.ShardSent); ok {
		a.then()
	}
}

// Verify what a target holds, without the file.
func ExampleUploader_Verify() {
	path, remove := exampleFile(4 << 20)
	defer remove()
	target, closeTarget := exampleService()
	defer closeTarget()
	root := exampleUpload(target, path)

	up, err := uploader.New(target, uploader.Options{Verify: uploader.VerifyFull})
	if err != nil {
		log.Fatal(err)
	}
	if _, err := up.Verify(context.Background(), root); err != nil {
		log.Fatal(err)
	}
	fmt.Println("every block is held and right")
	// Output: every block is held and right
}

// exampleUpload uploads a file.
func exampleUpload(target uploader.Target, path string) cid.Cid {
	up, err := uploader.New(target, uploader.Options{})
	if err != nil {
		log.Fatal(err)
	}
	file, err := uploader.File(path, chunker.Options{})
	if err != nil {
		log.Fatal(err)
	}
	for result, err := range up.Upload(context.Background(), slices.Values([]uploader.Input{file})) {
		if err != nil {
			log.Fatal(err)
		}
		return result.Root
	}
	return cid.Undef
}

// Get a file back from a service, or from a gateway that need not be trusted.
func Example_get() {
	path, remove := exampleFile(4 << 20)
	defer remove()
	target, closeTarget := exampleService()
	defer closeTarget()
	root := exampleUpload(target, path)

	pool := gateway.NewPool(gateway.Options{}, target) // with one source or more
	restored := filepath.Join(filepath.Dir(path), "restored.mkv")
	made, err := pool.Restore(context.Background(), root, "", restored, gateway.RestoreOptions{MaxBytes: 1 << 30})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(made.Files, "file of", made.Bytes, "bytes")

	var out bytes.Buffer
	if _, err := pool.WriteFile(context.Background(), root, "", &out, 0); err != nil {
		log.Fatal(err)
	}
	fmt.Println(bytes.Equal(out.Bytes(), exampleBytes(4<<20)))
	// Output:
	// 1 file of 4194304 bytes
	// true
}

// Plan the shards of a file without uploading: exactly what would be sent.
func ExampleDescriber_Split() {
	path, remove := exampleFile(4 << 20)
	defer remove()

	d, err := uploader.NewDescriber(uploader.Options{MaxShardBytes: 2_000_000})
	if err != nil {
		log.Fatal(err)
	}
	file, err := uploader.File(path, chunker.Options{})
	if err != nil {
		log.Fatal(err)
	}
	var plan *splitter.Plan
	_, err = d.Describe(context.Background(), file, func(dag uploader.DAG) (err error) {
		plan, err = d.Split("movie.mkv", dag)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(plan.Shards), "shards of", plan.Size(), "bytes")
	// Output: 4 shards of 4195684 bytes
}
