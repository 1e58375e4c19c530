package service

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// Bounds of what is heard of a body that nobody needs any more.
const (
	drainTime  = 5 * time.Second
	drainBytes = DefaultMaxBodyBytes
)

// hearOut reads what is left of a body after the reply was written. A server
// that hangs up while the client is still sending can lose its own reply, so
// the client is heard out, for a short while. The connection of one that takes
// longer is closed.
func hearOut(rc *http.ResponseController, r io.Reader) {
	_ = rc.Flush()
	// Tests and wrappers may have no deadline.
	_ = rc.SetReadDeadline(time.Now().Add(drainTime))
	n, err := io.Copy(io.Discard, io.LimitReader(r, drainBytes))
	if n == drainBytes || err != nil && !errors.Is(err, http.ErrBodyReadAfterClose) {
		_ = rc.SetReadDeadline(time.Now()) // net/http reads no further
		return
	}
	// A short body net/http has read and closed itself, and it waits for the next
	// request by now: a deadline would cancel that one's context.
	_ = rc.SetReadDeadline(time.Time{})
}
