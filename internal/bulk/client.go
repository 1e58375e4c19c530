package bulk

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// Client sends HTTP requests. Its errors say why a request was given up, and
// never show its secret.
type Client struct {
	http   *http.Client
	secret Secret
	agent  string
	clock  *watchedClock
}

// watchedClock records the time that the server reports in its Date header.
type watchedClock struct {
	http.RoundTripper
	skew atomic.Pointer[time.Duration] // nil until a reply carried a Date header
}

// RoundTrip implements http.RoundTripper.
func (c *watchedClock) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := c.RoundTripper.RoundTrip(req)
	if err == nil {
		if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			skew := time.Until(at)
			c.skew.Store(&skew)
		}
	}
	return resp, err
}

// CloseIdleConnections forwards the call from [http.Client].
func (c *watchedClock) CloseIdleConnections() {
	if t, ok := c.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// Skew returns how far the server's clock is ahead of ours, according to its
// last reply. It returns false if no reply carried a date.
func (c *Client) Skew() (time.Duration, bool) {
	if skew := c.clock.skew.Load(); skew != nil {
		return *skew, true
	}
	return 0, false
}

// NewClient makes a client. Agent is its User-Agent.
func NewClient(transport http.RoundTripper, secret Secret, agent string) *Client {
	clock := &watchedClock{RoundTripper: transport}
	return &Client{&http.Client{Transport: clock, CheckRedirect: checkRedirect}, secret, agent, clock}
}

// checkRedirect follows redirects within the same origin only: no other server
// may see the body and the token.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("too many redirects")
	}
	if first := via[0].URL; req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
		return Permanent(fmt.Errorf("refused to follow a redirect from %s to %q, another origin", first.Host, req.URL.Host))
	}
	return nil
}

// Send sends a request. The caller closes the body of the reply.
func (c *Client) Send(req *http.Request) (*http.Response, error) {
	req.Header.Set("User-Agent", c.agent)
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // url.Error adds the method and URL; so do we, below
		}
		if Distrusted(err) {
			err = Permanent(err)
		}
		return nil, c.Failed(req.Context(), req.Method+" "+req.URL.Redacted(), err)
	}
	if resp.StatusCode == http.StatusProxyAuthRequired {
		_ = resp.Body.Close()
		return nil, c.Failed(req.Context(), req.Method+" "+req.URL.Redacted(), &ProxyError{Status: resp.StatusCode})
	}
	return resp, nil
}

// Do sends a request as [http.Client.Do] does, for libraries that expect one.
// It leaves the request's User-Agent alone.
func (c *Client) Do(req *http.Request) (*http.Response, error) { return c.http.Do(req) }

// Failed wraps the error of a request that did not complete. It adds the reason
// why the request was given up, if it was, and removes the secret. The result
// is a [NetworkError] unless the caller's context ended.
func (c *Client) Failed(ctx context.Context, what string, err error) error {
	cause := context.Cause(ctx)
	if cause != nil {
		err = cause
	}
	err = fmt.Errorf("%s: %w", what, c.secret.RedactError(err))
	if cause != nil && !errors.As(cause, new(*Stalled)) {
		return err // the caller gave up; the network is not at fault
	}
	return &NetworkError{err}
}

// Redact removes the client's secret from a text.
func (c *Client) Redact(text string) string { return c.secret.Redact(text) }

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }
