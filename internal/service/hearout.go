package service

import (
	"errors"
	"io"
	"net/http"
	"time"
)

// Limits on reading a body that nobody needs any more.
const (
	drainTime  = 5 * time.Second
	drainBytes = DefaultMaxBodyBytes
)

// hearOut reads the rest of a body after the reply was written, for a short
// while. If a server hangs up while the client is still sending, the client may
// never see the reply. If the body takes longer, the connection is closed.
func hearOut(rc *http.ResponseController, r io.Reader) {
	_ = rc.Flush()
	// Some wrappers and tests support no deadline.
	_ = rc.SetReadDeadline(time.Now().Add(drainTime))
	n, err := io.Copy(io.Discard, io.LimitReader(r, drainBytes))
	if n == drainBytes || err != nil && !errors.Is(err, http.ErrBodyReadAfterClose) {
		_ = rc.SetReadDeadline(time.Now()) // keep net/http from reading on
		return
	}
	// net/http has already read and closed a short body, and waits for the next
	// request. A deadline would cancel that request's context.
	_ = rc.SetReadDeadline(time.Time{})
}
