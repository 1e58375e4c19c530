package uploader_test

import (
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

// blackHole is a TCP address on a loopback interface that never responds: its
// queue of connections is full, so the system drops new ones.
func blackHole(t *testing.T, family int, address unix.Sockaddr) (port int) {
	t.Helper()
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	if err := unix.Bind(fd, address); err != nil {
		t.Skipf("no such address here: %v", err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := net.JoinHostPort("::1", "0")
	switch name := name.(type) {
	case *unix.SockaddrInet4:
		port, at = name.Port, fmt.Sprintf("127.0.0.1:%d", name.Port)
	case *unix.SockaddrInet6:
		port, at = name.Port, fmt.Sprintf("[::1]:%d", name.Port)
	}
	for range 8 {
		c, err := net.DialTimeout("tcp", at, 100*time.Millisecond)
		if err != nil {
			return port // full
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Skip("the queue does not get full")
	return 0
}

// TestBlackHole: connections that are not even refused are given up when
// nothing moves.
func TestBlackHole(t *testing.T) {
	t.Parallel()
	port := blackHole(t, unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	target := newTarget(t, srv, func(o *nftstorage.Options) {
		o.Endpoint, o.Stall = fmt.Sprintf("http://127.0.0.1:%d", port), 200*time.Millisecond
	})
	u := newUploader(t, target, uploader.Options{Retries: 2, Transfers: 1})
	start := time.Now()
	_, err := uploadOne(t.Context(), u, input(t, randomFile(t, fileBytes, 1)))
	if !errors.Is(err, uploader.ErrUnavailable) || !strings.Contains(err.Error(), "no byte moved for 200ms") {
		t.Errorf("error %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	if p := u.Progress(); p.Retries != 2 || p.BytesSent+p.BytesResent != 0 {
		t.Errorf("progress %+v", p)
	}
}

// TestBlackHoleBesideTheWay: the first of a name's two addresses never
// responds. The other one is used without a retry.
func TestBlackHoleBesideTheWay(t *testing.T) {
	t.Parallel()
	port := blackHole(t, unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte{15: 1}})
	store := uploadertest.NewServer(t, uploadertest.Options{})
	srv := httptest.NewUnstartedServer(store)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Skipf("the port is not free: %v", err)
	}
	_ = srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	names := resolver(func(kind uint16) (byte, net.IP) {
		if kind == kindAAAA {
			return 0, net.IPv6loopback
		}
		return 0, net.IPv4(127, 0, 0, 1).To4()
	})
	var asked atomic.Bool
	tr := nftstorage.NewTransport()
	dialer := &net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: names.dial}}
	dialer.Control = func(network, _ string, _ syscall.RawConn) error {
		if network == "tcp6" {
			asked.Store(true)
		}
		return nil
	}
	tr.DialContext = dialer.DialContext
	target := newTarget(t, store, func(o *nftstorage.Options) {
		o.Endpoint, o.AllowHTTP, o.Transport = fmt.Sprintf("http://api.example.org.:%d", port), true, tr
	})
	u := newUploader(t, target, uploader.Options{Transfers: 1})
	path := randomFile(t, fileBytes, 1)
	if _, err := uploadOne(t.Context(), u, input(t, path)); err != nil || !store.Store.Complete(rootOf(t, path)) || u.Progress().Retries > 0 {
		t.Errorf("error %v, %+v", err, u.Progress())
	}
	if !asked.Load() {
		t.Error("the black hole was not asked")
	}
}
