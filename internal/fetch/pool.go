// Package fetch gets the blocks of DAGs from sources that need not be trusted:
// several side by side, in parallel, ahead of a walk and bounded in bytes. What
// it hands out was hashed. Package uploader/gateway is its face to the outside;
// the engine verifies what a target holds by it.
package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
)

var (
	// ErrNotFound means that a source does not know the DAG or block.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable means that retries were used up.
	ErrUnavailable = errors.New("the service could not be reached or kept failing")
)

// Source is where blocks come from. The bytes are checked, whatever it gives.
type Source struct {
	Name  string // in messages
	Block func(ctx context.Context, c cid.Cid, limit int) ([]byte, error)
	// Archive gives all below a block as a CAR, and Range what a part of a file is
	// made of. A source without them is nil there, and slower.
	Archive func(ctx context.Context, c cid.Cid) (io.ReadCloser, error)
	Range   func(ctx context.Context, c cid.Cid, from, to int64) (io.ReadCloser, error)
}

// Options are the knobs of [NewPool]. All of them have to be set.
type Options struct {
	Retries    int           // how often all sources are asked again after all have failed
	AheadBytes int64         // how much each [Reader] fetches ahead, by two requests or more
	Fetches    int           // requests at a time
	Hedge      time.Duration // how long one may take before another source is asked as well
	// Retryable tells whether trying again can help, and how long the source asked
	// to wait.
	Retryable func(error) (bool, time.Duration)
	// Retrying is told of each try after the first.
	Retrying func(c cid.Cid, attempt int, wait time.Duration, err error)
	Logger   *slog.Logger
	Clock    interface {
		Now() time.Time
		Sleep(ctx context.Context, d time.Duration) error
	}
}

// Pool is sources of the same blocks. It is safe for concurrent use.
type Pool struct {
	opts    Options
	members []*member
	unit    int64         // what a part of an archive is
	quick   time.Duration // see quick
	bufs    buffers

	mu      sync.Mutex    // of the members' state and what follows
	typical time.Duration // of a request that succeeded
}

// member is a source, and how it behaves.
type member struct {
	Source
	bare      bool // archives of it are of no use
	rangeless bool // those of ranges are of none
	vain      int  // archives in a row that brought nothing
	gaps      int  // ranges in a row that did not bring all

	busy  int       // requests under way
	fails int       // in a row
	until time.Time // others come first until then
}

func (m *member) any() bool      { return true }
func (m *member) archives() bool { return m.Archive != nil && !m.bare }
func (m *member) ranges() bool   { return m.Range != nil && !m.rangeless }

// NewPool makes a pool of one source or more.
func NewPool(opts Options, sources ...Source) *Pool {
	p := &Pool{opts: opts, unit: min(max(opts.AheadBytes/2>>20, 1)<<20, unitBytes), quick: quick}
	for _, s := range sources {
		p.members = append(p.members, &member{Source: s})
	}
	return p
}

// Block returns the payload of a block. An error matches
// [ErrNotFound] if no source has the block, [car.ErrCorrupt] if those
// that say so have other bytes, [ErrUnavailable] if retries were used
// up.
func (p *Pool) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, err := try(ctx, p, c, p.opts.Retries, (*member).any, func(ctx context.Context, m *member) ([]byte, error) {
		data, err := m.Block(ctx, c, car.MaxBlockBytes)
		if err != nil {
			return nil, err
		}
		bad, err := car.Mismatch([]cid.Cid{c}, [][]byte{data})
		if err == nil && bad >= 0 {
			err = fmt.Errorf("%w: %s has other bytes for block %s", car.ErrCorrupt, m.Name, c)
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
		again, asked, err := p.summary(failures)
		if !again {
			return v, err
		}
		if round > retries {
			return v, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		wait := waits.NextBackOff()
		if asked > 0 {
			wait = max(wait, min(asked, mostAsked)+rand.N(firstWait))
		}
		p.opts.Retrying(c, round, wait, err)
		if err := p.opts.Clock.Sleep(ctx, wait); err != nil {
			return v, err
		}
	}
}

// summary is the most telling one of several errors, and whether trying again
// can help.
func (p *Pool) summary(failures []error) (again bool, asked time.Duration, err error) {
	rank := -1
	for _, e := range failures {
		temporary, after := p.opts.Retryable(e)
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
		case errors.Is(e, ErrNotFound):
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
			late := <-answers
			p.end(late.m)
			if c, ok := any(late.v).(io.Closer); ok && late.err == nil {
				_ = c.Close() // nobody waits for it
			}
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
			p.opts.Logger.Warn("a source failed", "source", a.m.Name, "err", a.err)
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
	if p.typical == 0 {
		p.typical = took
	}
	p.typical += (took - p.typical) / 8
}

// quick is how long a request takes at most, or its first part, where it costs
// more to make many of them than is gained by having several under way.
const quick = 250 * time.Millisecond

// spanBytes is how much of a file one request is for.
func (p *Pool) spanBytes() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.typical > p.quick {
		return p.unit
	}
	return longUnits * p.unit
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
	case errors.Is(err, ErrNotFound): // what it lacks says nothing of the rest
	case errors.Is(err, car.ErrCorrupt):
		m.until = now.Add(lied)
	default:
		m.fails++
		m.until = now.Add(min(firstWait<<min(m.fails, 10), mostWait))
	}
}

// canAny tells whether there is any member with archives, and any with ranges.
func (p *Pool) canAny() (archives, ranges bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		archives = archives || m.archives()
		ranges = ranges || m.ranges()
	}
	return archives, ranges
}

// unable notes that a member's archives, or only those of ranges, are of no use.
func (p *Pool) unable(m *member, ranged bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.rangeless, m.bare = true, m.bare || !ranged
}

// How many archives in a row may bring nothing, and how many ranges not all.
const (
	mostVain = 3
	mostGaps = 16
)

// lacked notes whether a range of a member lacked a block.
func (p *Pool) lacked(m *member, gap bool) {
	p.mu.Lock()
	if m.gaps++; !gap {
		m.gaps = 0
	}
	useless := m.gaps >= mostGaps
	p.mu.Unlock()
	if useless {
		p.unable(m, true)
	}
}

// judge notes how a member did with an archive. One that refuses them has single
// blocks to give, which are quicker then.
func (p *Pool) judge(ctx context.Context, m *member, err error, ranged bool) {
	if again, _ := p.opts.Retryable(err); again || ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	if m.vain++; err == nil {
		m.vain = 0
	}
	vain := m.vain >= mostVain
	p.mu.Unlock()
	if vain {
		p.unable(m, ranged)
	}
}
