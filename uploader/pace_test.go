package uploader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

// paced is a source that takes its time for each KiB, once that is set, and
// counts what was read.
type paced struct {
	data   []byte
	perKiB atomic.Int64 // nanoseconds
	read   atomic.Int64
}

func (p *paced) Name() string                  { return "slow disk" }
func (p *paced) Size() int64                   { return int64(len(p.data)) }
func (p *paced) Open() (car.SourceFile, error) { return p, nil }
func (p *paced) Close() error                  { return nil }

func (p *paced) ReadAt(b []byte, off int64) (int, error) {
	n, err := bytes.NewReader(p.data).ReadAt(b, off)
	p.read.Add(int64(n))
	if d := time.Duration(p.perKiB.Load()) * time.Duration(n) / 1024; d > 0 {
		<-time.After(d)
	}
	return n, err
}

// planPaced describes a source at full speed and makes shards of it.
func planPaced(t *testing.T, p *paced, profile chunker.Profile, shard int64) *splitter.Plan {
	t.Helper()
	dag, err := chunker.Build(t.Context(), p, chunker.Options{Profile: profile, Workers: 2})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := splitter.Split(dag, splitter.Options{MaxShardBytes: shard})
	if err != nil {
		t.Fatal(err)
	}
	p.read.Store(0)
	return plan
}

// TestSlowSource reads from a disk on which a shard takes much longer than a
// request may stand still. The network is not blamed for it.
func TestSlowSource(t *testing.T) {
	t.Parallel()
	for _, secured := range []bool{false, true} {
		t.Run(fmt.Sprintf("TLS=%t", secured), func(t *testing.T) {
			t.Parallel()
			src := &paced{data: randomBytes(12*leafBytes, 34)}
			plan := planPaced(t, src, profile(), shardBytes)
			src.perKiB.Store(int64(5 * time.Millisecond))
			const stall = 200 * time.Millisecond
			opts := uploadertest.Options{}
			ca := uploadertest.NewAuthority(t)
			if secured {
				opts.TLS = serving(ca)
			}
			srv := uploadertest.NewServer(t, opts)
			target := newTarget(t, srv, func(o *nftstorage.Options) { o.Stall, o.Transport = stall, secure(t, ca.Pool(), nil) })
			u := newUploader(t, target, uploader.Options{Transfers: 2})
			start := time.Now()
			r, err := u.Send(t.Context(), "x", plan)
			if err != nil || !srv.Store.Complete(r.Root) {
				t.Fatalf("%+v, %v", r, err)
			}
			if p := u.Progress(); p.Retries > 0 || p.BytesResent > 0 || srv.Count(uploadertest.Upload).Bytes != plan.Size() {
				t.Errorf("%+v, %+v arrived", p, srv.Count(uploadertest.Upload))
			}
			if took := time.Since(start); took < 2*stall {
				t.Errorf("it took %s, which shows nothing", took)
			}
			if n := src.read.Load(); n != src.Size() {
				t.Errorf("%d bytes were read, the source has %d", n, src.Size())
			}
		})
	}
}

// pacedInput describes a paced source.
type pacedInput struct{ *paced }

func (i pacedInput) Describe(ctx context.Context, read *atomic.Int64) (uploader.DAG, error) {
	return chunker.Build(ctx, i.paced, chunker.Options{Read: read, Workers: 2})
}

// gated is a target that takes some bytes of each shard, and the rest when the
// gate is opened.
type gated struct {
	take  int64
	gate  chan struct{}
	taken atomic.Int64
	open  atomic.Int64 // bodies
}

func (*gated) String() string { return "gated" }

func (g *gated) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	body := s.Open(ctx)
	g.open.Add(1)
	defer g.open.Add(-1)
	n, err := io.CopyN(io.Discard, body, g.take)
	g.taken.Add(n)
	if err == nil {
		<-g.gate
		_, err = io.Copy(io.Discard, body)
	}
	archive, _ := body.CID()
	return uploader.Receipt{Root: s.Root, Parts: []cid.Cid{archive}}, errors.Join(err, body.Close())
}

// TestBackPressure: a line that takes nothing more stops everything behind it.
// No more inputs are pulled than are sent and one, no more shards opened than
// transfers, and of each shard no more is read than one batch.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	data := randomBytes(12<<20, 34)
	synctest.Test(t, func(t *testing.T) {
		const transfers, inputs, batch, leaf = 3, 10, 4 << 20, 1 << 20
		target := &gated{take: 2 << 20, gate: make(chan struct{})}
		u := newUploader(t, target, uploader.Options{Transfers: transfers, MaxShardBytes: 20_000_000, NoResume: true})
		src := &paced{data: data}
		var pulled atomic.Int64
		list := iter.Seq[uploader.Input](func(yield func(uploader.Input) bool) {
			for range inputs {
				pulled.Add(1)
				if !yield(pacedInput{src}) {
					return
				}
			}
		})
		var results []error
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, err := range u.Upload(t.Context(), list) {
				results = append(results, err)
			}
		}()
		synctest.Wait() // until nothing goes on any more
		if n := pulled.Load(); n != transfers+1 {
			t.Errorf("%d inputs were pulled, %d can be sent", n, transfers)
		}
		if n := target.open.Load(); n != transfers {
			t.Errorf("%d shards are open, want %d", n, transfers)
		}
		ahead := src.read.Load() - pulled.Load()*src.Size() - target.taken.Load()
		if most := int64(transfers * (batch + leaf)); ahead < 0 || ahead > most {
			t.Errorf("%d bytes were read ahead, want at most %d", ahead, most)
		}
		if n := u.Progress().BytesSent; n != target.taken.Load() {
			t.Errorf("%d bytes count as sent, %d were taken", n, target.taken.Load())
		}
		close(target.gate)
		<-done
		if err := errors.Join(results...); err != nil || len(results) != inputs {
			t.Errorf("%d results, %v", len(results), err)
		}
		if n := src.read.Load(); n != 2*inputs*src.Size() {
			t.Errorf("%d bytes were read, want each twice", n)
		}
	})
}
