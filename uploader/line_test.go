package uploader_test

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/time/rate"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
)

// sharedLine is a target whose line is shared by everything sent over it.
type sharedLine struct {
	limiter *rate.Limiter // nil for a fast one
	took    atomic.Int64
}

func (*sharedLine) String() string { return "slow line" }

func (l *sharedLine) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	const step = 10_000
	body := s.Open(ctx)
	for {
		n, err := io.CopyN(io.Discard, body, step)
		l.took.Add(n)
		if err == nil && l.limiter != nil {
			err = l.limiter.WaitN(ctx, step)
		}
		if err != nil {
			archive, _ := body.CID()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return uploader.Receipt{Root: s.Root, Parts: []cid.Cid{archive}}, errors.Join(err, body.Close())
		}
	}
}

// TestStopOnASlowLine: four shards may be in flight, each of which would take
// ten seconds alone. If the rate limit slows them down, a stop a few seconds
// later loses no more than one shard's worth of what was sent. If the line
// itself is slow, those that can be finished are finished.
func TestStopOnASlowLine(t *testing.T) {
	t.Parallel()
	const shard, bytesPerSecond, leaf = 1_000_000, 100_000, 10_000
	data := memory(randomBytes(12*shard, 5))
	profile := chunker.UnixFSv1()
	profile.ChunkBytes = leaf
	dag, err := chunker.Build(t.Context(), data, chunker.Options{Profile: profile})
	if err != nil {
		t.Fatal(err)
	}
	plan, err := splitter.Split(dag, splitter.Options{MaxShardBytes: shard})
	if err != nil {
		t.Fatal(err)
	}
	for _, limited := range []bool{true, false} {
		for after := time.Second; after < 60*time.Second; after += 7 * time.Second {
			synctest.Test(t, func(t *testing.T) {
				const grace = 12 * time.Second
				target := new(sharedLine)
				var kept atomic.Int64
				opts := uploader.Options{Transfers: 4, MaxShardBytes: shard, Observer: observerFunc(func(e uploader.Event) {
					if s, ok := e.(uploader.ShardSent); ok {
						kept.Add(s.Bytes)
					}
				})}
				if limited {
					opts.BytesPerSecond = bytesPerSecond
				} else {
					target.limiter = rate.NewLimiter(bytesPerSecond, 10_000)
				}
				u := newUploader(t, target, opts)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var way uploader.Progress
				defer time.AfterFunc(after, func() { way = u.Progress(); u.Drain() }).Stop()
				defer time.AfterFunc(after+grace, cancel).Stop()
				start := time.Now()
				_, err := u.Send(ctx, "x", plan)
				if !errors.Is(err, uploader.ErrStopped) && !errors.Is(err, context.Canceled) {
					t.Fatalf("error %v", err)
				}
				done := u.Progress()
				lost := target.took.Load() - kept.Load()
				seconds := time.Since(start).Seconds()
				if sent := float64(target.took.Load()); sent < 0.9*bytesPerSecond*(seconds-1) {
					t.Errorf("%.0f bytes were sent in %.1f s", sent, seconds)
				}
				if limited {
					if lost < 0 || lost > shard || way.ShardsOnTheirWay != 1 {
						t.Errorf("stopped after %s: %d bytes are lost, %d shards were on their way", after, lost, way.ShardsOnTheirWay)
					}
					return
				}
				// The remaining capacity of the line is enough for some of
				// them.
				left := way.BytesOnTheirWay
				if way.ShardsOnTheirWay != 4 {
					t.Fatalf("%+v", way)
				}
				could := way.ShardsDone + int64(grace.Seconds()*bytesPerSecond)/(left/4+2*leaf)
				if done.ShardsDone < min(could, way.ShardsDone+4) {
					t.Errorf("stopped after %s: %d shards are done, %d could be (%+v)", after, done.ShardsDone, could, way)
				}
				if now := u.Progress(); now.ShardsOnTheirWay != 0 || now.BytesOnTheirWay != 0 {
					t.Errorf("%+v", now)
				}
			})
		}
	}
}
