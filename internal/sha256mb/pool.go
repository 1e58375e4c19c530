package sha256mb

import (
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
// the new number of guests.
func (p *Pool) share(guests *[maxLanes]*Write, n, room, messages, width int) int {
	for _, w := range guests[:n] {
		if w.idle() {
			w.finish()
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n = settle(guests[:n], nil)
	if messages > 0 {
		most := goodCompany(messages, min(room, n+len(p.waiting)), width)
		took := copy(guests[n:max(n, most)], p.waiting)
		p.waiting = slices.Delete(p.waiting, 0, took)
		return n + took
	}
	p.waiting = slices.Insert(p.waiting, 0, guests[:n]...)
	if p.leaders == 0 && p.handOver() {
		p.leaders++
	}
	return 0
}

// goodCompany returns how many of the available streams should run beside
// messages of equal length so that the fewest lanes are idle. With four lanes
// and four messages, two streams are good: the messages take two turns in two
// lanes. One stream is not: the messages would take one turn of three, and then
// one of a single message.
func goodCompany(messages, streams, width int) int {
	best, least := 0, 1.0
	for n := 0; n <= min(streams, width-1); n++ {
		turns := (messages + width - n - 1) / (width - n)
		idle := 1 - float64(messages+n*turns)/float64(width*turns)
		if idle <= max(least, 1./16) {
			best, least = n, min(idle, least)
		}
	}
	return best
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
