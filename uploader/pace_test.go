package uploader_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
)

// paced is a source that takes perKiB for each KiB, and counts what was read.
type paced struct {
	data   []byte
	perKiB atomic.Int64 // nanoseconds
	read   atomic.Int64
}

func (p *paced) Name() string                  { return "slow disk" }
func (p *paced) UploadName() string            { return "" }
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

// planPaced describes a source at full speed and plans its shards.
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

// slowLine is a transport that takes some time for each piece of a body.
type slowLine struct {
	perPiece time.Duration
	writes   bool // use the body's WriteTo
}

func (l slowLine) RoundTrip(req *http.Request) (*http.Response, error) {
	defer req.Body.Close()
	body, ok := req.Body.(interface {
		io.Reader
		io.WriterTo
	})
	if !ok {
		return nil, fmt.Errorf("the body is a %T", req.Body)
	}
	ctx := req.Context()
	root, _ := ctx.Value(rootKey{}).(cid.Cid)
	hash := sha256.New()
	var err error
	if l.writes {
		_, err = body.WriteTo(writerFunc(func(p []byte) (int, error) {
			hash.Write(p)
			return len(p), pause(ctx, l.perPiece)
		}))
	} else {
		for buf := make([]byte, 32<<10); err == nil; {
			var n int
			n, err = body.Read(buf)
			hash.Write(buf[:n])
			if err == nil {
				err = pause(ctx, l.perPiece)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		return nil, err
	}
	sum, err := multihash.Encode(hash.Sum(nil), multihash.SHA2_256)
	if err != nil {
		return nil, err
	}
	archive := cid.NewCidV1(0x0202, sum)
	reply := fmt.Sprintf(`{"ok":true,"value":{"cid":"%s","parts":["%s"]}}`, root, archive)
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader(reply)), Request: req}, nil
}

// rootKey is the key for the root in a request's context.
type rootKey struct{}

// TestSlowSource: reading a shard from a slow disk takes much longer than a
// request may stall. The network is not blamed for that, but only for its own
// pauses.
func TestSlowSource(t *testing.T) {
	t.Parallel()
	const stall = time.Minute
	for _, test := range []struct {
		name         string
		source, line time.Duration // per KiB, per piece
		want         error
	}{
		{"slow disk", 5 * time.Second, 0, nil},
		{"slow disk and slow line", 5 * time.Second, stall - time.Second, nil},
		{"slow line", 0, stall - time.Second, nil},
		{"line that stands still", 0, stall + time.Second, uploader.ErrUnavailable},
	} {
		for _, writes := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/writes=%t", test.name, writes), func(t *testing.T) {
				t.Parallel()
				src := &paced{data: randomBytes(12*leafBytes, 34)}
				plan := planPaced(t, src, profile(), shardBytes)
				src.perKiB.Store(int64(test.source))
				synctest.Test(t, func(t *testing.T) {
					target, err := nftstorage.New(nftstorage.Options{Endpoint: "http://localhost", Transport: slowLine{test.line, writes}, Stall: stall})
					if err != nil {
						t.Fatal(err)
					}
					u := newUploader(t, target, uploader.Options{Transfers: 1, NoResume: true, Verify: uploader.VerifyReceipt, Retries: 2})
					start := time.Now()
					_, err = u.Send(context.WithValue(t.Context(), rootKey{}, plan.Blocks.At(0).Cid), "x", plan)
					if !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
						t.Fatalf("error %v, want %v", err, test.want)
					}
					p := u.Progress()
					if test.want != nil {
						if p.Retries != 2 || p.BytesSent != 0 || !strings.Contains(err.Error(), "no byte moved for 1m0s") {
							t.Errorf("%+v, %v", p, err)
						}
						return
					}
					if p.Retries > 0 || p.BytesResent > 0 || p.BytesSent != plan.Size() {
						t.Errorf("progress %+v", p)
					}
					if n := src.read.Load(); n != src.Size() {
						t.Errorf("%d bytes were read, the source has %d", n, src.Size())
					}
					if took := time.Since(start); took < 3*stall {
						t.Errorf("it took %s, which shows nothing", took)
					}
				})
			})
		}
	}
}

// pacedInput describes a paced source.
type pacedInput struct{ *paced }

func (i pacedInput) Describe(ctx context.Context, read *atomic.Int64) (uploader.DAG, error) {
	return chunker.Build(ctx, i.paced, chunker.Options{Read: read, Workers: 2})
}

// gated is a target that reads some bytes of each shard, and the rest when the
// gate is opened.
type gated struct {
	take  int64
	gate  chan struct{}
	taken atomic.Int64
	open  atomic.Int64 // number of open bodies
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

// TestBackPressure: a line that accepts nothing stops everything behind it.
// Only one input more is pulled than is being sent, no more shards are opened
// than transfers, and only one batch of each shard is read.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	const size, inputs = 12 << 20, 10
	data := randomBytes(size+inputs, 34)
	synctest.Test(t, func(t *testing.T) {
		const transfers, batch, leaf = 3, 4 << 20, 1 << 20
		target := &gated{take: 2 << 20, gate: make(chan struct{})}
		u := newUploader(t, target, uploader.Options{Transfers: transfers, MaxShardBytes: 20_000_000, NoResume: true})
		var sources [inputs]paced // all different, or they would wait for one another
		read := func() (n int64) {
			for i := range sources {
				n += sources[i].read.Load()
			}
			return n
		}
		var pulled atomic.Int64
		list := iter.Seq[uploader.Input](func(yield func(uploader.Input) bool) {
			for i := range sources {
				pulled.Add(1)
				sources[i].data = data[i:][:size]
				if !yield(pacedInput{&sources[i]}) {
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
		synctest.Wait() // until nothing happens any more
		if n := pulled.Load(); n != transfers+1 {
			t.Errorf("%d inputs were pulled, %d can be sent", n, transfers)
		}
		if n := target.open.Load(); n != transfers {
			t.Errorf("%d shards are open, want %d", n, transfers)
		}
		ahead := read() - pulled.Load()*size - target.taken.Load()
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
		if n := read(); n != 2*inputs*size {
			t.Errorf("%d bytes were read, want each twice", n)
		}
	})
}
