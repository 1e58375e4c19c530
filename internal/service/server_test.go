package service_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
)

// bounded serves s on another address, with few connections.
func bounded(t *testing.T, s *server, conns int) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := service.NewServer(s.svc.Handler(), service.ServerOptions{MaxConns: conns})
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(srv.Shutdown(context.Background()), <-ended); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// dial connects and sends a text.
func dial(t *testing.T, addr, send string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the server may have closed it
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, send); err != nil {
		t.Fatal(err)
	}
	return conn
}

// reply reads one reply. It returns the status and the Retry-After header.
func reply(t *testing.T, r io.Reader) (status int, retryAfter string) {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(r), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("Retry-After")
}

// hungUp waits until a connection is closed.
func hungUp(conn net.Conn) error {
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, conn)
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		return err
	}
	return nil // closed or reset
}

const health = "GET /healthz HTTP/1.1\r\nHost: any\r\n\r\n"

// If there are too many connections, the longest idle one is closed.
func TestIdleConnectionsGiveWay(t *testing.T) {
	t.Parallel()
	addr := bounded(t, newServer(t, options{}), 4)
	first := dial(t, addr, health)
	if status, _ := reply(t, first); status != 200 {
		t.Fatal(status)
	}
	silent := dial(t, addr, "")
	half := dial(t, addr, "GET / HTTP/1.1\r\nX:")
	for range 4 { // each is the newest in turn
		if status, _ := reply(t, dial(t, addr, health)); status != 200 {
			t.Fatal(status)
		}
	}
	for name, conn := range map[string]net.Conn{"idle": first, "silent": silent, "half": half} {
		if err := hungUp(conn); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// If all connections are busy, health checks are still answered, and other
// clients are asked to come back.
func TestHealthHasAWay(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	addr := bounded(t, s, 4)
	var busy []*bufio.Reader
	var conns []net.Conn
	for range 4 {
		conn := dial(t, addr, fmt.Sprintf("POST /upload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 50\r\nExpect: 100-continue\r\n\r\n", s.token))
		r := bufio.NewReader(conn)
		if line, err := r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
			t.Fatalf("%q %v", line, err)
		}
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		busy, conns = append(busy, r), append(conns, conn)
	}
	for range 100 { // connections without requests
		dial(t, addr, "")
	}
	if status, _ := reply(t, dial(t, addr, health)); status != 200 {
		t.Errorf("health: %d", status)
	}
	for range 20 {
		if status, retry := reply(t, dial(t, addr, "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")); status != 503 || retry == "" {
			t.Errorf("another request: %d, Retry-After %q", status, retry)
		}
	}
	for i, r := range busy {
		if _, err := conns[i].Write(make([]byte, 50)); err != nil {
			t.Fatal(err)
		}
		if status, _ := reply(t, r); status != 200 {
			t.Errorf("upload %d: %d", i, status)
		}
	}
	if status, _ := reply(t, dial(t, addr, "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")); status != 200 {
		t.Errorf("afterwards: %d", status)
	}
}

// After a refusal, the server reads on for a short time and then hangs up.
func TestRefusedAreHungUpOn(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	addr := bounded(t, s, 50)
	conns := make(map[string]net.Conn)
	for name, head := range map[string]string{
		"no key":      "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n",
		"chunks":      "POST /upload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
		"nothing":     "POST /nothing/at/all HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n",
		"large":       "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000000\r\n\r\n",
		"host":        "POST /upload HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 90000000\r\n\r\n",
		"gateway":     "POST /ipfs/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n",
		"a GET":       "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n",
		"go-ahead":    "POST /upload HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 90000000\r\n\r\n",
		"other route": "DELETE /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\n",
	} {
		conns[name] = dial(t, addr, head)
	}
	for name, conn := range conns {
		if status, _ := reply(t, conn); status < 400 {
			t.Errorf("%s: %d", name, status)
		}
	}
	for name, conn := range conns {
		if err := hungUp(conn); err != nil {
			t.Errorf("%s: still connected: %v", name, err)
		}
	}
}

// One key can't use up all connections or all the memory for incoming data.
// Uploads with another key and reads continue.
func TestShares(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{MaxConns: 80})
	_, other, err := s.st.CreateKey(t.Context(), store.KeyOptions{Name: "another"})
	if err != nil {
		t.Fatal(err)
	}
	root := s.putCAR(carOf(raw("held"))).upload(t).CID
	addr := s.http.Listener.Addr().String()
	large := fmt.Sprintf("POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/car\r\nAuthorization: Bearer %s\r\nContent-Length: 90000000\r\nExpect: 100-continue\r\n\r\n", s.token)
	begun := 0
	var conns []net.Conn
	for range 16 { // its whole share
		conn := dial(t, addr, large)
		if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil && line == "HTTP/1.1 100 Continue\r\n" {
			begun++
		}
		conns = append(conns, conn)
	}
	if begun != 16 {
		t.Fatalf("%d uploads began", begun)
	}
	for range 24 { // these wait for it
		conns = append(conns, dial(t, addr, large))
	}
	limited := func() bool {
		conn := dial(t, addr, large)
		if err := conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		if _, err := r.Peek(1); err != nil {
			return false // it is waiting
		}
		status, retry := reply(t, r)
		return status == 429 && retry != ""
	}
	waitFor(t, "too many requests of one key", limited)

	var blocks []block
	for i := range 10 {
		blocks = append(blocks, raw(fmt.Sprintf("%d %s", i, bytes.Repeat([]byte("x"), 500_000))))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second) // shorter than the others wait
	defer cancel()
	honest := *s
	honest.token = other
	if _, err := send(ctx, s.http.URL, other, carOf(blocks...)); err != nil {
		t.Errorf("another key's upload: %v", err)
	}
	if a := honest.do("GET", "/ipfs/"+root, nil); a.status != 200 || string(a.raw) != "held" {
		t.Errorf("reading: %d %s", a.status, a.raw)
	}
	if a := honest.do("GET", "/", nil); a.status != 200 {
		t.Errorf("another key's list: %d", a.status)
	}
	for _, conn := range conns {
		_ = conn.Close() // some were answered
	}
	waitFor(t, "the key to be served again", func() bool {
		a := s.putCAR(carOf(raw("again")))
		return a.status == 200
	})
}
