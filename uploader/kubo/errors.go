package kubo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// RPCError is an error reply of the node. It matches
// [uploader.ErrUnauthorized], [uploader.ErrNotFound], [uploader.ErrLimit] or
// syscall.ENOSPC if that is what it means.
type RPCError struct {
	Status  int // HTTP status; 500 for most errors of Kubo
	message string
}

func newRPCError(status int, message string) *RPCError {
	if len(message) > maxMessageBytes {
		message = message[:maxMessageBytes]
	}
	return &RPCError{status, message}
}

func (e *RPCError) Error() string {
	switch {
	case e.Status == http.StatusUnauthorized, e.Status == http.StatusForbidden:
		return "Kubo refused the request: the secret is not one of its API.Authorizations, or their AllowedPaths do not include the request"
	case e.Status == http.StatusNotFound, e.Status == http.StatusMethodNotAllowed:
		return fmt.Sprintf("the reply is %d %s: this is not the address of a Kubo RPC", e.Status, http.StatusText(e.Status))
	case e.is(noSpace):
		return "the disk of the Kubo node is full"
	case e.is(tooBig):
		return "Kubo does not accept blocks this large: " + bulk.Quote(e.message)
	case e.is(notHeld):
		return "Kubo does not have it: " + bulk.Quote(e.message)
	case e.is(damaged):
		return "what arrived at Kubo differs from what was sent: " + bulk.Quote(e.message)
	case e.message == "":
		return fmt.Sprintf("Kubo answered %d %s", e.Status, http.StatusText(e.Status))
	}
	return "Kubo says " + bulk.Quote(e.message)
}

// The meaning of Kubo's messages. It sends no codes.
var (
	noSpace  = []string{"no space left on device", "disk quota exceeded"}
	tooBig   = []string{"block is over"}
	notHeld  = []string{"ipld: could not find", "not found locally", "is not pinned", "not pinned or pinned indirectly", "file does not exist"}
	damaged  = []string{"mismatch in content integrity", "unexpected EOF"}
	hopeless = []string{"invalid path", "potentially insecure hash", "pin name is", "cannot put node in path", "hash functions not allowed", "unsupported"}
)

func (e *RPCError) is(messages []string) bool {
	for _, m := range messages {
		if strings.Contains(e.message, m) {
			return true
		}
	}
	return false
}

// Is reports whether e matches target.
func (e *RPCError) Is(target error) bool {
	switch target {
	case uploader.ErrUnauthorized:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	case uploader.ErrNotFound:
		return e.is(notHeld)
	case uploader.ErrLimit:
		return e.is(tooBig)
	case syscall.ENOSPC:
		return e.is(noSpace)
	}
	return false
}

// Retry reports whether the same request may succeed later.
func (e *RPCError) Retry() (again bool, after time.Duration) {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true, 0
	}
	return e.Status >= 500 && !e.is(noSpace) && !e.is(tooBig) && !e.is(notHeld) && !e.is(hopeless), 0
}

// refusal makes an error from an unsuccessful reply.
func (t *Target) refusal(resp *http.Response) error {
	p, _ := io.ReadAll(io.LimitReader(resp.Body, maxMessageBytes)) // if this fails, the status is enough
	var said struct{ Message string }
	if json.Unmarshal(p, &said) != nil {
		said.Message = strings.TrimSpace(string(p))
	}
	e := newRPCError(resp.StatusCode, t.client.Redact(said.Message))
	if after := bulk.RetryAfter(resp.Header.Get("Retry-After"), time.Now()); after > 0 {
		return waiting{e, after}
	}
	return e
}

// waiting is an error reply that says when to come back.
type waiting struct {
	*RPCError
	after time.Duration
}

func (w waiting) Unwrap() error { return w.RPCError }

func (w waiting) Retry() (again bool, after time.Duration) {
	again, _ = w.RPCError.Retry()
	return again, w.after
}

// trailer returns the error in the trailer of a reply that began well. The body
// must have been read to its end.
func (t *Target) trailer(resp *http.Response) error {
	if said := resp.Trailer.Get("X-Stream-Error"); said != "" {
		return newRPCError(http.StatusInternalServerError, t.client.Redact(said))
	}
	return nil
}

// named finds the block in the message that it could not be found.
var named = regexp.MustCompile(`ipld: could not find ([0-9A-Za-z]+)`)

// missing returns the block at which a walk ended.
func missing(err error) (cid.Cid, bool) {
	var rpc *RPCError
	if !errors.As(err, &rpc) {
		return cid.Undef, false
	}
	m := named.FindStringSubmatch(rpc.message)
	if m == nil {
		return cid.Undef, false
	}
	c, err := cid.Decode(m[1])
	return c, err == nil
}
