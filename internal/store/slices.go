package store

import (
	"context"
	"errors"
	"iter"
	"time"
)

// errStopped unwinds work that will not continue in another transaction.
var errStopped = errors.New("stopped between two transactions")

// sliced runs f in as many transactions as it takes. [indexer.pause] ends one
// and begins the next. If f fails after a pause, what it did before stays.
// After, if not nil, is called after each transaction. The end of the context
// matters only where f checks it.
func (st *Store) sliced(ctx context.Context, f func(*indexer) error, after func()) error {
	if st.db.write == nil {
		return ErrReadOnly
	}
	// What has begun must reach a state that can stay.
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

// pause lets others write if the time slice is over. At that moment, everything
// that the index says must be true, even if it is not everything yet.
func (x *indexer) pause() error {
	if x.yield == nil {
		return nil
	}
	spent := time.Since(x.began)
	if x.steps++; x.yields == 0 && x.steps < x.st.turns.steps || spent < x.st.turns.waited || spent < x.st.turns.alone && !x.st.db.write.waited() {
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
