package uploadertest

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy is an HTTP proxy on a loopback port that connects to one server,
// whatever name is asked for.
type Proxy struct {
	URL *url.URL // without user name and password

	to      string // host and port
	user    string // required "name:password"; empty for none
	forward *httputil.ReverseProxy
	cause   context.Context //nolint:containedctx // done when the proxy is closed

	requests, tunnels atomic.Int64
}

// NewProxy starts a proxy to the server at a URL. It is closed when the test
// ends.
func NewProxy(tb testing.TB, to, user string) *Proxy {
	tb.Helper()
	dest, err := url.Parse(to)
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{to: dest.Host, user: user}
	transport := &http.Transport{DisableCompression: true}
	p.forward = &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(dest) }}
	var stop context.CancelFunc
	p.cause, stop = context.WithCancel(context.Background())
	srv := httptest.NewServer(p)
	if p.URL, err = url.Parse(srv.URL); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		stop()
		srv.CloseClientConnections()
		srv.Close()
		transport.CloseIdleConnections()
	})
	return p
}

// Requests returns how many requests were forwarded and how many tunnels
// opened.
func (p *Proxy) Requests() (forwarded, tunnels int) {
	return int(p.requests.Load()), int(p.tunnels.Load())
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.user != "" && r.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(p.user)) {
		w.Header().Set("Proxy-Authenticate", `Basic realm="test"`)
		w.Header().Set("Connection", "close")
		http.Error(w, "who are you?", http.StatusProxyAuthRequired)
		return
	}
	if r.Method != http.MethodConnect {
		p.requests.Add(1)
		p.forward.ServeHTTP(w, r)
		return
	}
	p.tunnels.Add(1)
	if err := p.tunnel(w); err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
	}
}

func (p *Proxy) tunnel(w http.ResponseWriter) error {
	var d net.Dialer
	far, err := d.DialContext(p.cause, "tcp", p.to)
	if err != nil {
		return err
	}
	defer far.Close()
	near, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	defer near.Close()
	defer context.AfterFunc(p.cause, func() { _ = errors.Join(near.Close(), far.Close()) })()
	if _, err := io.WriteString(near, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return nil //nolint:nilerr // the client is gone
	}
	var both sync.WaitGroup
	pass := func(to net.Conn, from io.Reader) {
		_, _ = io.Copy(to, from)
		_ = errors.Join(near.Close(), far.Close())
	}
	both.Go(func() { pass(far, buffered) })
	both.Go(func() { pass(near, far) })
	both.Wait()
	return nil
}

// Forward returns a handler that forwards requests to the server at a URL, and
// keeps the requested host.
func Forward(tb testing.TB, to string) http.Handler {
	tb.Helper()
	dest, err := url.Parse(to)
	if err != nil {
		tb.Fatal(err)
	}
	transport := &http.Transport{DisableCompression: true}
	tb.Cleanup(transport.CloseIdleConnections)
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(dest); r.Out.Host = r.In.Host },
		// Tests close connections on purpose.
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		FlushInterval: -1,
	}
}
