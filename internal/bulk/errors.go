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

// RetryAfter parses a Retry-After header: seconds or an HTTP date. It returns 0
// for anything else.
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

// Quote makes a text from the server safe to print.
func Quote(s string) string {
	if len(s) > maxMessageBytes {
		s = s[:maxMessageBytes] + "…"
	}
	return strconv.Quote(s)
}

// IsLoopback reports whether a host is this machine. Nobody else sees what is
// sent there.
func IsLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// ProxyError says that a proxy on the way to the service refused the request.
type ProxyError struct {
	Host   string // of the proxy; empty if we did not ask it for a tunnel
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

// Retry reports whether the proxy may accept the same request later.
func (e *ProxyError) Retry() (again bool, after time.Duration) {
	return e.Status >= 500 || e.Status == http.StatusRequestTimeout || e.Status == http.StatusTooManyRequests, 0
}

// Distrusted reports whether a connection failed because of who answered: a bad
// certificate, or HTTP where TLS was expected. Trying again would not help.
func Distrusted(err error) bool {
	var certificate *tls.CertificateVerificationError
	return errors.As(err, &certificate) || errors.Is(err, http.ErrSchemeMismatch)
}

// NetworkError is a failure of the network, or of the server behind it. See
// uploader.NetworkError.
type NetworkError struct{ Err error }

func (e *NetworkError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *NetworkError) Unwrap() error { return e.Err }

// WrongReply wraps the error of a reply that does not fit the server's API. The
// same request would get the same reply, so it is permanent.
func WrongReply(err error) error { return &NetworkError{Permanent(err)} }

// BrokenReply wraps the error of a reply that may have been cut short on the
// way.
func BrokenReply(err error) error { return &NetworkError{err} }

// Permanent marks an error that a retry cannot fix.
func Permanent(err error) error { return permanent{err} }

type permanent struct{ error }

func (e permanent) Unwrap() error                          { return e.error }
func (permanent) Retry() (again bool, after time.Duration) { return false, 0 }

// Secret is a text that must not be shown. Printing it prints a placeholder;
// only Reveal returns the text.
type Secret struct{ text string }

const redacted = "[redacted]"

// NewSecret makes a secret from its text.
func NewSecret(text string) Secret { return Secret{text} }

// Reveal returns the text.
func (s Secret) Reveal() string { return s.text }

// String hides the secret.
func (Secret) String() string { return redacted }

// GoString hides the secret.
func (Secret) GoString() string { return redacted }

// MarshalText hides the secret.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// Redact removes the secret from a text.
func (s Secret) Redact(text string) string {
	if s.text == "" {
		return text
	}
	return strings.ReplaceAll(text, s.text, redacted)
}

// RedactError returns the error with the secret removed from its text.
func (s Secret) RedactError(err error) error {
	if msg := s.Redact(err.Error()); msg != err.Error() {
		return &redactedError{msg, err}
	}
	return err
}

// redactedError replaces the text of an error.
type redactedError struct {
	msg string
	err error
}

func (e *redactedError) Error() string { return e.msg }
func (e *redactedError) Unwrap() error { return e.err }
