package bulk

import (
	"io"
	"testing"
	"time"
)

// long makes a watchdog believe that nothing has moved for a long time, and
// look.
func long(w *Watchdog) {
	w.mu.Lock()
	w.moved = w.moved.Add(-time.Hour)
	w.mu.Unlock()
	w.look()
}

// during is a reply that does something while it is read.
type during func()

func (d during) Read([]byte) (int, error) { d(); return 0, io.EOF }

// TestWatchdogWaitsForReader: a reply that nobody reads for a while has not
// stalled. A reply has stalled if it is being read but does not come.
func TestWatchdogWaitsForReader(t *testing.T) {
	t.Parallel()
	barks := 0
	w := &Watchdog{stall: time.Minute, bark: func() { barks++ }, timer: time.NewTimer(time.Hour), moved: time.Now()}
	body := w.Reply(io.NopCloser(during(func() { long(w) })))
	long(w)
	if barks != 0 {
		t.Fatal("the reader was taken for the network")
	}
	if _, err := io.ReadAll(body); err != nil || barks != 1 {
		t.Errorf("%d barks during a read, %v", barks, err)
	}
	long(w)
	if barks != 1 {
		t.Error("the reader was taken for the network after a read")
	}
}
