package bulk

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"sync"
	"time"
)

// Watch returns a context that is cancelled when the watchdog was not told for
// the time given that a byte moved, and the system has not sent any of what it
// was handed either: a request may take as long as it likes, but not stand
// still. The caller calls stop at the end.
func Watch(parent context.Context, stall time.Duration) (ctx context.Context, w *Watchdog, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	w = &Watchdog{stall: stall, moved: time.Now(), bark: func() { cancel(&Stalled{After: stall}) }, crawl: func() { cancel(&Stalled{After: stall, Crawls: true}) }}
	w.mu.Lock() // the timer may be quicker than its name
	w.timer = time.AfterFunc(stall, w.look)
	w.mu.Unlock()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: w.gotConn})
	return ctx, w, func() { w.timer.Stop(); cancel(nil) }
}

// Stalled is why a request that moved no byte was given up.
type Stalled struct {
	After  time.Duration
	Crawls bool // bytes of the reply did move, but hardly
}

func (e *Stalled) Error() string {
	if e.Crawls {
		return fmt.Sprintf("the reply came at less than %d bytes per second for more than %s", leastRate, e.After)
	}
	return fmt.Sprintf("no byte moved for %s", e.After)
}

// leastRate is how fast a reply has to come on average once the time for a stall
// is over, in bytes per second. No line is as slow; a far side that gives a byte
// a second could keep us for ever.
const leastRate = 64

// Retry tells that it may move the next time.
func (e *Stalled) Retry() (again bool, after time.Duration) { return true, 0 }

// Watchdog looks whether a request moves.
type Watchdog struct {
	stall time.Duration
	bark  func()
	crawl func() // of a reply

	mu     sync.Mutex
	timer  *time.Timer
	moved  time.Time // the last byte, or the end of a wait for the source
	conn   net.Conn
	last   *line // as it was looked at; nil if a byte was handed over since
	source int   // reads of a source that are under way
}

// line is how far the system is with what it was handed for a connection.
type line struct {
	unsent int    // bytes that the other side has not acknowledged
	acked  uint64 // bytes that it has, ever; 0 where the system does not tell
}

func (w *Watchdog) gotConn(info httptrace.GotConnInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn, w.last = info.Conn, nil
}

// Alive tells that a byte moved, or whatever else shows that there is progress.
func (w *Watchdog) Alive() { w.waits(0) }

// waits tells that what is waited for is the source of a request (+1), or no
// longer (-1): how long that takes is not for the network to answer for.
func (w *Watchdog) waits(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.source += n
	w.moved, w.last = time.Now(), nil
}

// look is called when no byte may have been handed over for a while. On a slow
// line the system may have minutes' worth of them in its buffer; some are to
// arrive from one look to the next, though a write that waits for room may put
// others in their place.
func (w *Watchdog) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.source > 0 {
		w.moved = time.Now()
	}
	if left := w.stall - time.Since(w.moved); left > 0 {
		w.timer.Reset(left)
		return
	}
	now, ok := sending(w.conn)
	last := w.last
	if last == nil {
		ok = ok && now.unsent > 0
	} else {
		ok = ok && last.unsent > 0 && (now.acked > last.acked || now.unsent < last.unsent)
	}
	if !ok {
		w.bark()
		return
	}
	w.last = &now
	w.timer.Reset(w.stall)
}

// Reply is the body of a reply: each read of it moves bytes.
func (w *Watchdog) Reply(body io.ReadCloser) io.ReadCloser {
	return &aliveBody{ReadCloser: body, dog: w, begun: time.Now()}
}

type aliveBody struct {
	io.ReadCloser
	dog   *Watchdog
	begun time.Time
	n     int64
}

func (b *aliveBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.dog.Alive()
		b.n += int64(n)
		if took := time.Since(b.begun); took > b.dog.stall && float64(b.n) < leastRate*took.Seconds() {
			b.dog.crawl()
		}
	}
	return n, err
}

// Body is the body of a request, which can write itself.
type Body interface {
	io.ReadCloser
	io.WriterTo
}

// Request is the body of a request. It is the source that is waited for while
// it is read, and the network in between.
func (w *Watchdog) Request(body Body) Body { return sourceBody{body, w} }

type sourceBody struct {
	Body
	dog *Watchdog
}

func (b sourceBody) Read(p []byte) (int, error) {
	b.dog.waits(+1)
	defer b.dog.waits(-1)
	return b.Body.Read(p)
}

// WriteTo implements io.WriterTo.
func (b sourceBody) WriteTo(w io.Writer) (int64, error) {
	b.dog.waits(+1)
	defer b.dog.waits(-1)
	return b.Body.WriteTo(lineWriter{w, b.dog})
}

// lineWriter is where the body of a request goes.
type lineWriter struct {
	io.Writer
	dog *Watchdog
}

func (w lineWriter) Write(p []byte) (int, error) {
	w.dog.waits(-1)
	defer w.dog.waits(+1)
	return w.Writer.Write(p)
}
