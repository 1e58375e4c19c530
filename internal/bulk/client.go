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

// Client sends requests, and makes errors of them that tell why they were
// given up and do not show its secret.
type Client struct {
	http   *http.Client
	secret Secret
	agent  string
	clock  *watchedClock
}

// watchedClock notes what the far side says the time is.
type watchedClock struct {
	http.RoundTripper
	skew atomic.Pointer[time.Duration] // nil before it was told
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

// CloseIdleConnections lets [http.Client] do so.
func (c *watchedClock) CloseIdleConnections() {
	if t, ok := c.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

// Skew is how much the far side's clock is ahead of ours, by its last reply;
// false if none told.
func (c *Client) Skew() (time.Duration, bool) {
	if skew := c.clock.skew.Load(); skew != nil {
		return *skew, true
	}
	return 0, false
}

// NewClient makes a client. The agent names the program to the far side.
func NewClient(transport http.RoundTripper, secret Secret, agent string) *Client {
	clock := &watchedClock{RoundTripper: transport}
	return &Client{&http.Client{Transport: clock, CheckRedirect: checkRedirect}, secret, agent, clock}
}

// checkRedirect follows to the same origin only: bodies and token are for it.
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
			err = u.Err // what it adds is said here, too
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

// Do is Send for programs that ask as an [http.Client] is asked. Their requests
// have the names that they gave themselves.
func (c *Client) Do(req *http.Request) (*http.Response, error) { return c.http.Do(req) }

// Failed makes the error of a request that was cut short: why it was given up
// if it was, and nothing that would show the secret. It is a [NetworkError] unless
// the caller gave up.
func (c *Client) Failed(ctx context.Context, what string, err error) error {
	cause := context.Cause(ctx)
	if cause != nil {
		err = cause
	}
	err = fmt.Errorf("%s: %w", what, c.secret.RedactError(err))
	if cause != nil && !errors.As(cause, new(*Stalled)) {
		return err // the network was not at fault
	}
	return &NetworkError{err}
}

// Redact takes the client's secret out of a text.
func (c *Client) Redact(text string) string { return c.secret.Redact(text) }

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }
