package walk

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"
)

const (
	// pauseTime is how long a writer may take for a piece before others that
	// wait may have what the walk holds.
	pauseTime = 50 * time.Millisecond

	// asideBytes is what a walk that is set aside holds in any case: a piece,
	// and what the goroutines and the connection of a request have.
	asideBytes = 128 << 10
)

// room is where walks are at work, so many at a time. One whose writer stands
// still is set aside when others wait: it gives up its place and what it has
// read, and reads that again when it goes on.
type room struct {
	memory *memory
	hangUp func(context.Context)

	mu      sync.Mutex
	free    int                  // guarded by mu
	within  map[*Stream]struct{} // guarded by mu
	waiting list.List            // guarded by mu; of *waiter
	aside   list.List            // guarded by mu; of *Stream, the one that stands still for longest first
	left    int64                // guarded by mu; bytes that those aside may have beyond what they have
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
			case <-w.ready: // Close gives it back
			default:
				r.waiting.Remove(e)
			}
			return fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx))
		}
	}
}

// admit gives a place to a walk. The room is locked, as it is for what follows.
func (r *room) admit(s *Stream) {
	r.within[s] = struct{}{}
	s.placed = true
	s.state.Store(working)
}

// vacate gives the place of a walk to the one that waits for longest.
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

// find tries until it succeeds or there is nothing to be had from others.
func (r *room) find(try func() bool) bool {
	for !try() {
		if !r.reclaim() {
			return false
		}
	}
	return true
}

// reclaim sets the walk aside whose writer stands still for longest. It returns
// false if none does.
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

// shed ends those that stand still for longest, if all have too much.
func (r *room) shed() {
	for r.left < 0 && r.aside.Len() > 0 {
		s := r.aside.Remove(r.aside.Front()).(*Stream)
		s.line, s.ended = nil, true
		s.charge(-s.spent)
		s.hangUp()
	}
}

// settle gives back what a walk that stands still has read ahead, once nobody
// is reading. What it has to remember counts as that of those set aside.
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

// charge counts bytes as those of a walk that is set aside.
func (s *Stream) charge(n int64) {
	s.spent += n
	s.r.room.left -= n
}

// drop gives back the buffer of a batch, which is to be read again, and returns
// how much of it stays.
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
		return fmt.Errorf("its reader stood still: %w", ErrBusy)
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

// recount has a walk count again as one that is not set aside.
func (s *Stream) recount() {
	s.charge(-s.spent)
	s.r.memory.left.take(s.lent)
	s.lent = 0
}

// forget takes a walk that ends from among those set aside. Nobody touches what
// it has from then on.
func (r *room) forget(s *Stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.line != nil {
		r.aside.Remove(s.line)
		s.line = nil
	}
	s.recount()
}

// leave gives back what a walk has in the room.
func (r *room) leave(s *Stream) {
	r.forget(s)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.vacate(s)
}
