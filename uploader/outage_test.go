package uploader_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

// resolver answers DNS queries in place of a name server.
type resolver func(kind uint16) (code byte, address net.IP)

// Query types and response codes.
const (
	kindA    = 1
	kindAAAA = 28

	serverFailure = 2
	noSuchName    = 3
)

// dial returns a connection that a [net.Resolver] takes for one to a name
// server.
func (r resolver) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	go r.serve(far) // ends when the near end is closed
	return near, nil
}

func (r resolver) serve(conn net.Conn) {
	defer conn.Close()
	var length [2]byte
	for {
		if _, err := io.ReadFull(conn, length[:]); err != nil {
			return
		}
		question := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(conn, question); err != nil {
			return
		}
		end := 12
		for question[end] != 0 {
			end += 1 + int(question[end])
		}
		end += 5 // the root, kind and class
		kind := binary.BigEndian.Uint16(question[end-4:])
		code, address := r(kind)
		answer := append([]byte{0, 0}, question[:end]...)
		copy(answer[4:], []byte{0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0})
		if address != nil {
			answer[9] = 1
			answer = append(answer, 0xc0, 12, byte(kind>>8), byte(kind), 0, 1, 0, 0, 0, 60, 0, byte(len(address)))
			answer = append(answer, address...)
		}
		binary.BigEndian.PutUint16(answer, uint16(len(answer)-2))
		if _, err := conn.Write(answer); err != nil {
			return
		}
	}
}

// TestNameServer uses name servers that do not know the name, or do not work.
func TestNameServer(t *testing.T) {
	t.Parallel()
	silent := make(chan struct{})
	t.Cleanup(func() { close(silent) })
	tests := []struct {
		name     string
		resolver resolver
		says     string
		dns      bool // whether the error says that it is about DNS
	}{
		{"no such name", func(uint16) (byte, net.IP) { return noSuchName, nil }, "no such host", true},
		{"out of order", func(uint16) (byte, net.IP) { return serverFailure, nil }, "server misbehaving", true},
		{"silent", func(uint16) (byte, net.IP) { <-silent; return serverFailure, nil }, "no byte moved for 200ms", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv := uploadertest.NewServer(t, uploadertest.Options{})
			_, port, err := net.SplitHostPort(strings.TrimPrefix(srv.URL, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			upload := func(r resolver, stall time.Duration) (*uploader.Uploader, error) {
				tr := nftstorage.NewTransport()
				tr.DialContext = (&net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: r.dial}}).DialContext
				target := newTarget(t, srv, func(o *nftstorage.Options) {
					o.Endpoint, o.AllowHTTP, o.Transport, o.Stall = "http://api.example.org.:"+port, true, tr, stall
				})
				u := newUploader(t, target, uploader.Options{Retries: 2, Transfers: 1})
				_, err := uploadOne(t.Context(), u, input(t, randomFile(t, fileBytes, 1)))
				return u, err
			}
			u, err := upload(test.resolver, 200*time.Millisecond)
			var dns *net.DNSError
			if !errors.Is(err, uploader.ErrUnavailable) || errors.As(err, &dns) != test.dns || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v", err)
			}
			if test.dns && (dns == nil || dns.Name != "api.example.org.") {
				t.Errorf("the error does not say which name: %v", err)
			}
			if p := u.Progress(); p.Retries != 2 || p.BytesSent+p.BytesResent != 0 {
				t.Errorf("progress %+v", p)
			}
			_, err = upload(func(kind uint16) (byte, net.IP) {
				if kind == kindA {
					return 0, net.IPv4(127, 0, 0, 1).To4()
				}
				return 0, nil
			}, 0)
			if err != nil {
				t.Errorf("with a name server that works: %v", err)
			}
		})
	}
}

// TestProxy uses proxies that let requests through, and proxies that do not.
func TestProxy(t *testing.T) {
	t.Parallel()
	ca := uploadertest.NewAuthority(t)
	const user = "me:proxy-password"
	tests := []struct {
		name   string
		as     *url.Userinfo
		status int // the proxy's refusal
	}{
		{"known", url.UserPassword("me", "proxy-password"), 0},
		{"unknown", nil, http.StatusProxyAuthRequired},
		{"wrong password", url.UserPassword("me", "wrong-password"), http.StatusProxyAuthRequired},
	}
	for _, test := range tests {
		for _, tunnel := range []bool{false, true} {
			t.Run(test.name+map[bool]string{true: " for a tunnel"}[tunnel], func(t *testing.T) {
				t.Parallel()
				opts := uploadertest.Options{}
				if tunnel {
					opts.TLS = serving(ca)
				}
				srv := uploadertest.NewServer(t, opts)
				proxy := uploadertest.NewProxy(t, srv.URL, user)
				at := *proxy.URL
				at.User = test.as
				c := &clock{now: time.Unix(1e9, 0)}
				target := newTarget(t, srv, func(o *nftstorage.Options) { o.Transport = secure(t, ca.Pool(), &at) })
				u := newUploader(t, target, uploader.Options{Transfers: 2, Clock: c})
				path := randomFile(t, fileBytes, 1)
				_, err := uploadOne(t.Context(), u, input(t, path))
				requests, tunnels := proxy.Requests()
				if test.status == 0 {
					if err != nil || !srv.Store.Complete(rootOf(t, path)) || srv.Count(uploadertest.Upload).Bytes != u.Progress().BytesToSend {
						t.Errorf("error %v", err)
					}
					if tunnel != (tunnels > 0) || tunnel == (requests > 0) {
						t.Errorf("%d requests and %d tunnels", requests, tunnels)
					}
					return
				}
				var refused *nftstorage.ProxyError
				if !errors.As(err, &refused) || refused.Status != test.status || tunnel != (refused.Host == proxy.URL.Host) {
					t.Fatalf("error %v", err)
				}
				if strings.Contains(err.Error(), "password@") || strings.Contains(err.Error(), "-password") {
					t.Errorf("the error has the password: %v", err)
				}
				if again, _ := uploader.Retryable(err); again || len(c.slept()) > 0 {
					t.Errorf("%d waits for %v", len(c.slept()), err)
				}
				if n := u.Progress(); n.BytesSent+n.BytesResent != 0 || requests+tunnels > 0 {
					t.Errorf("progress %+v", n)
				}
			})
		}
	}
}

// TestProxyStatus: which replies of a proxy are worth another try.
func TestProxyStatus(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]bool{403: false, 404: false, 407: false, 408: true, 429: true, 502: true, 503: true, 504: true} {
		proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		at, err := url.Parse(proxy.URL)
		if err != nil {
			t.Fatal(err)
		}
		srv := uploadertest.NewServer(t, uploadertest.Options{})
		target := newTarget(t, srv, func(o *nftstorage.Options) { o.Endpoint, o.Transport = "https://api.example.org", secure(t, nil, at) })
		u := newUploader(t, target, uploader.Options{Transfers: 1})
		_, err = uploadOne(t.Context(), u, input(t, randomFile(t, fileBytes, 1)))
		var refused *nftstorage.ProxyError
		if !errors.As(err, &refused) || refused.Status != status || errors.Is(err, uploader.ErrUnavailable) != want {
			t.Errorf("status %d: error %v", status, err)
		}
		if err := target.Close(); err != nil {
			t.Error(err)
		}
		proxy.Close()
	}
}

// TestClosedBetweenShards: a server closes connections as soon as it has
// replied. No byte of a shard is sent twice because of that.
func TestClosedBetweenShards(t *testing.T) {
	t.Parallel()
	store := uploadertest.NewServer(t, uploadertest.Options{})
	srv := httptest.NewUnstartedServer(store)
	srv.Config.ConnState = func(c net.Conn, s http.ConnState) {
		if s == http.StateIdle {
			_ = c.Close()
		}
	}
	srv.Start()
	defer srv.Close()
	target := newTarget(t, store, func(o *nftstorage.Options) { o.Endpoint = srv.URL })
	u := newUploader(t, target, uploader.Options{})
	path := randomFile(t, fileBytes, 1)
	if _, err := uploadOne(t.Context(), u, input(t, path)); err != nil || !store.Store.Complete(rootOf(t, path)) {
		t.Fatalf("error %v", err)
	}
	if p := u.Progress(); store.Count(uploadertest.Upload).Bytes != p.BytesToSend || p.BytesResent != 0 {
		t.Errorf("%+v arrived, progress %+v", store.Count(uploadertest.Upload), p)
	}
}

// TestBreaker: a service that is down is sent a limited number of requests,
// however many shards and inputs are waiting.
func TestBreaker(t *testing.T) {
	t.Parallel()
	const retries, transfers = 5, 3
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	srv.Always(uploadertest.Upload, uploadertest.Status(http.StatusServiceUnavailable))
	u := newUploader(t, newTarget(t, srv), uploader.Options{Retries: retries, Transfers: transfers, NoResume: true})
	ins := make([]uploader.Input, 10)
	for i := range ins {
		ins[i] = input(t, randomFile(t, fileBytes, uint64(i)))
	}
	results := 0
	for _, err := range u.Upload(t.Context(), slices.Values(ins)) {
		results++
		if !errors.Is(err, uploader.ErrUnavailable) {
			t.Errorf("error %v", err)
		}
	}
	// Once the breaker is open, each shard that was started makes one more
	// attempt, and the first failure ends its input.
	n := srv.Count(uploadertest.Upload).Requests
	if most := (retries+1)*transfers + len(ins)*transfers; results != len(ins) || n > most {
		t.Errorf("%d results, %d requests, want at most %d", results, n, most)
	}
	if p := u.Progress(); p.BytesSent != 0 || p.ShardsDone != 0 {
		t.Errorf("progress %+v", p)
	}
	srv.Always(uploadertest.Upload, nil)
	if _, err := uploadOne(t.Context(), u, ins[0]); err != nil {
		t.Errorf("when it is up again: %v", err)
	}
}
