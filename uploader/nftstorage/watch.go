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

var _ uploader.Target = (*Target)(nil)
