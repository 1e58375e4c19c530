package nftstorage

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http/httptrace"
	"sync"
	"time"

	"github.com/carload/carload/uploader"
)

// watch returns a context that is cancelled when alive has not been called for
// the time given, and the system has not sent any of what it was handed either:
// a request may take as long as it likes, but not stand still. The caller calls
// stop at the end.
func watch(parent context.Context, stall time.Duration) (ctx context.Context, alive, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	w := &watchdog{stall: stall, queued: math.MaxInt, bark: func() {
		cancel(temporary{fmt.Errorf("no byte moved for %s", stall)})
	}}
	w.timer = time.AfterFunc(stall, w.look)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: w.gotConn})
	return ctx, w.alive, func() { w.timer.Stop(); cancel(nil) }
}

// watchdog looks whether a request moves.
type watchdog struct {
	stall time.Duration
	timer *time.Timer
	bark  func()

	mu     sync.Mutex
	conn   net.Conn
	queued int // bytes that the system had still to send
}

func (w *watchdog) gotConn(info httptrace.GotConnInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.conn, w.queued = info.Conn, math.MaxInt
}

func (w *watchdog) alive() { w.timer.Reset(w.stall) }

// look is called when no byte was handed over for a while. On a slow line the
// system may have minutes' worth of them in its buffer; they are to get fewer
// from one look to the next.
func (w *watchdog) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	queued, ok := unsent(w.conn)
	if !ok || queued == 0 || queued >= w.queued {
		w.bark()
		return
	}
	w.queued = queued
	w.timer.Reset(w.stall)
}

// aliveBody tells the watch of every read.
type aliveBody struct {
	io.ReadCloser
	alive func()
}

func (b aliveBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.alive()
	}
	return n, err
}

// WriteTo implements io.WriterTo for bodies that can write themselves.
func (b aliveBody) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(aliveWriter{w, b.alive}, b.ReadCloser)
}

type aliveWriter struct {
	io.Writer
	alive func()
}

func (w aliveWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	if n > 0 {
		w.alive()
	}
	return n, err
}

var _ uploader.Target = (*Target)(nil)
