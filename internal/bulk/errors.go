package bulk

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RetryAfter reads the header of that name: seconds or an HTTP date. What
// makes no sense is 0.
func RetryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64); err == nil {
		if n < 0 {
			return 0
		}
		return time.Duration(min(n, 1<<31)) * time.Second
	}
	if at, err := http.ParseTime(s); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

const maxMessageBytes = 512

// Quote makes text of a service safe to print.
func Quote(s string) string {
	if len(s) > maxMessageBytes {
		s = s[:maxMessageBytes] + "…"
	}
	return strconv.Quote(s)
}

// IsLoopback tells whether a host is this machine, so that nobody is on the
// way to it.
func IsLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// ProxyError is a refusal by a proxy on the way to the service.
type ProxyError struct {
	Host   string // of the proxy; empty if it did not have to be asked for a tunnel
	Status int    // HTTP status
}

func (e *ProxyError) Error() string {
	s := "the proxy"
	if e.Host != "" {
		s += " " + e.Host
	}
	s += fmt.Sprintf(" answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Status == http.StatusProxyAuthRequired {
		s += " (give it a user name and password within its URL, in HTTPS_PROXY or HTTP_PROXY)"
	}
	return s
}

// Retry tells whether the proxy can think better of it.
func (e *ProxyError) Retry() (again bool, after time.Duration) {
	return e.Status >= 500 || e.Status == http.StatusRequestTimeout || e.Status == http.StatusTooManyRequests, 0
}

// Distrusted tells whether a connection failed by whom it leads to, which is
// the same the next time.
func Distrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate) || errors.Is(err, http.ErrSchemeMismatch)
}

// NetworkError is an error of the way to a target, or of what answered there.
// See uploader.NetworkError.
type NetworkError struct{ Err error }

func (e *NetworkError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *NetworkError) Unwrap() error { return e.Err }

// WrongReply marks the error of a reply that the far side's API does not give.
// The same request gets the same one.
func WrongReply(err error) error { return &NetworkError{Permanent(err)} }

// BrokenReply marks one that may have been cut on the way.
func BrokenReply(err error) error { return &NetworkError{err} }

// Permanent marks an error that trying again can't mend.
func Permanent(err error) error { return permanent{err} }

type permanent struct{ error }

func (e permanent) Unwrap() error                          { return e.error }
func (permanent) Retry() (again bool, after time.Duration) { return false, 0 }

// Secret is a text that must not be shown. Whatever prints it prints a
// placeholder; Reveal is the only way to it.
type Secret struct{ text string }

const redacted = "[redacted]"

// NewSecret makes a secret of its text.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal returns the text.
func (s Secret) Reveal() string { return s.text }

// String hides the secret.
func (Secret) String() string { return redacted }

// GoString hides the secret.
func (Secret) GoString() string { return redacted }

// MarshalText hides the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Redact takes the secret out of a text.
func (s Secret) Redact(text string) string {
	if s.text == "" {
		return text
	}
	return strings.ReplaceAll(text, s.text, redacted)
}

// RedactError is the error without the secret in its text.
func (s Secret) RedactError(err error) error {
	if msg := s.Redact(err.Error()); msg != err.Error() {
		return &redactedError{msg, err}
	}
	return err
}

// redactedError says something else than the error it stands for.
type redactedError struct {
	msg string
	err error
}

func (e *redactedError) Error() string { return e.msg }
func (e *redactedError) Unwrap() error { return e.err }
