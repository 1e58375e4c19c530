package uploader_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/sqliteledger"
	"github.com/carload/carload/uploader/uploadertest"
)

// batchLimit is more than the size of the small files in these tests.
const batchLimit = 64 << 10

// namedFiles makes small files, three of each name.
func namedFiles(t *testing.T, n int) []string {
	t.Helper()
	dir := t.TempDir()
	paths := make([]string, n)
	for i := range paths {
		paths[i] = filepath.Join(dir, fmt.Sprint(i%3), fmt.Sprintf("file%d.bin", i/3))
		writeFile(t, paths[i], randomBytes(i*397%(40<<10), uint64(i)))
	}
	return paths
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// batchRun is the outcome of uploading batches.
type batchRun struct {
	files    map[string]uploader.Result
	errs     map[string]error
	batches  []uploader.Result
	requests int
}

func uploadBatches(t *testing.T, srv *uploadertest.Server, u *uploader.Uploader, paths []string) batchRun {
	t.Helper()
	before, _ := requests(srv)
	run := batchRun{files: map[string]uploader.Result{}, errs: map[string]error{}}
	for r, err := range u.Upload(t.Context(), uploader.Batches(inputs(t, paths), batchLimit)) {
		if r.Members > 0 {
			run.batches = append(run.batches, r)
			continue
		}
		if _, twice := run.files[r.Name]; twice {
			t.Errorf("%s: two results", r.Name)
		}
		run.files[r.Name] = r
		if err != nil {
			run.errs[r.Name] = err
		}
	}
	if len(run.files) != len(paths) {
		t.Errorf("%d results of %d files", len(run.files), len(paths))
	}
	all, _ := requests(srv)
	run.requests = all - before
	if p := u.Progress(); p.InputsDone != int64(len(paths)) || p.Inputs != int64(len(paths)) {
		t.Errorf("progress %+v", p)
	}
	return run
}

// TestBatch sends small files together, and later only what is new.
func TestBatch(t *testing.T) {
	t.Parallel()
	srv, st := newServiceAndStore(t, t.TempDir())
	ledger, err := sqliteledger.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"), sqliteledger.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close()
	target := newTarget(t, srv)
	var mu sync.Mutex
	verified := map[string]cid.Cid{}
	observe := observerFunc(func(e uploader.Event) {
		if v, ok := e.(uploader.Verified); ok {
			mu.Lock()
			defer mu.Unlock()
			verified[v.Name] = v.Root
		}
	})
	run := func(paths []string, level uploader.VerifyLevel) batchRun {
		return uploadBatches(t, srv, newUploader(t, target, uploader.Options{Ledger: ledger, Verify: level, Observer: observe}), paths)
	}
	paths := namedFiles(t, 45)
	large := randomFile(t, batchLimit, 99)
	first := run(append(slices.Clone(paths), large), uploader.VerifyPinned)
	if len(first.errs) > 0 || len(first.batches) != 1 || first.requests > 10 {
		t.Fatalf("%d batches, %d requests, %v", len(first.batches), first.requests, first.errs)
	}
	batch := first.batches[0]
	if batch.Members != len(paths) || batch.Sent == 0 || batch.Shards == 0 {
		t.Errorf("%+v", batch)
	}
	entries := map[string]bool{}
	for _, p := range paths {
		r := first.files[p]
		if r.Root != rootOf(t, p) || r.Batch != batch.Root || r.Entry == "" || entries[r.Entry] || verified[p] != r.Root {
			t.Errorf("%s: %+v", p, r)
		}
		entries[r.Entry] = true
		// The service returns the file by its own CID.
		if _, err := target.FetchBlock(t.Context(), r.Root, 1<<20); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
	if r := first.files[large]; r.Batch.Defined() || r.Shards == 0 {
		t.Errorf("the large file: %+v", r)
	}
	// A directory with the same entries has the same root.
	tree := chunker.NewTree()
	for _, p := range paths {
		if err := tree.AddDisk(first.files[p].Entry, p); err != nil {
			t.Fatal(err)
		}
	}
	if dag, err := tree.Build(t.Context(), chunking()); err != nil || dag.Root() != batch.Root {
		t.Errorf("a directory of the entries is %v, %v", dag.Root(), err)
	}

	for _, level := range []uploader.VerifyLevel{uploader.VerifyPinned, uploader.VerifyReceipt, uploader.VerifyFull} {
		again := run(paths, level)
		if len(again.errs) > 0 || again.batches[0].Sent > 0 || again.batches[0].Root.Defined() || again.batches[0].Held != batch.Shards || again.requests > 10 {
			t.Errorf("%s: again: %d requests, %+v, %v", level, again.requests, again.batches, again.errs)
		}
		if r := again.files[paths[5]]; r.Batch != batch.Root || r.Entry == "" || r.Root != rootOf(t, paths[5]) {
			t.Errorf("%s: again: %+v", level, r)
		}
	}

	// Changed files go into a new batch.
	writeFile(t, paths[3], []byte("changed"))
	added := filepath.Join(filepath.Dir(paths[4]), "added")
	writeFile(t, added, []byte("added"))
	paths = append(paths, added)
	second := run(paths, uploader.VerifyPinned)
	if len(second.errs) > 0 || second.batches[0].Root == batch.Root || second.batches[0].Bytes != int64(len("changed")+len("added")) {
		t.Errorf("after a change: %+v, %v", second.batches, second.errs)
	}
	for _, p := range paths {
		want := batch.Root
		if p == paths[3] || p == added {
			want = second.batches[0].Root
		}
		if r := second.files[p]; r.Root != rootOf(t, p) || r.Batch != want {
			t.Errorf("after a change: %s: %+v", p, r)
		}
	}

	// A deleted batch is sent again, and no other.
	if err := target.Delete(t.Context(), batch.Root); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	third := run(paths, uploader.VerifyPinned)
	if len(third.errs) > 0 || third.batches[0].Sent < batch.Sent*9/10 {
		t.Errorf("after a loss: %+v, %v", third.batches, third.errs)
	}
	for _, p := range paths {
		if r := third.files[p]; r.Root != rootOf(t, p) || (r.Batch == second.batches[0].Root) != (p == paths[3] || p == added) {
			t.Errorf("after a loss: %s: %+v", p, r)
		}
	}
	if last := run(paths, uploader.VerifyFull); last.batches[0].Sent > 0 || len(last.errs) > 0 {
		t.Errorf("in the end: %+v, %v", last.batches, last.errs)
	}
}

// TestBatchIsNoBase: a file was last sent by itself, with its previous version
// as the base. That base is not a batch that has the file.
func TestBatchIsNoBase(t *testing.T) {
	t.Parallel()
	srv := newService(t, t.TempDir())
	opts := uploader.Options{Ledger: new(uploader.MemoryLedger)}
	paths := namedFiles(t, 6)
	data := randomBytes(50<<10, 1)
	target := newTarget(t, srv)
	for i := range 2 {
		data[0] = byte(i)
		writeFile(t, paths[0], data)
		r, err := uploadOne(t.Context(), newUploader(t, target, opts), input(t, paths[0]))
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if err := target.Delete(t.Context(), r.Root); err != nil {
				t.Fatal(err)
			}
		}
	}
	run := uploadBatches(t, srv, newUploader(t, target, opts), paths)
	if r := run.files[paths[0]]; len(run.errs) > 0 || r.Batch != run.batches[0].Root || !r.Batch.Defined() {
		t.Errorf("%+v, %v", r, run.errs)
	}
}

// TestBatchOfFaults: files disappear or change at the worst time, which affects
// only them.
func TestBatchOfFaults(t *testing.T) {
	t.Parallel()
	srv := newService(t, t.TempDir())
	paths := namedFiles(t, 9)
	gone, changes, later := paths[1], paths[2], paths[5]
	var once, onceLater sync.Once
	observe := observerFunc(func(e uploader.Event) {
		switch e := e.(type) {
		case uploader.Described:
			if e.Name == changes {
				once.Do(func() { writeFile(t, changes, []byte("changed before it was sent")) })
			}
		case uploader.ShardSent:
			onceLater.Do(func() { writeFile(t, later, []byte("changed after it was sent")) })
		}
	})
	u := newUploader(t, newTarget(t, srv), uploader.Options{Observer: observe})
	run := batchRun{files: map[string]uploader.Result{}, errs: map[string]error{}}
	ins := slices.Collect(inputs(t, paths))
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	for r, err := range u.Upload(t.Context(), uploader.Batches(slices.Values(ins), batchLimit)) {
		if r.Members > 0 {
			run.batches = append(run.batches, r)
			continue
		}
		run.files[r.Name] = r
		run.errs[r.Name] = err
	}
	for _, p := range paths {
		r, err := run.files[p], run.errs[p]
		switch p {
		case gone, changes, later:
			// They differ from when the inputs were made, so they cannot be
			// uploaded one by one either. The next run uploads them.
			if !errors.Is(err, uploader.ErrSourceChanged) || r.Batch.Defined() {
				t.Errorf("%s: %+v, %v", p, r, err)
			}
		default:
			if err != nil || r.Batch != run.batches[0].Root || r.Root != rootOf(t, p) {
				t.Errorf("%s: %+v, %v", p, r, err)
			}
		}
	}
}

// TestBatchOfMetadata stores modes and times, which are part of a single file's
// CID too.
func TestBatchOfMetadata(t *testing.T) {
	t.Parallel()
	srv := newService(t, t.TempDir())
	opts := chunking()
	opts.Mode, opts.ModTime = true, true
	var ins []uploader.Input
	want := map[string]cid.Cid{}
	for i, p := range namedFiles(t, 6) {
		if err := errors.Join(os.Chmod(p, 0o600+fs.FileMode(i)), os.Chtimes(p, time.Time{}, time.Unix(1e9, int64(i)))); err != nil {
			t.Fatal(err)
		}
		in, err := uploader.File(p, opts)
		if err != nil {
			t.Fatal(err)
		}
		src, err := chunker.OpenFile(p)
		if err != nil {
			t.Fatal(err)
		}
		dag, err := chunker.Build(t.Context(), src, opts)
		if err != nil {
			t.Fatal(err)
		}
		ins, want[p] = append(ins, in), dag.Root()
	}
	u := newUploader(t, newTarget(t, srv), uploader.Options{})
	for r, err := range u.Upload(t.Context(), uploader.Batches(slices.Values(ins), batchLimit)) {
		if err != nil || r.Members == 0 && (r.Root != want[r.Name] || !r.Batch.Defined()) {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

// TestBatchToSeveral sends a batch to two targets, one of which has it already.
func TestBatchToSeveral(t *testing.T) {
	t.Parallel()
	one, other := newService(t, t.TempDir()), newService(t, t.TempDir())
	ledger := new(uploader.MemoryLedger)
	paths := namedFiles(t, 9)
	a, b := newTarget(t, one), newTarget(t, other)
	first := uploadBatches(t, one, newUploader(t, a, uploader.Options{Ledger: ledger}), paths)
	g, err := uploader.NewGroup(newUploader(t, a, uploader.Options{Ledger: ledger}), newUploader(t, b, uploader.Options{Ledger: ledger}))
	if err != nil {
		t.Fatal(err)
	}
	sent := map[uploader.Target]int64{}
	results := map[uploader.Target]int{}
	for o, err := range g.Upload(t.Context(), uploader.Batches(inputs(t, paths), batchLimit)) {
		if err != nil {
			t.Errorf("%+v, %v", o, err)
		}
		sent[o.Target] += o.Sent
		if o.Members == 0 {
			results[o.Target]++
			if o.Batch != first.batches[0].Root || o.Root != rootOf(t, o.Name) {
				t.Errorf("%+v", o)
			}
		}
	}
	if sent[a] > 0 || sent[b] == 0 || results[a] != len(paths) || results[b] != len(paths) {
		t.Errorf("sent %v, results %v", sent, results)
	}
}
