package uploader_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
)

// countedSource counts what is read from it.
type countedSource struct {
	car.Source
	read    *atomic.Int64
	changed *atomic.Bool // every byte is different
}

func (c countedSource) Open() (car.SourceFile, error) {
	f, err := c.Source.Open()
	return countedFile{f, c.read, c.changed}, err
}

type countedFile struct {
	car.SourceFile
	read    *atomic.Int64
	changed *atomic.Bool
}

func (c countedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.SourceFile.ReadAt(p, off)
	c.read.Add(int64(n))
	if c.changed.Load() {
		for i := range p[:n] {
			p[i]++
		}
	}
	return n, err
}

// memorySource is bytes.
type memorySource []byte

func (m memorySource) Name() string                  { return "bytes" }
func (m memorySource) Size() int64                   { return int64(len(m)) }
func (m memorySource) Open() (car.SourceFile, error) { return memoryFile(m), nil }

type memoryFile []byte

func (m memoryFile) ReadAt(p []byte, off int64) (int, error) {
	n := copy(p, m[min(off, int64(len(m))):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
func (memoryFile) Close() error { return nil }

// countedInput is an input in memory that counts reads.
type countedInput struct {
	src               countedSource
	described, closed atomic.Int32
}

func newCountedInput(n int) *countedInput {
	data := make(memorySource, n)
	for i := range data {
		data[i] = byte(i>>20) ^ byte(i*7)
	}
	return &countedInput{src: countedSource{data, new(atomic.Int64), new(atomic.Bool)}}
}

func (c *countedInput) Name() string       { return "bytes" }
func (c *countedInput) UploadName() string { return "bytes" }
func (c *countedInput) Close() error       { c.closed.Add(1); return nil }

func (c *countedInput) Describe(ctx context.Context, read *atomic.Int64) (uploader.DAG, error) {
	c.described.Add(1)
	return chunker.Build(ctx, c.src, chunker.Options{Read: read})
}

// sink is a target that hashes what it receives.
type sink struct {
	name string
	put  func(ctx context.Context, s *uploader.Shard, body uploader.Body) error // nil means to read all of it

	mu     sync.Mutex
	shards map[int]cid.Cid
}

func (s *sink) String() string { return s.name }

func (s *sink) Put(ctx context.Context, shard *uploader.Shard) (uploader.Receipt, error) {
	body := shard.Open(ctx)
	defer body.Close()
	if s.put != nil {
		if err := s.put(ctx, shard, body); err != nil {
			return uploader.Receipt{}, err
		}
	} else if _, err := body.WriteTo(io.Discard); err != nil {
		return uploader.Receipt{}, err
	}
	c, _ := body.CID()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shards == nil {
		s.shards = map[int]cid.Cid{}
	}
	s.shards[shard.Index] = c
	return uploader.Receipt{Root: shard.Root, Parts: []cid.Cid{c}}, nil
}

// sendTogether sends an input to sinks and returns their errors by name.
func sendTogether(t *testing.T, in uploader.Input, ledger uploader.Ledger, sinks ...*sink) map[string]error {
	t.Helper()
	var ups []*uploader.Uploader
	for _, s := range sinks {
		u, err := uploader.New(s, uploader.Options{MaxShardBytes: 4 << 20, Transfers: 2, Ledger: ledger, Retries: 1})
		if err != nil {
			t.Fatal(err)
		}
		ups = append(ups, u)
	}
	g, err := uploader.NewGroup(ups...)
	if err != nil {
		t.Fatal(err)
	}
	outcomes := map[string]error{}
	for o, err := range g.Upload(t.Context(), slices.Values([]uploader.Input{in})) {
		outcomes[o.Target.String()] = err
	}
	return outcomes
}

const groupBytes = 40 << 20

// sameShards checks that the sinks got the same shards, all of them.
func sameShards(t *testing.T, sinks ...*sink) {
	t.Helper()
	for _, s := range sinks {
		if len(s.shards) < groupBytes/(4<<20) || len(s.shards) != len(sinks[0].shards) {
			t.Errorf("%s got %d shards", s.name, len(s.shards))
		}
		for i, c := range s.shards {
			if !c.Equals(sinks[0].shards[i]) || !c.Defined() {
				t.Errorf("%s got %s for shard %d, %s got %s", s.name, c, i, sinks[0].name, sinks[0].shards[i])
			}
		}
	}
}

// TestGroupReadsOnce: for three targets the source is read twice, the same as
// for one.
func TestGroupReadsOnce(t *testing.T) {
	t.Parallel()
	in := newCountedInput(groupBytes)
	bytewise := func(_ context.Context, _ *uploader.Shard, body uploader.Body) error {
		_, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{body}, make([]byte, 300_001))
		return err
	}
	a, b, c := &sink{name: "a"}, &sink{name: "b", put: bytewise}, &sink{name: "c"}
	for name, err := range sendTogether(t, in, nil, a, b, c) {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	sameShards(t, a, b, c)
	if n := in.src.read.Load(); n < 2*groupBytes || n > 2*groupBytes+groupBytes/20 {
		t.Errorf("%d bytes were read of %d", n, groupBytes)
	}
	if in.described.Load() != 1 || in.closed.Load() != 1 {
		t.Errorf("described %d times, closed %d times", in.described.Load(), in.closed.Load())
	}
}

// TestGroupGoesOnWithout: one target stalls, one fails for good, one fails
// sometimes, one reads half. The others get everything, and quickly.
func TestGroupGoesOnWithout(t *testing.T) {
	t.Parallel()
	broken := errors.New("it is broken")
	for name, put := range map[string]func(ctx context.Context, s *uploader.Shard, body uploader.Body) error{
		"stands still": func(ctx context.Context, _ *uploader.Shard, body uploader.Body) error {
			_, _ = io.CopyN(io.Discard, body, 1<<20)
			select {
			case <-time.After(time.Hour):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			_, err := body.WriteTo(io.Discard)
			return err
		},
		"fails": func(context.Context, *uploader.Shard, uploader.Body) error {
			return &uploader.SourceError{Err: broken}
		},
		"fails halfway": func(_ context.Context, _ *uploader.Shard, body uploader.Body) error {
			_, _ = io.CopyN(io.Discard, body, 1<<20)
			return &uploader.SourceError{Err: broken}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in := newCountedInput(groupBytes)
				began := time.Now()
				var took atomic.Int64
				a, c := &sink{name: "a"}, &sink{name: "c"}
				last := func(_ context.Context, _ *uploader.Shard, body uploader.Body) error {
					_, err := body.WriteTo(io.Discard)
					took.Store(int64(time.Since(began)))
					return err
				}
				a.put = last
				b := &sink{name: "b", put: put}
				errs := sendTogether(t, in, nil, a, b, c)
				if errs["a"] != nil || errs["c"] != nil {
					t.Errorf("%v", errs)
				}
				if name == "stands still" {
					if errs["b"] != nil {
						t.Errorf("b: %v", errs["b"])
					}
					sameShards(t, a, b, c) // in the end
				} else if !errors.Is(errs["b"], broken) {
					t.Errorf("b: %v", errs["b"])
				}
				sameShards(t, a, c)
				if took := time.Duration(took.Load()); took > 5*time.Minute {
					t.Errorf("the others took %s", took)
				}
			})
		})
	}
}

// TestGroupResumes: shards that all targets have are not read.
func TestGroupResumes(t *testing.T) {
	t.Parallel()
	ledger := new(uploader.MemoryLedger)
	in := newCountedInput(groupBytes)
	a, b := &sink{name: "a"}, &sink{name: "b"}
	if errs := sendTogether(t, in, ledger, a); errs["a"] != nil {
		t.Fatal(errs)
	}
	a.shards = nil
	in.src.read.Store(0)
	began := time.Now()
	if errs := sendTogether(t, in, ledger, a, b); errs["a"] != nil || errs["b"] != nil {
		t.Fatal(errs)
	}
	if len(a.shards) != 0 || len(b.shards) < groupBytes/(4<<20) {
		t.Errorf("a got %d shards, b %d", len(a.shards), len(b.shards))
	}
	if n := in.src.read.Load(); n > 2*groupBytes+groupBytes/20 {
		t.Errorf("%d bytes were read", n)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("b waited for a: %s", took)
	}
}

// TestGroupSourceChanges: all targets report that a source changed.
func TestGroupSourceChanges(t *testing.T) {
	t.Parallel()
	in := newCountedInput(groupBytes)
	spoil := func(_ context.Context, _ *uploader.Shard, body uploader.Body) error {
		in.src.changed.Store(true)
		_, err := body.WriteTo(io.Discard)
		return err
	}
	a, b := &sink{name: "a", put: spoil}, &sink{name: "b", put: spoil}
	for name, err := range sendTogether(t, in, nil, a, b) {
		if !errors.Is(err, uploader.ErrSourceChanged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
