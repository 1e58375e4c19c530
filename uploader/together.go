package uploader

import (
	"context"
	"errors"
	"iter"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
)

// Group sends the same inputs to several targets. Each input is described once.
// Each shard is read and hashed once for all targets that are in step; they go
// at the pace of the slowest. A target that keeps the others waiting for too
// long is left behind, and reads what it needs by itself. Upload is for one
// caller at a time; the other methods are safe for concurrent use.
type Group struct {
	uploaders []*Uploader
	fan       *fan
}

// Outcome is the outcome of one input at one target.
type Outcome struct {
	Target Target
	Result
}

// ahead is how many inputs one target may be ahead of another.
const ahead = 16

// NewGroup makes a group of uploaders, one for each target. Nothing else may
// use them from then on. They share what they read if their shard limits are
// equal.
func NewGroup(uploaders ...*Uploader) (*Group, error) {
	if len(uploaders) == 0 {
		return nil, errors.New("a group of no uploaders")
	}
	g := &Group{uploaders: uploaders, fan: newFan(uploaders)}
	for _, u := range uploaders {
		u.fan = g.fan
	}
	return g, nil
}

// Drain calls [Uploader.Drain] for all uploaders.
func (g *Group) Drain() {
	for _, u := range g.uploaders {
		u.Drain()
	}
}

// Progress adds up the counters of all uploaders. Shared work counts once. An
// input is done when all uploaders are done with it.
func (g *Group) Progress() Progress {
	sum := g.uploaders[0].Progress()
	for _, u := range g.uploaders[1:] {
		p := u.Progress()
		sum.BytesHashed = max(sum.BytesHashed, p.BytesHashed)
		sum.BytesToHash = max(sum.BytesToHash, p.BytesToHash)
		sum.BytesSent += p.BytesSent
		sum.BytesToSend += p.BytesToSend
		sum.BytesResent += p.BytesResent
		sum.ShardsDone += p.ShardsDone
		sum.Shards += p.Shards
		sum.ShardsOnTheirWay += p.ShardsOnTheirWay
		sum.BytesOnTheirWay += p.BytesOnTheirWay
		sum.Retries += p.Retries
		sum.InputsDone = min(sum.InputsDone, p.InputsDone)
		sum.Inputs = max(sum.Inputs, p.Inputs)
	}
	return sum
}

// Upload is [Uploader.Upload] for all targets. It yields one outcome for each
// input and target. A failure at one target does not stop the others.
func (g *Group) Upload(ctx context.Context, inputs iter.Seq[Input]) iter.Seq2[Outcome, error] {
	type outcome struct {
		Outcome
		err error
	}
	return func(yield func(Outcome, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		outcomes := make(chan outcome)
		var all errgroup.Group
		// Leave nothing running, even if the caller's loop panics.
		defer func() {
			cancel()
			for range outcomes { // drop what nobody waits for
			}
			_ = all.Wait() // never fails: outcomes carry the errors
		}()
		queues := make([]chan Input, len(g.uploaders))
		var sending sync.WaitGroup
		g.fan.begin(ctx)
		for i, u := range g.uploaders {
			queues[i] = make(chan Input, ahead)
			sending.Add(1)
			all.Go(func() error {
				defer sending.Done()
				defer g.fan.gone(u)
				for r, err := range u.Upload(ctx, received(queues[i])) {
					outcomes <- outcome{Outcome{u.target, r}, err}
				}
				for in := range queues[i] { // those that it did not get to
					_ = in.Close()
				}
				return nil
			})
		}
		all.Go(func() error {
			sending.Wait()
			close(outcomes)
			return nil
		})
		all.Go(func() error {
			hand(ctx, inputs, queues, g.uploaders[0].stopping)
			return nil
		})
		for o := range outcomes {
			if !yield(o.Outcome, o.err) {
				return
			}
		}
	}
}

// received yields the inputs in a queue.
func received(queue <-chan Input) iter.Seq[Input] {
	return func(yield func(Input) bool) {
		for in := range queue {
			if !yield(in) {
				return
			}
		}
	}
}

// hand puts each input into every queue.
func hand(ctx context.Context, inputs iter.Seq[Input], queues []chan Input, stopping func() bool) {
	defer func() {
		for _, q := range queues {
			close(q)
		}
	}()
	for in := range inputs {
		for i, one := range share(in, len(queues)) {
			select {
			case queues[i] <- one:
			case <-ctx.Done():
				_ = one.Close()
			}
		}
		if ctx.Err() != nil || stopping() {
			return
		}
	}
}

// shared is an input that is described once for several uploaders.
type shared struct {
	Input
	users atomic.Int32 // how many have not closed it

	mu  sync.Mutex
	dag DAG
	err error // of Describe
}

// part is one uploader's share of a shared input.
type part struct {
	*shared
	closed *sync.Once
}

// share makes n inputs from one.
func share(in Input, n int) []Input {
	s := &shared{Input: in}
	s.users.Store(int32(n))
	parts := make([]Input, n)
	for i := range parts {
		p := part{s, new(sync.Once)}
		size, sized := in.(Sized)
		_, kept := in.(Cacheable)
		switch {
		case sized && kept:
			parts[i] = struct {
				part
				Sized
				Cacheable
			}{p, size, keptOnce{s}}
		case sized:
			parts[i] = struct {
				part
				Sized
			}{p, size}
		case kept:
			parts[i] = struct {
				part
				Cacheable
			}{p, keptOnce{s}}
		default:
			parts[i] = p
		}
	}
	return parts
}

// Describe implements [Input]. The first call describes; others wait for it.
func (p part) Describe(ctx context.Context, read *atomic.Int64) (DAG, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dag != nil {
		read.Add(p.dag.Size())
	} else if p.err == nil {
		p.dag, p.err = p.Input.Describe(ctx, read)
	}
	return p.dag, p.err
}

// Location implements [Located].
func (p part) Location() string { return location(p.Input) }

// Close implements [Input]. The last call closes the shared input.
func (p part) Close() (err error) {
	p.closed.Do(func() {
		if p.users.Add(-1) == 0 {
			err = p.Input.Close()
		}
	})
	return err
}

// keptOnce restores a shared input once.
type keptOnce struct{ *shared }

// CacheKey implements [Cacheable].
func (k keptOnce) CacheKey() string { return cacheKey(k.Input) }

// Restore implements [Cacheable].
func (k keptOnce) Restore(plan []byte) (dag DAG, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dag != nil {
		return k.dag, nil
	}
	if dag, err = k.Input.(Cacheable).Restore(plan); err == nil {
		k.dag = dag
	}
	return dag, err
}
