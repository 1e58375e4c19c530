package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/carload/carload/internal/walk"
)

// Limits on the memory of replies that boxo makes: blocks, tar files, and archives
// of other codecs. Package walk limits the memory of walks.
const (
	unsentBytes = 200 << 20 // of all these replies
	tarBytes    = 20 << 20  // boxo reads ten blocks ahead for a tar file
	unsentWait  = 5 * time.Second
	unsentTick  = 50 * time.Millisecond
)

// hold reserves memory for bytes of a reply. If all replies together hold too
// much, a reply that has not begun waits, while the gateway hangs up on clients
// that have stopped reading.
func (x *exchange) hold(ctx context.Context, n int64) error {
	if x.g == nil || x.tryHold(n) {
		return nil
	}
	tick := time.NewTicker(unsentTick)
	defer tick.Stop()
	late := time.NewTimer(unsentWait)
	defer late.Stop()
	for {
		x.g.makePlace(func(o *reply) bool { return o.x.held > 0 })
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-late.C:
			return fmt.Errorf("too much waits to be sent: %w", walk.ErrBusy)
		}
		if x.tryHold(n) {
			return nil
		}
	}
}

func (x *exchange) tryHold(n int64) bool {
	x.g.mu.Lock()
	defer x.g.mu.Unlock()
	if x.g.unsent < n && x.held == 0 && x.budget.sent.Load() == 0 {
		return false
	}
	x.g.unsent -= n
	x.held += n
	return true
}

// release counts bytes that were sent.
func (x *exchange) release(n int64) {
	x.g.mu.Lock()
	defer x.g.mu.Unlock()
	x.drop(n)
}

// drop is release when the gateway is locked.
func (x *exchange) drop(n int64) {
	n = min(n, x.held)
	x.held -= n
	x.g.unsent += n
}
