package nftstorage

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// codeQuota is the code of a reply when the key's quota is used up. Its status
// is 403, as for a wrong key.
const codeQuota = "ERROR_QUOTA_EXCEEDED"

// APIError is an error reply of the service. It matches
// [uploader.ErrUnauthorized], [uploader.ErrQuotaExceeded], [uploader.ErrLimit]
// or [uploader.ErrNotFound] if that is what it means.
type APIError struct {
	Status     int           // HTTP status
	Code       string        // from the API's envelope; empty if there was none
	Message    string        // quoted
	RetryAfter time.Duration // 0 if the service did not say
}

func (e *APIError) Error() string {
	s := fmt.Sprintf("the service answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		s += " " + bulk.Quote(e.Code)
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	switch e.Status {
	case http.StatusRequestEntityTooLarge:
		s += " (its limit is below the size of our shards)"
	case http.StatusInsufficientStorage:
		s += " (the service's disk is full)"
	}
	return s
}

// Is reports whether e matches target.
func (e *APIError) Is(target error) bool {
	switch target {
	case uploader.ErrUnauthorized:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden && e.Code != codeQuota
	case uploader.ErrQuotaExceeded:
		return e.Code == codeQuota
	case uploader.ErrLimit:
		return e.Status == http.StatusRequestEntityTooLarge
	case uploader.ErrNotFound:
		return e.Status == http.StatusNotFound
	}
	return false
}

// refusals are messages with status 500 by which the API rejects an archive.
var refusals = []string{
	"missing roots", "too many roots", "block too big", "empty CAR", "missing root block",
	"CAR must contain at least one non-root block",
}

// damaged is part of the message for a block whose hash is wrong.
const damaged = "CID hash does not match bytes"

// Retry reports whether the same request may succeed later. It goes by the
// status, and for status 500 by whether the API blames the archive.
func (e *APIError) Retry() (again bool, after time.Duration) {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return true, e.RetryAfter
	case http.StatusTooManyRequests:
		if e.RetryAfter == 0 {
			return true, 30 * time.Second // how long the original service blocks a token
		}
		return true, e.RetryAfter
	case http.StatusBadRequest:
		// Each block was hashed just before it was sent, so it was damaged on
		// the way.
		return strings.Contains(e.Message, damaged), e.RetryAfter
	case http.StatusServiceUnavailable:
		return e.Code != "ERROR_MAINTENANCE", e.RetryAfter
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusInsufficientStorage:
		return false, 0
	case http.StatusInternalServerError:
		for _, r := range refusals {
			if e.Code == "Error" && strings.Contains(e.Message, r) {
				return false, 0
			}
		}
	}
	return e.Status >= 500, e.RetryAfter
}

// apiError makes an error from an unsuccessful reply.
func (t *Target) apiError(resp *http.Response) error {
	p, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10)) // if this fails, the status is enough
	var env envelope
	if json.Unmarshal(p, &env) != nil {
		env = envelope{}
	}
	return t.refusal(resp, env)
}

// refusal parses either of the API's two forms of errors.
func (t *Target) refusal(resp *http.Response, env envelope) *APIError {
	code, message := env.Error.Code, env.Error.Message
	if env.Error.Reason != "" {
		code, message = env.Error.Reason, env.Error.Details
	}
	e := &APIError{Status: resp.StatusCode, Code: t.opts.Token.Redact(code), RetryAfter: bulk.RetryAfter(resp.Header.Get("Retry-After"), time.Now())}
	if message != "" {
		e.Message = bulk.Quote(t.opts.Token.Redact(message))
	}
	return e
}

// ProxyError is an error reply of a proxy on the way to the service.
type ProxyError = bulk.ProxyError
