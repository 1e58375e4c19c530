package console

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// changes tells its waiters that something may have changed.
type changes struct {
	mu    sync.Mutex
	next  chan struct{} // closed at the next change
	ended chan struct{}
}

func newChanges() *changes {
	return &changes{next: make(chan struct{}), ended: make(chan struct{})}
}

func (c *changes) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.next)
	c.next = make(chan struct{})
}

// wait returns a channel that is closed at the next change.
func (c *changes) wait() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.next
}

func (c *changes) end() { close(c.ended) }

const (
	// pause is the least time between two events, since pages ask again after
	// each.
	pause = 300 * time.Millisecond
	// look is how often pages look for changes that did not come through the
	// API: blocks fetched for a pin, damage that the scrub found.
	look = 5 * time.Second
)

// events answers with a stream of server-sent events: "change" whenever
// something that pages show may have changed. The event does not say what:
// pages ask, and get only what belongs to their user.
func (c *Console) events(w http.ResponseWriter, r *http.Request, _ *session) {
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	send := func(name string) bool {
		_, err := fmt.Fprintf(w, "event: %s\ndata:\n\n", name)
		return err == nil && rc.Flush() == nil
	}
	next := c.changes.wait() // before the page asks for the current state
	if !send("ready") {
		return
	}
	timer := time.NewTimer(look)
	defer timer.Stop()
	for {
		name := "change"
		select {
		case <-next:
		case <-timer.C:
			name = "look"
		case <-r.Context().Done():
			return
		case <-c.changes.ended:
			return
		}
		next = c.changes.wait()
		if !send(name) {
			return
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-r.Context().Done():
			return
		case <-c.changes.ended:
			return
		}
		timer.Reset(look)
	}
}
