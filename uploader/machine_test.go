package uploader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/dirtarget"
	"github.com/carload/carload/uploader/uploadertest"
)

// sick is a source that, once armed, fails from an offset on.
type sick struct {
	data  []byte
	armed atomic.Bool
	from  int64
	err   error
}

func (s *sick) Name() string                  { return "sick disk" }
func (s *sick) UploadName() string            { return "" }
func (s *sick) Size() int64                   { return int64(len(s.data)) }
func (s *sick) Open() (car.SourceFile, error) { return s, nil }
func (s *sick) Close() error                  { return nil }

func (s *sick) ReadAt(p []byte, off int64) (int, error) {
	if s.armed.Load() && off+int64(len(p)) > s.from {
		n := copy(p, s.data[off:max(off, s.from)])
		return n, s.err
	}
	return bytes.NewReader(s.data).ReadAt(p, off)
}

type sickInput struct {
	*sick
	pass int
}

func (i sickInput) Describe(ctx context.Context, read *atomic.Int64) (uploader.DAG, error) {
	i.armed.Store(i.pass == 1)
	opts := chunking()
	opts.Read = read
	dag, err := chunker.Build(ctx, i.sick, opts)
	i.armed.Store(true)
	return dag, err
}

// TestSickDisk reads a source that fails in either pass: the file fails at
// once, with the offset, and the disk is not read again and again.
func TestSickDisk(t *testing.T) {
	t.Parallel()
	for pass := 1; pass <= 2; pass++ {
		for _, fault := range []error{syscall.EIO, syscall.ESTALE} {
			srv := uploadertest.NewServer(t, uploadertest.Options{})
			s := &sick{data: randomBytes(fileBytes, 1), from: 20*leafBytes + 100, err: fault}
			u := newUploader(t, newTarget(t, srv), uploader.Options{Transfers: 1})
			_, err := uploadOne(t.Context(), u, sickInput{s, pass})
			var source *uploader.SourceError
			if !errors.Is(err, fault) || !errors.As(err, &source) || !strings.Contains(err.Error(), fmt.Sprint("offset ", s.from)) {
				t.Errorf("pass %d: error %v", pass, err)
			}
			if n := u.Progress().Retries; n != 0 {
				t.Errorf("pass %d: %d retries", pass, n)
			}
		}
	}
}

// sickLedger fails to record.
type sickLedger struct {
	uploader.MemoryLedger
	left atomic.Int32
}

func (l *sickLedger) Record(ctx context.Context, u uploader.UploadKey, i int, c cid.Cid) error {
	if l.left.Add(-1) < 0 {
		return &os.PathError{Op: "write", Path: "ledger.db", Err: syscall.ENOSPC}
	}
	return l.MemoryLedger.Record(ctx, u, i, c)
}

// TestFullDiskUnderTheLedger: an upload that cannot be recorded does not count
// as done.
func TestFullDiskUnderTheLedger(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	l := new(sickLedger)
	l.left.Store(3)
	u := newUploader(t, newTarget(t, srv), uploader.Options{Ledger: l})
	r, err := uploadOne(t.Context(), u, input(t, randomFile(t, fileBytes, 1)))
	if !errors.Is(err, syscall.ENOSPC) || u.Progress().ShardsDone != 3 {
		t.Errorf("%+v, %v, %+v", r, err, u.Progress())
	}
}

// tiny is an input of a few bytes in memory.
type tiny struct {
	memory
	name string
	fail error
}

func (i tiny) Name() string       { return i.name }
func (i tiny) UploadName() string { return i.name }
func (tiny) Close() error         { return nil }

func (i tiny) Describe(ctx context.Context, read *atomic.Int64) (uploader.DAG, error) {
	if i.fail != nil {
		return nil, i.fail
	}
	return chunker.Build(ctx, i.memory, chunker.Options{Read: read, Workers: 1})
}

// nowhere receives shards and returns receipts for them.
type nowhere struct{ put atomic.Int64 }

func (*nowhere) String() string { return "nowhere" }

func (n *nowhere) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	n.put.Add(1)
	body := s.Open(ctx)
	_, err := io.Copy(io.Discard, body)
	archive, _ := body.CID()
	return uploader.Receipt{Root: s.Root, Parts: []cid.Cid{archive}}, errors.Join(err, body.Close())
}

// TestManyInputs uploads ten thousand inputs, some of which fail: the results
// are exact, inputs are pulled only when needed, and there are few goroutines.
func TestManyInputs(t *testing.T) {
	t.Parallel()
	const n = 10_000
	gone := errors.New("gone")
	rng := rand.New(rand.NewPCG(1, 1))
	fails := map[string]bool{}
	for i := range n {
		if rng.IntN(100) < 3 {
			fails[fmt.Sprint(i)] = true
		}
	}
	var pulled, most int
	inputs := iter.Seq[uploader.Input](func(yield func(uploader.Input) bool) {
		for i := range n {
			in := tiny{memory: memory(fmt.Sprint("file ", i)), name: fmt.Sprint(i)}
			if fails[in.name] {
				in.fail = gone
			}
			pulled++
			if i%100 == 0 {
				most = max(most, runtime.NumGoroutine())
			}
			if !yield(in) {
				return
			}
		}
	})
	target := new(nowhere)
	u := newUploader(t, target, uploader.Options{})
	before := runtime.NumGoroutine()
	seen := map[string]bool{}
	failed := 0
	for r, err := range u.Upload(t.Context(), inputs) {
		if seen[r.Name] {
			t.Fatalf("%s has two results", r.Name)
		}
		seen[r.Name] = true
		if errors.Is(err, gone) != fails[r.Name] || (err != nil) != fails[r.Name] {
			t.Fatalf("%s: error %v", r.Name, err)
		}
		if err != nil {
			failed++
		}
	}
	if len(seen) != n || pulled != n || failed != len(fails) || int(target.put.Load()) != n-failed {
		t.Errorf("%d results of %d inputs, %d of %d failed, %d sent", len(seen), pulled, failed, len(fails), target.put.Load())
	}
	// Other tests run at the same time, so this only checks the order of
	// magnitude.
	if most > before+500 {
		t.Errorf("%d goroutines, %d before", most, before)
	}
}

// TestStopEarly: when the caller stops, no more inputs are pulled.
func TestStopEarly(t *testing.T) {
	t.Parallel()
	pulled := 0
	inputs := iter.Seq[uploader.Input](func(yield func(uploader.Input) bool) {
		for ; yield(tiny{memory: memory(fmt.Sprint(pulled)), name: "x"}); pulled++ {
		}
	})
	results := 0
	for _, err := range newUploader(t, new(nowhere), uploader.Options{}).Upload(t.Context(), inputs) {
		if err != nil {
			t.Error(err)
		}
		if results++; results == 10 {
			break
		}
	}
	if pulled > 10+18*uploader.DefaultTransfers { // sixteen small uploads in each transfer
		t.Errorf("%d inputs were pulled for %d results", pulled, results)
	}
}

// meter is a target that checks how evenly bytes arrive.
type meter struct {
	nowhere
	write bool
	worst func(n int)
}

func (m *meter) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	body := s.Open(ctx)
	var err error
	if m.write {
		_, err = body.WriteTo(writerFunc(func(p []byte) (int, error) { m.worst(len(p)); return len(p), nil }))
	} else {
		buf := make([]byte, 1<<20)
		for err == nil {
			var n int
			n, err = body.Read(buf)
			m.worst(n)
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	archive, _ := body.CID()
	return uploader.Receipt{Root: s.Root, Parts: []cid.Cid{archive}}, errors.Join(err, body.Close())
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestBandwidth measures what a rate limit lets through, on a fake clock: in
// total, and within any tenth of a second.
func TestBandwidth(t *testing.T) {
	t.Parallel()
	path := randomFile(t, fileBytes, 1)
	plan := planOf(t, path)
	for _, write := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			const perSecond = 50_000
			tenths := map[int64]int{}
			start := time.Now()
			// One transfer: in synctest no time passes while a goroutine waits
			// for a mutex.
			u := newUploader(t, &meter{write: write, worst: func(n int) { tenths[int64(time.Since(start)/(100*time.Millisecond))] += n }},
				uploader.Options{BytesPerSecond: perSecond, Transfers: 1})
			if _, err := u.Send(t.Context(), "x", plan); err != nil {
				t.Fatal(err)
			}
			took := time.Since(start).Seconds()
			want := float64(plan.Size()) / perSecond
			if took < want-0.2 || took > want+0.2 {
				t.Errorf("write %t: took %.2f s, want %.2f", write, took, want)
			}
			for tenth, n := range tenths {
				if n > 2*perSecond/10+1 {
					t.Errorf("write %t: %d bytes in tenth %d of a second", write, n, tenth)
				}
			}
		})
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string]uploader.Options{
		"transfers":       {Transfers: -1},
		"many transfers":  {Transfers: 1e6},
		"negative shard":  {MaxShardBytes: -1},
		"rate":            {BytesPerSecond: -1},
		"crawl":           {BytesPerSecond: 100},
		"level":           {Verify: 17},
		"negative sample": {SampleBlocks: -1},
	} {
		if _, err := uploader.New(new(nowhere), opts); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := uploader.New(new(nowhere), uploader.Options{}); err != nil {
		t.Error(err)
	}
}

// TestDirectory writes shards as files that appear complete or not at all.
func TestDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "out", "shards")
	target, err := dirtarget.New(dir, dirtarget.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	path := randomFile(t, fileBytes, 1)
	plan := planOf(t, path)
	r, err := uploadOne(t.Context(), newUploader(t, target, uploader.Options{}), input(t, path))
	if err != nil || r.Level != uploader.VerifyReceipt {
		t.Fatalf("%+v, %v", r, err)
	}
	for i, s := range plan.Shards {
		name := filepath.Join(dir, dirtarget.FileName(r.Root, i, len(plan.Shards)))
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		rd, err := car.NewReader(f, car.ReaderOptions{})
		n := 0
		for err == nil {
			_, err = rd.Next()
			n++
		}
		info, serr := f.Stat()
		if !errors.Is(err, io.EOF) || serr != nil || info.Size() != s.Size || info.Mode().Perm() != 0o644 || n-1 != len(s.Path)+s.End-s.First {
			t.Errorf("%s: %v, %v, %+v", name, err, serr, info)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	// If the source changes, complete files stay, and nothing else.
	gone := filepath.Join(t.TempDir(), "gone")
	if target, err = dirtarget.New(gone, dirtarget.Options{}); err != nil {
		t.Fatal(err)
	}
	obs := observerFunc(func(e uploader.Event) {
		if _, ok := e.(uploader.Described); ok {
			if err := os.Truncate(path, 10*leafBytes); err != nil {
				t.Error(err)
			}
		}
	})
	_, err = uploadOne(t.Context(), newUploader(t, target, uploader.Options{Observer: obs}), input(t, path))
	if !errors.Is(err, uploader.ErrSourceChanged) {
		t.Errorf("error %v", err)
	}
	left, err := os.ReadDir(gone)
	if err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// TestSplitOfNothing: there is no plan without blocks.
func TestSplitOfNothing(t *testing.T) {
	t.Parallel()
	if _, err := newUploader(t, new(nowhere), uploader.Options{}).Send(t.Context(), "x", &splitter.Plan{Blocks: car.Blocks{}}); err == nil {
		t.Error("no error")
	}
}
