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
// It has no goroutine of its own. The first caller leads: it runs its own
// write and those of the callers that come meanwhile, who sleep. When its own
// is done it hands the lead to one of them.
type Pool struct {
	mu      sync.Mutex
	waiting []*write // in order of arrival, or of progress for those put back
	leaders int
	spare   []*write
}

// write is one call of Pool.Write.
type write struct {
	update
	wake chan bool // true: take the lead; false: done
}

// Write adds data to d and returns when that is done. Calls made at the same
// time by other goroutines, for other digests, are advanced together.
func (p *Pool) Write(d *Digest, data []byte) {
	if active == portable || len(data) < poolMin {
		d.Write(data)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	w := p.take()
	w.begin(d, data)
	// Callers that fill a set of lanes by themselves need not wait for the
	// leader that is at work.
	if p.leaders == 0 || len(p.waiting)+1 >= maxLanes && p.leaders < runtime.GOMAXPROCS(0) {
		p.leaders++
		p.lead(w)
	} else {
		p.waiting = append(p.waiting, w)
		p.mu.Unlock()
		lead := <-w.wake
		p.mu.Lock()
		if lead {
			p.lead(w)
		}
	}
	p.spare = append(p.spare, w)
}

func (p *Pool) take() *write {
	if n := len(p.spare); n > 0 {
		w := p.spare[n-1]
		p.spare = p.spare[:n-1]
		return w
	}
	// One token: the wake-up is sent under the lock and must not block.
	return &write{wake: make(chan bool, 1)}
}

// lead runs own and, beside it, what is waiting. It returns when own is done
// and the lead is with another caller or with none. It is called with p.mu
// held, and lets go of it while it hashes.
func (p *Pool) lead(own *write) {
	crew := [maxLanes]*write{own}
	n := 1
	for {
		took := copy(crew[n:], p.waiting)
		n += took
		p.waiting = slices.Delete(p.waiting, 0, took)

		p.mu.Unlock()
		run(crew[:n])
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
	if len(p.waiting) == 0 {
		p.leaders--
		return
	}
	p.waiting[0].wake <- true
	p.waiting = slices.Delete(p.waiting, 0, 1)
}

// run advances the writes of a crew until one of them is done, and no further
// than maxStep, so that newcomers get into free lanes soon.
func run(crew []*write) {
	var lanes [maxLanes]*stream
	for i, w := range crew {
		lanes[i] = &w.stream
	}
	for left := maxStep; left > 0; {
		left -= advance(&lanes, left)
		for _, w := range crew {
			if w.idle() {
				w.finish()
				left = 0
			}
		}
	}
}
