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

// Watch returns a context for one request, and a watchdog that cancels it when
// the request stands still: when for the given time no byte moved, and the
// kernel did not send any of what it had buffered either. A request may take as
// long as it likes as long as it moves. The caller must call stop at the end.
func Watch(parent context.Context, stall time.Duration) (ctx context.Context, w *Watchdog, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	w = &Watchdog{stall: stall, moved: time.Now(), bark: func() { cancel(&Stalled{After: stall}) }, crawl: func() { cancel(&Stalled{After: stall, Crawls: true}) }}
	w.mu.Lock() // the timer may fire before w.timer is set
	w.timer = time.AfterFunc(stall, w.look)
	w.mu.Unlock()
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: w.gotConn})
	return ctx, w, func() { w.timer.Stop(); cancel(nil) }
}

// Stalled is the cause of a request that was given up because no byte moved.
type Stalled struct {
	After  time.Duration
	Crawls bool // bytes of the reply moved, but far too slowly
}

func (e *Stalled) Error() string {
	if e.Crawls {
		return fmt.Sprintf("the reply came at less than %d bytes per second for more than %s", leastRate, e.After)
	}
	return fmt.Sprintf("no byte moved for %s", e.After)
}

// leastRate is the slowest average rate of a reply that we accept, in bytes per
// second, once the reply has taken longer than the stall time. No real line is
// as slow. Without the bound, a server that sends a byte a second could keep us
// for ever.
const leastRate = 64

// Retry says to try again: the request may move the next time.
func (e *Stalled) Retry() (again bool, after time.Duration) { return true, 0 }

// Watchdog checks that a request keeps moving.
type Watchdog struct {
	stall time.Duration
	bark  func()
	crawl func() // called when a reply is too slow

	mu     sync.Mutex
	timer  *time.Timer
	moved  time.Time // when the last byte moved or the last wait for the source ended
	conn   net.Conn
	last   *line // state at the last look; nil if bytes were handed over since
	source int   // waits that are not the network's: reads of the source, and pauses of the reply's reader
}

// line is how far the kernel got with the data written to a connection.
type line struct {
	unsent int    // bytes that the other side has not acknowledged yet
	acked  uint64 // bytes that it has acknowledged in all; 0 if the kernel does not say
}

func (w *Watchdog) gotConn(info httptrace.GotConnInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn, w.last = info.Conn, nil
}

// Alive tells the watchdog that the request made progress.
func (w *Watchdog) Alive() { w.waits(0) }

// waits notes that a wait begins (+1) or ends (-1) that is not the network's
// fault: for the request's source, or for the reader of the reply.
func (w *Watchdog) waits(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.source += n
	w.moved, w.last = time.Now(), nil
}

// look runs when no byte may have been handed over for the stall time. On a
// slow line the kernel can hold minutes' worth of data in its buffer. So look
// gives the request more time as long as some of that data was acknowledged
// since the last look. The buffer may be as full as before: a blocked write
// refills it at once.
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

// Reply wraps the body of a reply. Each read that returns bytes counts as
// progress. The time between two reads does not count: it is the reader's.
func (w *Watchdog) Reply(body io.ReadCloser) io.ReadCloser {
	w.waits(+1)
	return &aliveBody{ReadCloser: body, dog: w, begun: time.Now()}
}

type aliveBody struct {
	io.ReadCloser
	dog   *Watchdog
	begun time.Time
	n     int64
}

func (b *aliveBody) Read(p []byte) (int, error) {
	b.dog.waits(-1)
	n, err := b.ReadCloser.Read(p)
	b.dog.waits(+1)
	if n > 0 {
		b.n += int64(n)
		if took := time.Since(b.begun); took > b.dog.stall && float64(b.n) < leastRate*took.Seconds() {
			b.dog.crawl()
		}
	}
	return n, err
}

// Body is the body of a request. It can write itself.
type Body interface {
	io.ReadCloser
	io.WriterTo
}

// Request wraps the body of a request. While the body reads its source, the
// watchdog waits for the source; while it writes, for the network.
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

// lineWriter is the writer that the body of a request writes to.
type lineWriter struct {
	io.Writer
	dog *Watchdog
}

func (w lineWriter) Write(p []byte) (int, error) {
	w.dog.waits(-1)
	defer w.dog.waits(+1)
	return w.Writer.Write(p)
}
