package sha256mb

import (
	"runtime"
	"slices"
	"sync"
)

// poolMin is the least write, in bytes, that is worth a rendezvous: waking a
// goroutine costs as much as hashing a few KiB alone.
const poolMin = 8 << 10

// Pool shares lanes between goroutines that each feed one running hash. The
// zero value is ready to use.
//
// It has no goroutine of its own. The first who waits for a write leads: it
// runs its own and whatever else was started, and others who wait meanwhile
// sleep. When its own is done it hands the lead to one of them. Sum takes writes
// along as well.
type Pool struct {
	mu      sync.Mutex
	waiting []*Write // not in a lane, in order of arrival, or of progress for those put back
	leaders int      // while there is none, no owner of a write in waiting sleeps
	spare   []*Write
}

// Write is a write that was started.
type Write struct {
	update
	pool  *Pool     // nil if there is nothing to wait for
	awake bool      // its owner does not wait yet, and can't be woken to lead
	wake  chan bool // true: take the lead; false: done
}

var done = new(Write)

// Write adds data to d and returns when that is done. Calls made at the same
// time by other goroutines, for other digests, are advanced together.
func (p *Pool) Write(d *Digest, data []byte) { p.Start(d, data).Wait() }

// Start begins to add data to d. The caller must not touch either before Wait
// of what it returns; in between others may have done the work. So the more a
// caller does before it waits, the more writes share the lanes.
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

// Wait returns when the write is done. It is called once.
func (w *Write) Wait() {
	p := w.pool
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	w.awake = false
	at := slices.Index(p.waiting, w)
	// Callers that fill a set of lanes by themselves need not wait for the
	// leader that is at work.
	if at >= 0 && (p.leaders == 0 || len(p.waiting) >= current().width && p.leaders < runtime.GOMAXPROCS(0)) {
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
	// One token: the wake-up is sent under the lock and must not block.
	return &Write{pool: p, wake: make(chan bool, 1)}
}

// lead runs own and, beside it, what is waiting. It returns when own is done
// and the lead is with another caller or with none. It is called with p.mu
// held, and lets go of it while it hashes.
func (p *Pool) lead(own *Write) {
	crew := [maxLanes]*Write{own}
	plan := current()
	n := 1
	for {
		took := copy(crew[n:plan.width], p.waiting)
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
		p.leaders-- // the owners of the rest will lead when they come to wait
	}
}

// settle keeps the writes that are not done, and returns how many. It tells the
// owners of the others, but for that of own.
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

// handOver gives the lead to an owner who sleeps, if there is one.
func (p *Pool) handOver() bool {
	next := slices.IndexFunc(p.waiting, func(w *Write) bool { return !w.awake })
	if next < 0 {
		return false
	}
	p.waiting[next].wake <- true
	p.waiting = slices.Delete(p.waiting, next, next+1)
	return true
}

// Sum is the function [Sum] in the company of writes that were started. Streams
// are rarely as many at a time as there are lanes, but messages come in batches
// and fill what streams leave. Of a nil Pool it is Sum alone.
func (p *Pool) Sum(out [][Size]byte, msgs [][]byte) {
	if pl := current(); pl.width > 0 && len(msgs) > 0 {
		sum(pl, p, out, msgs)
		return
	}
	Sum(out, msgs)
}

// share lets go of those of n guests that are done, and takes others along: no
// more than there is room for, beside so many messages in so many lanes. With no
// message left it parts from all. It returns how many there are then.
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

// goodCompany is how many streams, of so many that could, go along with messages
// of equal length, so that as few lanes as can be are idle meanwhile: two go
// along with four messages in four lanes, but one does not. That would be
// three messages, and then one.
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

// run advances the writes of a crew until one of them is done, and no further
// than maxStep, so that newcomers get into free lanes soon.
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
