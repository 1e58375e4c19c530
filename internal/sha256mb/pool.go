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
// sleep. When its own is done it hands the lead to one of them.
type Pool struct {
	mu      sync.Mutex
	waiting []*Write // not in a lane, in order of arrival, or of progress for those put back
	leaders int
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

		kept := 0
		for _, w := range crew[:n] {
			switch {
			case !w.idle():
				crew[kept] = w
				kept++
			case w != own:
				w.wake <- false
			}
		}
		n = kept
		if own.idle() {
			break
		}
	}
	p.waiting = slices.Insert(p.waiting, 0, crew[:n]...)
	next := slices.IndexFunc(p.waiting, func(w *Write) bool { return !w.awake })
	if next < 0 {
		p.leaders-- // the owners of the rest will lead when they come to wait
		return
	}
	p.waiting[next].wake <- true
	p.waiting = slices.Delete(p.waiting, next, next+1)
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
