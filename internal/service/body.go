package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// leastBytes is the least that a body must bring in every leastTime, on
// average. The slowest real clients send twice as fast.
const (
	leastBytes = 30 << 10
	leastTime  = time.Minute
)

// body reads a request's body up to a limit. It gives up on a body that stalls
// or trickles. Its errors are bodyErrors, or an API error if the body is too
// large.
type body struct {
	r    io.ReadCloser
	rc   *http.ResponseController
	idle time.Duration
	left int64
	err  error

	waited time.Duration // time spent waiting for the client
	bytes  int64         // received in that time
}

func newBody(w http.ResponseWriter, r *http.Request, limit int64, idle time.Duration) *body {
	return &body{r: r.Body, rc: http.NewResponseController(w), idle: idle, left: limit}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	// Some wrappers and tests support no deadline; then a body may stall.
	_ = b.rc.SetReadDeadline(time.Now().Add(b.idle))
	start := time.Now()
	n, err := b.r.Read(p)
	if err == nil {
		err = b.pace(n, time.Since(start))
	}
	if b.left -= int64(n); b.left < 0 {
		err = tooLarge()
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		b.err = io.EOF
	case b.left < 0:
		b.err = err
		return 0, err
	default:
		b.err = &bodyError{err}
	}
	return n, b.err
}

// errTrickle ends a body that is too slow.
var errTrickle = fmt.Errorf("less than %d bytes in %s", leastBytes, leastTime)

// pace checks the client's speed. It does not count the time that the service
// takes between reads.
func (b *body) pace(n int, took time.Duration) error {
	b.bytes += int64(n)
	b.waited += took
	switch {
	case b.waited < leastTime:
		return nil
	case b.bytes < leastBytes*int64(b.waited/leastTime):
		return errTrickle
	}
	b.waited, b.bytes = 0, 0
	return nil
}

// drain reads the rest of the body after the reply was written.
func (b *body) drain(ctx context.Context) {
	switch {
	case b.r == http.NoBody:
		return
	case errors.Is(b.err, io.EOF):
		_ = b.rc.SetReadDeadline(time.Time{})
		return
	case b.err != nil:
		_ = b.rc.SetReadDeadline(time.Now()) // keep net/http from reading on
		return
	}
	defer dispensable(ctx)()
	hearOut(b.rc, b.r)
}
