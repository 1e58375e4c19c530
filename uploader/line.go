package uploader

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// line is shared by all shards in flight. Under a rate limit it keeps only a
// few in flight: if all were, none would be finished for a long time, and an
// unfinished shard is lost when the upload stops. After a stop, it sends shards
// one by one, and first the one with the fewest bytes left.
type line struct {
	limiter  *rate.Limiter       // nil for no limit
	room     *semaphore.Weighted // for bytes of shards in flight; nil for no limit
	most     int64               // size of room
	draining context.Context     //nolint:containedctx // of the Uploader; done after Drain

	mu      sync.Mutex
	open    map[*body]*way
	changed chan struct{} // closed and replaced when a body is done
}

// way is the progress of a body.
type way struct {
	left    int64     // bytes still to send
	moved   time.Time // when it last moved
	waiting bool      // for its turn
	leave   func()
}

const (
	// lineTime is how much may be in flight under a rate limit, as time: enough
	// to keep the line busy while a service processes a shard. While one shard
	// takes longer than that, it is alone.
	lineTime = 5 * time.Second
	// stuckAfter is how long a body may stand still before others overtake it.
	stuckAfter = 3 * time.Second
	// mostTurn is how long a body waits for its turn before it moves a little,
	// so that it is not taken for dead.
	mostTurn = 15 * time.Second
)

func newLine(draining context.Context, bytesPerSecond int64) *line {
	l := &line{draining: draining, open: map[*body]*way{}, changed: make(chan struct{})}
	if n := bytesPerSecond; n > 0 {
		// A burst of a tenth of a second keeps the rate smooth.
		l.limiter = rate.NewLimiter(rate.Limit(n), int(min(max(n/10, leastRate), 4<<20)))
		l.most = n * int64(lineTime/time.Second)
		l.room = semaphore.NewWeighted(l.most)
	}
	return l
}

// enter waits until there is room for a shard. leave may be called more than
// once.
func (l *line) enter(ctx context.Context, size int64) (leave func(), err error) {
	if l.room == nil {
		return func() {}, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.draining, func() { cancel(ErrStopped) })()
	size = min(size, l.most)
	if err := l.room.Acquire(ctx, size); err != nil {
		return nil, context.Cause(ctx)
	}
	return sync.OnceFunc(func() { l.room.Release(size) }), nil
}

// begin adds a body, until done removes it. leave is called after its last
// byte.
func (l *line) begin(b *body, size int64, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[b] = &way{left: size, moved: time.Now(), leave: leave}
}

func (l *line) done(b *body) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(b)
}

func (l *line) remove(b *body) {
	if _, ok := l.open[b]; ok {
		delete(l.open, b)
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// step returns how many of n bytes may go at once.
func (l *line) step(n int) int {
	if l.limiter != nil {
		return min(n, l.limiter.Burst())
	}
	return n
}

// moved counts n bytes of a body, and waits until more may go.
func (l *line) moved(b *body, n int) error {
	l.mu.Lock()
	if w, ok := l.open[b]; ok {
		w.left -= int64(n)
		w.moved = time.Now()
		if w.left <= 0 {
			w.leave()
			l.remove(b)
		}
	}
	l.mu.Unlock()
	if l.limiter != nil {
		if err := l.limiter.WaitN(b.ctx, n); err != nil {
			return err
		}
	}
	if l.draining.Err() == nil {
		return nil
	}
	return l.turn(b)
}

// turn waits until no other body has fewer bytes left than b.
func (l *line) turn(b *body) error {
	limit := time.NewTimer(mostTurn)
	defer limit.Stop()
	for {
		first, changed := l.isFirst(b)
		if first {
			return nil
		}
		again := time.NewTimer(stuckAfter)
		select {
		case <-changed:
		case <-again.C:
		case <-limit.C:
			first = true
		case <-b.ctx.Done():
			again.Stop()
			return context.Cause(b.ctx)
		}
		again.Stop()
		if first {
			l.goes(b)
			return nil
		}
	}
}

func (l *line) goes(b *body) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w, ok := l.open[b]; ok {
		w.waiting = false
	}
}

// isFirst reports whether it is b's turn. If not, changed is closed when that
// may have changed.
func (l *line) isFirst(b *body) (first bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	mine, ok := l.open[b]
	if !ok {
		return true, nil // it has nothing left to send
	}
	for other, w := range l.open {
		ahead := w.left < mine.left || w.left == mine.left && other.shard.Index < b.shard.Index
		if other != b && ahead && (w.waiting || time.Since(w.moved) < stuckAfter) {
			mine.waiting = true
			return false, l.changed
		}
	}
	mine.waiting = false
	return true, nil
}

// left returns how many shards are in flight, and how many of their bytes are
// still to be sent.
func (l *line) left() (shards, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.open {
		shards++
		bytes += w.left
	}
	return shards, bytes
}
