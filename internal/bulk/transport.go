// Package bulk does HTTP for bodies of 100 MB: it sends them with few copies,
// and notices when they stop moving. Targets share it.
package bulk

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// NewTransport makes a transport for bodies of 100 MB. It uses one TCP
// connection per transfer (hence no HTTP/2) and large writes, and waits for the
// server's go-ahead (100 Continue) before it sends a body. No timeout covers a
// whole request. Proxies come from the environment: HTTPS_PROXY, HTTP_PROXY and
// NO_PROXY.
func NewTransport() *http.Transport {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return bulkConn{c}, nil
		},
		OnProxyConnectResponse: func(_ context.Context, proxy *url.URL, _ *http.Request, resp *http.Response) error {
			if resp.StatusCode != http.StatusOK {
				return &ProxyError{Host: proxy.Host, Status: resp.StatusCode}
			}
			return nil
		},
		TLSHandshakeTimeout:   30 * time.Second,
		ExpectContinueTimeout: 2 * time.Second,
		IdleConnTimeout:       50 * time.Second, // services close at 60
		MaxIdleConnsPerHost:   1024,             // the most transfers there can be
		WriteBufferSize:       64 << 10,
		DisableCompression:    true,
	}
}

// NewUnixTransport makes a transport that connects to a Unix socket, whatever
// the URL says.
func NewUnixTransport(path string) *http.Transport {
	t := NewTransport()
	t.Proxy = nil
	t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err != nil {
			return nil, err
		}
		return bulkConn{c}, nil
	}
	return t
}

// bulkConn is a TCP connection that lets a body write itself. The transport
// copies a body of known length through a limited reader, in steps of 32 KiB. A
// body that implements io.WriterTo writes its own buffers instead, without a
// copy.
type bulkConn struct{ net.Conn }

// ReadFrom implements io.ReaderFrom.
func (c bulkConn) ReadFrom(r io.Reader) (int64, error) {
	lr, ok := r.(*io.LimitedReader)
	if ok {
		if body, ok := lr.R.(io.WriterTo); ok {
			n, err := body.WriteTo(&limitedWriter{c.Conn, lr.N})
			lr.N -= n
			return n, err
		}
	}
	return io.Copy(c.Conn, r) // keep the connection's fast paths, such as sendfile
}

// limitedWriter refuses to write more than the Content-Length announced.
type limitedWriter struct {
	w io.Writer
	n int64
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > l.n {
		return 0, http.ErrContentLength
	}
	n, err := l.w.Write(p)
	l.n -= int64(n)
	return n, err
}
