// Package fetch gets the blocks of DAGs from untrusted sources: from several at
// once, in parallel, ahead of a walk, and with limited memory. It hashes
// everything that it hands out. Package uploader/gateway offers it to other
// modules, and the engine uses it to verify what a target holds.
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
	// ErrNotFound means that a source does not have the DAG or block.
	ErrNotFound = errors.New("not found")
	// ErrUnavailable means that all retries failed.
	ErrUnavailable = errors.New("the service could not be reached or kept failing")
)

// Source is a source of blocks. What it delivers is always checked.
type Source struct {
	Name  string // for messages
	Block func(ctx context.Context, c cid.Cid, limit int) ([]byte, error)
	// Archive returns everything below a block as a CAR. Range returns the
	// blocks with a part of a file. They may be nil; the source is then slower.
	Archive func(ctx context.Context, c cid.Cid) (io.ReadCloser, error)
	Range   func(ctx context.Context, c cid.Cid, from, to int64) (io.ReadCloser, error)
}

// Options configure [NewPool]. All fields are required.
type Options struct {
	Retries    int           // how often to ask all sources again after all have failed
	AheadBytes int64         // how much each [Reader] fetches ahead, with at least two requests
	Fetches    int           // concurrent requests
	Hedge      time.Duration // how long to wait for one source before asking another as well
	// Retryable reports whether trying again can help, and how long the source
	// asked to wait.
	Retryable func(error) (bool, time.Duration)
	// Retrying is called before each retry.
	Retrying func(c cid.Cid, attempt int, wait time.Duration, err error)
	Logger   *slog.Logger
	Clock    interface {
		Now() time.Time
		Sleep(ctx context.Context, d time.Duration) error
	}
}

// Pool is a set of sources of the same blocks. It is safe for concurrent use.
type Pool struct {
	opts    Options
	members []*member
	unit    int64         // size of a part of an archive
	quick   time.Duration // the constant quick, except in tests
	bufs    buffers

	mu      sync.Mutex    // guards the members' state and the fields below
	typical time.Duration // average duration of successful requests
}

// member is a source, and how it has behaved.
type member struct {
	Source
	bare      bool // don't ask it for archives
	rangeless bool // don't ask it for ranges
	vain      int  // archives in a row that brought nothing
	gaps      int  // ranges in a row that were incomplete

	busy  int       // running requests
	fails int       // failures in a row
	until time.Time // until then, others come first
}

func (m *member) any() bool      { return true }
func (m *member) archives() bool { return m.Archive != nil && !m.bare }
func (m *member) ranges() bool   { return m.Range != nil && !m.rangeless }

// NewPool makes a pool of one or more sources.
func NewPool(opts Options, sources ...Source) *Pool {
	p := &Pool{opts: opts, unit: min(max(opts.AheadBytes/2>>20, 1)<<20, unitBytes), quick: quick}
	for _, s := range sources {
		p.members = append(p.members, &member{Source: s})
	}
	return p
}

// Block returns the payload of a block. The error matches [ErrNotFound] if no
// source has the block, [car.ErrCorrupt] if the sources that have it deliver
// wrong bytes, and [ErrUnavailable] if all retries failed.
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

// errNoSource means that no source supports the request.
var errNoSource = errors.New("no source supports the request")

// The waits between rounds, and how long a source comes last after a failure.
const (
	firstWait = time.Second
	mostWait  = time.Minute
	mostAsked = 5 * time.Minute
	lied      = 10 * time.Minute
	slowed    = 10 * time.Second
)

// try calls f with the suitable members, one after another, until one succeeds.
// If that can help, it waits and tries all of them again, up to the given
// number of times.
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

// summary returns the most informative of several errors, and whether trying
// again can help.
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

// order returns the suitable members in the order in which to ask them.
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

// race calls f with one member. Each time the last one has failed or takes too
// long, it starts another. It returns the first success, or else the errors of
// all. It cancels what is still running, and waits for it.
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
	var slow []*member // those that were started, in order
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
				_ = c.Close() // too late: nobody needs it
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

// patience returns how long a request may take before another source is asked
// as well. If all sources are slow, asking more of them gains nothing.
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

// quick is the duration of a request, or of its first part, up to which making
// many requests costs more than having several in parallel gains.
const quick = 250 * time.Millisecond

// spanBytes returns how much of a file to ask for in one request.
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

// hasFailed reports whether a member comes last at the moment because of a
// failure.
func (p *Pool) hasFailed(m *member) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return m.until.After(p.opts.Clock.Now())
}

// settle records how a member did.
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
	case errors.Is(err, ErrNotFound): // a missing block says nothing about others
	case errors.Is(err, car.ErrCorrupt):
		m.until = now.Add(lied)
	default:
		m.fails++
		m.until = now.Add(min(firstWait<<min(m.fails, 10), mostWait))
	}
}

// canAny reports whether any member has archives, and whether any has ranges.
func (p *Pool) canAny() (archives, ranges bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		archives = archives || m.archives()
		ranges = ranges || m.ranges()
	}
	return archives, ranges
}

// unable records that a member's archives are useless, or only those of ranges.
func (p *Pool) unable(m *member, ranged bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.rangeless, m.bare = true, m.bare || !ranged
}

// How many archives in a row may bring nothing, and how many ranges may be
// incomplete.
const (
	mostVain = 3
	mostGaps = 16
)

// lacked records whether a member's range lacked a block.
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

// judge records how a member did with an archive. If it refuses archives,
// single blocks are quicker.
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
