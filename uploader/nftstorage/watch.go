package nftstorage

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/carload/carload/uploader"
)

// watch returns a context that is cancelled when alive has not been called for
// the time given: a request may take as long as it likes, but not stand still.
// The caller calls stop at the end.
func watch(parent context.Context, stall time.Duration) (ctx context.Context, alive, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	timer := time.AfterFunc(stall, func() {
		cancel(temporary{fmt.Errorf("no byte moved for %s", stall)})
	})
	return ctx, func() { timer.Reset(stall) }, func() { timer.Stop(); cancel(nil) }
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
