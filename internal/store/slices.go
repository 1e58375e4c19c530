package store

import (
	"context"
	"errors"
	"iter"
	"time"
)

// errStopped unwinds what was to go on in another transaction.
var errStopped = errors.New("stopped between two transactions")

// sliced runs f in as many transactions as it takes: [indexer.pause] ends one and
// begins the next. All that f did before a pause stays when it fails after it.
// After is called after each; nil is nothing. The context counts only where f asks
// for it.
func (st *Store) sliced(ctx context.Context, f func(*indexer) error, after func()) error {
	if st.db.write == nil {
		return ErrReadOnly
	}
	// What has begun is brought to a state that may stay.
	calm := context.WithoutCancel(ctx)
	x := newIndexer(calm, st, nil)
	x.asked = ctx
	var failed error
	next, stop := iter.Pull(func(yield func(struct{}) bool) {
		x.yield = func() bool { return yield(struct{}{}) }
		if failed = f(x); failed == nil {
			failed = x.flush()
		}
	})
	defer stop()
	for more := true; more; {
		err := st.db.write.do(&job{ctx: calm, patient: x.yields > 0}, func(tx *tx) error {
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
	if err := x.flush(); err != nil {
		return err
	}
	x.yields++
	if !x.yield() {
		return errStopped
	}
	return nil
}
