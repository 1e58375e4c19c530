package walk

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// pauseTime is how long a writer may take for a piece. After that, the walk
	// may have to give what it holds to others that wait.
	pauseTime = 50 * time.Millisecond

	// asideBytes is the least that a suspended walk holds: a piece, and the
	// memory of the request's goroutines and connection.
	asideBytes = 128 << 10
)

// room limits how many walks are active at a time. If others wait, it suspends
// a walk whose writer is stalled ("sets it aside"): the walk gives up its place
// and the blocks it has read, and reads them again when the writer goes on.
type room struct {
	memory *memory
	hangUp func(context.Context)

	mu      sync.Mutex
	free    int                  // guarded by mu
	within  map[*Stream]struct{} // guarded by mu
	waiting list.List            // guarded by mu; of *waiter
	aside   list.List            // guarded by mu; of *Stream, longest stalled first
	left    int64                // guarded by mu; bytes that suspended walks may hold in addition
}

type waiter struct {
	s     *Stream
	ready chan struct{}
}

func newRoom(m *memory, opts Options) *room {
	r := &room{memory: m, hangUp: opts.HangUp, free: opts.Walks, left: opts.Aside, within: make(map[*Stream]struct{})}
	if r.hangUp == nil {
		r.hangUp = func(context.Context) {}
	}
	return r
}

// enter waits for a place.
func (r *room) enter(ctx context.Context, s *Stream) error {
	r.mu.Lock()
	if r.free > 0 {
		r.free--
		r.admit(s)
		r.mu.Unlock()
		return nil
	}
	w := &waiter{s, make(chan struct{})}
	e := r.waiting.PushBack(w)
	r.mu.Unlock()
	tick := time.NewTicker(pauseTime)
	defer tick.Stop()
	for r.reclaim() {
		select {
		case <-w.ready:
			return nil
		default:
		}
	}
	for {
		select {
		case <-w.ready:
			return nil
		case <-tick.C:
			r.reclaim()
		case <-ctx.Done():
			r.mu.Lock()
			defer r.mu.Unlock()
			select {
			case <-w.ready: // Close will give the place back
			default:
				r.waiting.Remove(e)
			}
			return fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
		}
	}
}

// admit gives a place to a walk. The caller holds r.mu, as for the methods
// below unless they lock it themselves.
func (r *room) admit(s *Stream) {
	r.within[s] = struct{}{}
	s.placed = true
	s.state.Store(working)
}

// vacate passes the place of a walk on to the one that has waited longest.
func (r *room) vacate(s *Stream) {
	if !s.placed {
		return
	}
	s.placed = false
	delete(r.within, s)
	e := r.waiting.Front()
	if e == nil {
		r.free++
		return
	}
	w := r.waiting.Remove(e).(*waiter)
	r.admit(w.s)
	close(w.ready)
}

// find calls try until it succeeds, or until no more walk can be suspended to
// free memory.
func (r *room) find(try func() bool) bool {
	for !try() {
		if !r.reclaim() {
			return false
		}
	}
	return true
}

// reclaim suspends the walk whose writer has been stalled longest. It returns
// false if there is none.
func (r *room) reclaim() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var slowest *Stream
	before := time.Now().Add(-pauseTime).UnixNano()
	for s := range r.within {
		if t := s.since.Load(); t <= before && s.state.Load() == handing {
			slowest, before = s, t
		}
	}
	if slowest == nil || !slowest.state.CompareAndSwap(handing, standing) {
		return false
	}
	s := slowest
	if s.current != nil && !s.direct {
		s.drop(s.current)
	}
	s.charge(asideBytes)
	s.line = r.aside.PushBack(s)
	if !s.reading {
		s.settle()
	}
	r.vacate(s)
	r.shed()
	return true
}

// shed ends the longest stalled walks while all suspended walks together hold
// too much.
func (r *room) shed() {
	for r.left < 0 && r.aside.Len() > 0 {
		s := r.aside.Remove(r.aside.Front()).(*Stream)
		s.line, s.ended = nil, true
		s.charge(-s.spent)
		s.hangUp()
	}
}

// settle releases what a suspended walk has read ahead, once no read is under
// way. Memory that it must keep is charged to the suspended walks instead.
func (s *Stream) settle() {
	kept := int64(s.held)
	if s.first != nil {
		kept += s.drop(s.first)
	}
	if s.current != nil && s.direct && s.current.buf.charge == 0 {
		kept += int64(len(s.current.buf.p))
	}
	if s.lent = s.charged + s.plan.charge(); s.lent > 0 {
		s.r.memory.left.give(s.lent)
	}
	s.charge(kept + s.lent)
}

// charge adds n bytes to what the walk holds as a suspended one.
func (s *Stream) charge(n int64) {
	s.spent += n
	s.r.room.left -= n
}

// drop releases the buffer of a batch. Its blocks will have to be read again.
// It returns how many bytes outside the buffer stay.
func (s *Stream) drop(b *batch) (kept int64) {
	for i := range b.steps {
		st := &b.steps[i]
		switch {
		case st.place < 0:
			kept += int64(len(st.part))
		case st.part != nil:
			st.part, st.gone = nil, true
		}
	}
	s.release(b)
	return kept
}

// resume takes a place again after the writer went on.
func (s *Stream) resume(ctx context.Context) error {
	r := s.r.room
	r.mu.Lock()
	if s.ended {
		r.mu.Unlock()
		return fmt.Errorf("the reader was stalled: %w", ErrBusy)
	}
	r.aside.Remove(s.line)
	s.line = nil
	r.mu.Unlock()
	if err := r.enter(ctx, s); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.recount()
	return nil
}

// recount moves the walk's memory from the suspended walks' account back to the
// active ones'.
func (s *Stream) recount() {
	s.charge(-s.spent)
	s.r.memory.left.take(s.lent)
	s.lent = 0
}

// forget removes a walk that is ending from the suspended ones. After that,
// nobody else touches what it holds.
func (r *room) forget(s *Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.line != nil {
		r.aside.Remove(s.line)
		s.line = nil
	}
	s.recount()
}

// leave gives up everything that a walk has in the room.
func (r *room) leave(s *Stream) {
	r.forget(s)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.vacate(s)
}
