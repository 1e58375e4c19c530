package sha256mb

import (
	"math"
	"runtime"
	"slices"
	"sync"
)

// poolMin is the least write, in bytes, that is worth sharing lanes for: waking
// a goroutine costs as much as hashing a few KiB alone.
const poolMin = 8 << 10

// Pool shares lanes between goroutines that each feed one running hash. The
// zero value is ready to use.
//
// A pool has no goroutine of its own. The first caller that waits for its write
// becomes the leader: it runs its own write together with others that were
// started. Callers that wait meanwhile sleep. When the leader's write is done,
// it hands the lead to one of them. Sum also runs started writes beside its own
// messages.
type Pool struct {
	mu      sync.Mutex
	waiting []*Write // writes not in a lane: in order of arrival, but those put back come first
	leaders int      // while this is 0, no owner of a waiting write sleeps
	spare   []*Write
}

// Write is a write that was started with [Pool.Start].
type Write struct {
	update
	pool  *Pool     // nil if the write is already done
	awake bool      // the owner does not wait yet, so it can't be woken to lead
	wake  chan bool // true: take the lead; false: done
}

var done = new(Write)

// Write adds data to d and returns when it is hashed. Concurrent calls for
// other digests are hashed together.
func (p *Pool) Write(d *Digest, data []byte) { p.Start(d, data).Wait() }

// Start begins to add data to d. The caller must not touch d or data until Wait
// of the returned Write has returned. Other callers may do the work in the
// meantime, so the more a caller does before it waits, the more writes share
// the lanes.
func (p *Pool) Start(d *Digest, data []byte) *Write {
	if current().width == 0 || len(data) < poolMin {
		_, _ = d.Write(data)
		return done
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.take()
	w.begin(d, data)
	w.awake = true
	p.waiting = append(p.waiting, w)
	return w
}

// Wait returns when the write is done. Call it once.
func (w *Write) Wait() {
	p := w.pool
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) < current().crew() && p.leaders == 0 {
		// Whoever is about to start a write, or to call Sum, goes first: alone,
		// this write would leave lanes empty.
		p.mu.Unlock()
		runtime.Gosched()
		p.mu.Lock()
	}
	w.awake = false
	at := slices.Index(p.waiting, w)
	// If there are enough waiting writes for another leader, start one rather
	// than wait for the present one.
	if at >= 0 && (p.leaders == 0 || len(p.waiting) >= current().crew() && p.leaders < runtime.GOMAXPROCS(0)) {
		p.waiting = slices.Delete(p.waiting, at, at+1)
		p.leaders++
		p.lead(w)
	} else {
		p.mu.Unlock()
		lead := <-w.wake
		p.mu.Lock()
		if lead {
			p.lead(w)
		}
	}
	p.spare = append(p.spare, w)
}

func (p *Pool) take() *Write {
	if n := len(p.spare); n > 0 {
		w := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return w
	}
	// The capacity of one keeps the wake-up, which is sent under the lock, from
	// blocking.
	return &Write{pool: p, wake: make(chan bool, 1)}
}

// crewLanes is the most streams that a leader takes. If it took more, it would
// leave other cores without work.
const crewLanes = 4

// crew returns how many streams a leader takes on this machine.
func (p *plan) crew() int { return p.advance[crewLanes] }

// lead runs own, together with waiting writes. It returns when own is done and
// another caller leads, or none does. It must be called with p.mu held, and
// releases p.mu while it hashes.
func (p *Pool) lead(own *Write) {
	crew := [crewLanes]*Write{own}
	plan := current()
	n := 1
	for {
		took := copy(crew[n:plan.crew()], p.waiting)
		n += took
		p.waiting = slices.Delete(p.waiting, 0, took)

		p.mu.Unlock()
		plan.run(crew[:n])
		p.mu.Lock()

		n = settle(crew[:n], own)
		if own.idle() {
			break
		}
	}
	p.waiting = slices.Insert(p.waiting, 0, crew[:n]...)
	if !p.handOver() {
		p.leaders-- // the owners of the remaining writes will lead when they call Wait
	}
}

// settle keeps the writes that are not done, and returns their number. It wakes
// the owners of the others, except the owner of own.
func settle(crew []*Write, own *Write) int {
	kept := 0
	for _, w := range crew {
		switch {
		case !w.idle():
			crew[kept] = w
			kept++
		case w != own:
			w.wake <- false
		}
	}
	return kept
}

// handOver gives the lead to an owner who sleeps. It returns false if there is
// none.
func (p *Pool) handOver() bool {
	next := slices.IndexFunc(p.waiting, func(w *Write) bool { return !w.awake })
	if next < 0 {
		return false
	}
	p.waiting[next].wake <- true
	p.waiting = slices.Delete(p.waiting, next, next+1)
	return true
}

// Sum is like the function [Sum], but shares its lanes with writes that were
// started. There are rarely as many streams at a time as there are lanes;
// messages come in batches and can fill the rest. On a nil Pool it is just Sum.
func (p *Pool) Sum(out [][Size]byte, msgs [][]byte) {
	if pl := current(); pl.width > 0 && len(msgs) > 0 {
		sum(pl, p, out, msgs)
		return
	}
	Sum(out, msgs)
}

// share lets go of those of the n guests that are done, and takes in waiting
// writes instead: at most room of them in all, and only as many as go well with
// the messages. When no message is left, it puts all guests back. It returns
// the new number of guests, and how many messages should be in lanes at once.
func (p *Pool) share(pl *plan, guests *[maxLanes]*Write, n, room, messages int) (_, lanes int) {
	for _, w := range guests[:n] {
		if w.idle() {
			w.finish()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n = settle(guests[:n], nil)
	if messages > 0 {
		most, lanes := pl.company(messages, n+len(p.waiting))
		took := copy(guests[n:max(n, min(most, room))], p.waiting)
		p.waiting = slices.Delete(p.waiting, 0, took)
		return n + took, lanes
	}
	p.waiting = slices.Insert(p.waiting, 0, guests[:n]...)
	if p.leaders == 0 && p.handOver() {
		p.leaders++
	}
	return 0, 0
}

// company returns how many of the available streams should run beside messages
// of equal length, and how many of the messages at a time, for the least time
// in all. The streams have to be hashed anyway. If they wait, others may have
// come by then, or none, so company reckons with the mean of both. A stream
// that might be alone later is worth that messages wait for their turn.
func (p *plan) company(messages, available int) (streams, lanes int) {
	later := 0.
	if n := min(available, p.crew()); n > 0 {
		later = (p.least[n]/float64(n) + p.least[p.crew()]/float64(p.crew())) / 2
	}
	least := math.Inf(1)
	for s := 0; s <= available && s < p.width; s++ {
		for m := 1; m <= messages && m <= p.width-s; m++ {
			turns, rest := messages/m, messages%m
			d := float64(turns) * p.least[s+m]
			if rest > 0 {
				turns++
				d += p.least[s+rest]
			}
			if d -= float64(s*turns) * later; d < least {
				least, streams, lanes = d, s, m
			}
		}
	}
	return streams, lanes
}

// run advances the writes of a crew until one of them is done, or by maxStep
// blocks, so that new writes get into free lanes soon.
func (p *plan) run(crew []*Write) {
	var lanes [maxLanes]*stream
	for i, w := range crew {
		lanes[i] = &w.stream
	}
	for left := maxStep; left > 0; {
		left -= p.move(&lanes, left)
		for _, w := range crew {
			if w.idle() {
				w.finish()
				left = 0
			}
		}
	}
}
