package uploader_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

// secure is a transport that trusts these authorities, and may use a proxy.
func secure(tb testing.TB, roots *x509.CertPool, proxy *url.URL) *http.Transport {
	tb.Helper()
	tr := nftstorage.NewTransport()
	tr.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	tr.Proxy = nil
	if proxy != nil {
		tr.Proxy = http.ProxyURL(proxy)
	}
	return tr
}

// serving is the TLS configuration of a server on a loopback address.
func serving(ca *uploadertest.Authority) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{ca.Certificate("localhost", time.Now().Add(time.Hour))}}
}

// as reports whether an error is of a type, or wraps one.
func as[T error](err error) bool { return errors.As(err, new(T)) }

// TestTLS uses servers that cannot be trusted. Nothing is sent to them, and the
// error is immediate. A failed handshake is retried only if certificates are
// not the reason.
func TestTLS(t *testing.T) {
	t.Parallel()
	ours, others := uploadertest.NewAuthority(t), uploadertest.NewAuthority(t)
	later := time.Now().Add(time.Hour)
	tests := []struct {
		name   string
		server *tls.Config // nil for plain HTTP
		is     error
		as     func(error) bool // by type
		final  bool
	}{
		{"trusted", serving(ours), nil, nil, true},
		{"unknown authority", serving(others), nil, as[x509.UnknownAuthorityError], true},
		{"expired", &tls.Config{Certificates: []tls.Certificate{ours.Certificate("localhost", time.Now().Add(-time.Minute))}}, nil, as[x509.CertificateInvalidError], true},
		{"another name", &tls.Config{Certificates: []tls.Certificate{ours.Certificate("api.example.org", later)}}, nil, as[x509.HostnameError], true},
		{"plain HTTP", nil, http.ErrSchemeMismatch, nil, true},
		{"too old", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11, Certificates: []tls.Certificate{ours.Certificate("localhost", later)}}, uploader.ErrUnavailable, nil, false},
	}
	for _, test := range tests {
		for _, proxied := range []bool{false, true} {
			t.Run(test.name+map[bool]string{true: " behind a proxy"}[proxied], func(t *testing.T) {
				t.Parallel()
				srv := uploadertest.NewServer(t, uploadertest.Options{TLS: test.server})
				var proxy *url.URL
				if proxied {
					proxy = uploadertest.NewProxy(t, srv.URL, "").URL
				}
				c := &clock{now: time.Unix(1e9, 0)}
				target := newTarget(t, srv, func(o *nftstorage.Options) {
					o.Endpoint = strings.Replace(srv.URL, "http://", "https://", 1)
					o.Transport = secure(t, ours.Pool(), proxy)
				})
				u := newUploader(t, target, uploader.Options{Transfers: 1, Clock: c, NoResume: true})
				path := randomFile(t, fileBytes, 1)
				_, err := uploadOne(t.Context(), u, input(t, path))
				if test.is == nil && test.as == nil {
					if err != nil || !srv.Store.Complete(rootOf(t, path)) || u.Progress().Retries > 0 {
						t.Errorf("error %v", err)
					}
					return
				}
				if err == nil || test.is != nil && !errors.Is(err, test.is) {
					t.Errorf("error %v, want %v", err, test.is)
				}
				if test.as != nil && (!test.as(err) || !as[*tls.CertificateVerificationError](err)) {
					t.Errorf("error %v is of another type", err)
				}
				if again, _ := uploader.Retryable(err); again == test.final || test.final == (len(c.slept()) > 0) {
					t.Errorf("retryable %t, %d waits: %v", again, len(c.slept()), err)
				}
				if n := srv.Count(uploadertest.Upload); n.Requests > 0 || u.Progress().BytesSent+u.Progress().BytesResent > 0 {
					t.Errorf("%+v was sent, %+v", n, u.Progress())
				}
			})
		}
	}
}
