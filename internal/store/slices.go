package store

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
)

// turns say for how long one upload may hold the index before others get their
// turn.
type turns struct {
	waited time.Duration // if others wait
	alone  time.Duration // if none do, so that what is done gets to the disk
	steps  int           // that are taken at least: small shards are known at once, or not at all
	// between is called while the index is given up; nil but in tests.
	between func()
}

var defaultTurns = turns{waited: 20 * time.Millisecond, alone: 500 * time.Millisecond, steps: 4}

// errStopped unwinds what was to go on in another transaction.
var errStopped = errors.New("stopped between two transactions")

// sliced runs f in as many transactions as it takes: [indexer.pause] ends one and
// begins the next. All that f did before a pause stays when it fails after it.
// After is called after each; nil is nothing. The context counts only where f asks
// for it.
func (st *Store) sliced(ctx context.Context, f func(*indexer) error, after func()) error {
	// What has begun is brought to a state that may stay.
	calm := context.WithoutCancel(ctx)
	x := newIndexer(calm, st, nil)
	x.asked = ctx
	var failed error
	next, stop := iter.Pull(func(yield func(struct{}) bool) {
		x.yield = func() bool { return yield(struct{}{}) }
		failed = f(x)
	})
	defer stop()
	for more := true; more; {
		err := st.db.update(calm, func(tx *tx) error {
			x.tx, x.began, x.steps = tx, time.Now(), 0
			if _, more = next(); more {
				return nil
			}
			return failed
		})
		if err != nil {
			return err
		}
		if after != nil {
			after()
		}
		if more && st.turns.between != nil {
			st.turns.between()
		}
	}
	return nil
}

// pause lets others write if the slice is over. What the index says must be true
// at that moment, if less than all that is.
func (x *indexer) pause() error {
	if x.yield == nil {
		return nil
	}
	spent := time.Since(x.began)
	if x.steps++; x.steps < x.st.turns.steps || spent < x.st.turns.waited || spent < x.st.turns.alone && !x.st.db.write.waited() {
		return nil
	}
	if x.yields == 0 && x.deferred != nil {
		if err := x.deferred(x); err != nil {
			return err
		}
	}
	x.yields++
	if !x.yield() {
		return errStopped
	}
	return nil
}

// named are locks by the CIDs of shards. The zero value is ready for use.
type named struct {
	mu   sync.Mutex
	held map[string]*nameLock // guarded by mu
}

type nameLock struct {
	mu    sync.Mutex
	users int // guarded by named.mu
}

// lock waits for its turn, and returns what ends that.
func (n *named) lock(c cid.Cid) (unlock func()) {
	key := c.KeyString()
	n.mu.Lock()
	if n.held == nil {
		n.held = make(map[string]*nameLock)
	}
	l := n.held[key]
	if l == nil {
		l = new(nameLock)
		n.held[key] = l
	}
	l.users++
	n.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		n.mu.Lock()
		defer n.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(n.held, key)
		}
	}
}
