// Package gateway gets DAGs back from places that need not be trusted: the
// trustless gateways of IPFS, and targets that give blocks back.
//
// A [Pool] has one source of blocks or several. It asks them side by side, and
// whatever one of them does wrong (other bytes, too many, none, or slowly) costs
// a try at another one. What it hands out is what was asked for: each block is
// hashed before. A [Reader] fetches ahead of a walk through a DAG, in parallel
// and bounded in bytes.
package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/uploader"
)

// Source is where blocks come from. It may be an [uploader.ArchiveFetcher] and
// an [uploader.RangeFetcher] as well, which is quicker.
type Source interface {
	// String names the source in messages.
	String() string
	uploader.BlockFetcher
}

// Defaults of [Options].
const (
	DefaultRetries    = 5
	DefaultHedge      = 3 * time.Second
	DefaultAheadBytes = 14 << 20 // three requests
)

// Options are the knobs of [NewPool]. The zero value is good.
type Options struct {
	// Retries is how often all sources are asked again after all have failed; 0
	// means DefaultRetries, negative none.
	Retries int
	// AheadBytes is how much each [Reader] fetches ahead, by two requests or
	// more; 0 means DefaultAheadBytes.
	AheadBytes int64
	// Hedge is how long one request may take before another source is asked as
	// well; 0 means DefaultHedge.
	Hedge    time.Duration
	Observer uploader.Observer // is told of retries; nil for none
	Logger   *slog.Logger      // nil for none
	Clock    uploader.Clock    // for waits between tries; nil means that of the machine
}

// Pool is sources of the same blocks. It is safe for concurrent use.
type Pool struct {
	opts    Options
	members []*member
	unit    int64 // what one request is for
	bufs    buffers

	mu      sync.Mutex    // of the members' state and what follows
	typical time.Duration // of a request that succeeded
}

// member is a source, and how it behaves.
type member struct {
	Source
	archives uploader.ArchiveFetcher // nil if it has none, or none that serve
	ranges   uploader.RangeFetcher   // as archives

	busy  int       // requests under way
	fails int       // in a row
	until time.Time // others come first until then
}

// NewPool makes a pool of one source or more.
func NewPool(opts Options, sources ...Source) *Pool {
	switch {
	case opts.Retries == 0:
		opts.Retries = DefaultRetries
	case opts.Retries < 0:
		opts.Retries = 0
	}
	if opts.Hedge == 0 {
		opts.Hedge = DefaultHedge
	}
	if opts.AheadBytes == 0 {
		opts.AheadBytes = DefaultAheadBytes
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Clock == nil {
		opts.Clock = uploader.MachineClock{}
	}
	p := &Pool{opts: opts, unit: min(max(opts.AheadBytes/2>>20, 1)<<20, unitBytes)}
	for _, s := range sources {
		m := &member{Source: s}
		m.archives, _ = s.(uploader.ArchiveFetcher)
		m.ranges, _ = s.(uploader.RangeFetcher)
		p.members = append(p.members, m)
	}
	return p
}

// Block returns the payload of a block. An error matches
// [uploader.ErrNotFound] if no source has the block, [car.ErrCorrupt] if those
// that say so have other bytes, [uploader.ErrUnavailable] if retries were used
// up.
func (p *Pool) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := try(ctx, p, c, p.opts.Retries, func(*member) bool { return true }, func(ctx context.Context, m *member) ([]byte, error) {
		data, err := m.FetchBlock(ctx, c, car.MaxBlockBytes)
		if err != nil {
			return nil, err
		}
		bad, err := car.Mismatch([]cid.Cid{c}, [][]byte{data})
		if err == nil && bad >= 0 {
			err = fmt.Errorf("%w: %s has other bytes for block %s", car.ErrCorrupt, m, c)
		}
		return data, err
	})
	if err != nil {
		return nil, fmt.Errorf("fetch block %s: %w", c, err)
	}
	return data, nil
}

// errNoSource means that no source is able to do what is wanted.
var errNoSource = errors.New("no source for this")

// Waits between rounds, and how long a source that failed comes last.
const (
	firstWait = time.Second
	mostWait  = time.Minute
	mostAsked = 5 * time.Minute
	lied      = 10 * time.Minute
	slowed    = 10 * time.Second
)

// try calls f with the able members, one after the other, until one succeeds;
// and again after a wait while that can help, so many times.
func try[T any](ctx context.Context, p *Pool, c cid.Cid, retries int, able func(*member) bool, f func(context.Context, *member) (T, error)) (v T, err error) {
	waits := backoff.ExponentialBackOff{InitialInterval: firstWait, RandomizationFactor: 1, Multiplier: 2, MaxInterval: mostWait}
	waits.Reset()
	for round := 1; ; round++ {
		members := p.order(able)
		if len(members) == 0 {
			return v, errNoSource
		}
		v, failures := race(ctx, p, members, f)
		if failures == nil {
			return v, nil
		}
		if ctx.Err() != nil {
			return v, context.Cause(ctx)
		}
		again, asked, err := summary(failures)
		if !again {
			return v, err
		}
		if round > retries {
			return v, fmt.Errorf("%w: %w", uploader.ErrUnavailable, err)
		}
		wait := waits.NextBackOff()
		if asked > 0 {
			wait = max(wait, min(asked, mostAsked)+rand.N(firstWait))
		}
		if p.opts.Observer != nil {
			p.opts.Observer.Observe(uploader.Retrying{Name: c.String(), Index: uploader.NoShard, Attempt: round, Wait: wait, Err: err})
		}
		if err := p.opts.Clock.Sleep(ctx, wait); err != nil {
			return v, err
		}
	}
}

// summary is the most telling one of several errors, and whether trying again
// can help.
func summary(failures []error) (again bool, asked time.Duration, err error) {
	rank := -1
	for _, e := range failures {
		temporary, after := uploader.Retryable(e)
		r := 1
		switch {
		case temporary:
			r = 3
			again = true
			if asked == 0 || after < asked {
				asked = after
			}
		case errors.Is(e, car.ErrCorrupt):
			r = 2
		case errors.Is(e, uploader.ErrNotFound):
			r = 0
		}
		if r > rank {
			err, rank = e, r
		}
	}
	return again, asked, err
}

// order is the able members, the one to ask first at the front.
func (p *Pool) order(able func(*member) bool) []*member {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.opts.Clock.Now()
	members := make([]*member, 0, len(p.members))
	for _, m := range p.members {
		if able(m) {
			members = append(members, m)
		}
	}
	slices.SortStableFunc(members, func(a, b *member) int {
		if x := cmp.Compare(max(a.until.Sub(now), 0), max(b.until.Sub(now), 0)); x != 0 {
			return x
		}
		return cmp.Compare(a.busy, b.busy)
	})
	return members
}

// race calls f with one member, with the next one as soon as that has failed or
// takes long, and so on, and returns the first success. Otherwise it returns
// what went wrong at each. What is still under way is cancelled and waited for.
func race[T any](ctx context.Context, p *Pool, members []*member, f func(context.Context, *member) (T, error)) (v T, failures []error) {
	type answer struct {
		m    *member
		v    T
		err  error
		took time.Duration
	}
	ctx, cancel := context.WithCancel(ctx)
	answers := make(chan answer)
	running := 0
	var slow []*member // that were not waited for
	next := func() {
		m := members[0]
		members = members[1:]
		running++
		slow = append(slow, m)
		p.begin(m)
		go func() {
			start := time.Now()
			v, err := f(ctx, m)
			answers <- answer{m, v, err, time.Since(start)}
		}()
	}
	defer func() {
		cancel()
		for ; running > 0; running-- {
			p.end((<-answers).m)
		}
	}()
	patience := p.patience()
	hedge := time.NewTimer(patience)
	defer hedge.Stop()
	next()
	for running > 0 {
		select {
		case <-hedge.C:
			if len(members) > 0 {
				next()
				hedge.Reset(patience)
			}
		case a := <-answers:
			running--
			p.end(a.m)
			if a.err == nil {
				p.settle(a.m, nil)
				p.learn(a.took)
				for _, m := range slow[:slices.Index(slow, a.m)] {
					if !p.hasFailed(m) {
						p.settle(m, errSlow)
					}
				}
				return a.v, nil
			}
			if ctx.Err() != nil {
				return v, append(failures, a.err)
			}
			p.settle(a.m, a.err)
			failures = append(failures, a.err)
			p.opts.Logger.Warn("a source failed", "source", a.m.String(), "err", a.err)
			if running == 0 && len(members) > 0 {
				next()
				hedge.Reset(patience)
			}
		}
	}
	return v, failures
}

// patience is how long a request may take before another source is asked, too.
// Where all are slow, nothing is gained by that.
func (p *Pool) patience() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return max(p.opts.Hedge, 4*p.typical)
}

func (p *Pool) learn(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.typical += (took - p.typical) / 8
}

var errSlow = errors.New("another source was quicker")

func (p *Pool) begin(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.busy++
}

func (p *Pool) end(m *member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.busy--
}

// hasFailed tells whether others come before a member at the moment.
func (p *Pool) hasFailed(m *member) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return m.until.After(p.opts.Clock.Now())
}

// settle notes how a member did.
func (p *Pool) settle(m *member, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.opts.Clock.Now()
	switch {
	case err == nil:
		m.fails = 0
	case errors.Is(err, errSlow):
		m.fails++
		m.until = now.Add(slowed << min(m.fails-1, 5))
	case errors.Is(err, uploader.ErrNotFound): // what it lacks says nothing of the rest
	case errors.Is(err, car.ErrCorrupt):
		m.until = now.Add(lied)
	default:
		m.fails++
		m.until = now.Add(min(firstWait<<min(m.fails, 10), mostWait))
	}
}

// abilities are what a member has besides blocks, each nil if it is of no use.
func (p *Pool) abilities(m *member) (uploader.ArchiveFetcher, uploader.RangeFetcher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return m.archives, m.ranges
}

// canAny tells whether there is any member with archives, and any with ranges.
func (p *Pool) canAny() (archives, ranges bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		archives = archives || m.archives != nil
		ranges = ranges || m.ranges != nil
	}
	return archives, ranges
}

// unable notes that a member's archives, or those of ranges, are of no use.
func (p *Pool) unable(m *member, archives bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.ranges = nil; archives {
		m.archives = nil
	}
}
