package service_test

import (
	"bufio"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rawRequest sends raw bytes and returns the connection.
func rawRequest(t *testing.T, s *server, head string, body []byte) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // some tests close it themselves
	if _, err := fmt.Fprintf(conn, "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/car\r\nAuthorization: Bearer %s\r\n%s\r\n", s.token, head); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(body); err != nil {
		t.Fatal(err)
	}
	return conn
}

func statusOf(t *testing.T, conn net.Conn) int {
	t.Helper()
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode
}

// TestUnreadBody checks that a body which nobody reads does not harm the next
// request on the connection.
func TestUnreadBody(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	for range 1000 {
		if a := s.do("GET", "/pins", []byte("{}")); a.status != http.StatusOK {
			t.Fatalf("%d %s", a.status, a.raw)
		}
	}
}

func TestBodies(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir, IdleTimeout: 200 * time.Millisecond})
	shard := carOf(raw("body"))
	empty := files(t, dir)

	conn := rawRequest(t, s, fmt.Sprintf("Content-Length: %d\r\n", len(shard)+5), shard)
	if got := statusOf(t, conn); got != 400 { // the body stalls before its end
		t.Errorf("slow body: %d", got)
	}
	conn = rawRequest(t, s, fmt.Sprintf("Content-Length: %d\r\n", len(shard)+5), shard)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the dropped upload is cleared away", func() bool { return files(t, dir) == empty })
	conn = rawRequest(t, s, fmt.Sprintf("Content-Length: %d\r\n", len(shard)-5), shard[:len(shard)-5])
	if got := statusOf(t, conn); got != 500 { // a complete body, but a truncated CAR
		t.Errorf("short body: %d", got)
	}
	chunked := fmt.Sprintf("%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", 10, shard[:10], len(shard)-10, shard[10:])
	conn = rawRequest(t, s, "Transfer-Encoding: chunked\r\n", []byte(chunked))
	if got := statusOf(t, conn); got != 200 {
		t.Errorf("chunked: %d", got)
	}
	conn = rawRequest(t, s, fmt.Sprintf("Content-Length: %d\r\nExpect: 100-continue\r\n", len(shard)), nil)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q %v", line, err)
	}
	if _, err := conn.Write(shard); err != nil {
		t.Fatal(err)
	}
	if got := statusOf(t, conn); got != 200 {
		t.Errorf("after 100-continue: %d", got)
	}
}

// Some clients close their side of the connection after the body. They must
// still get the reply, and the reply must be true.
func TestAnswerAfterHalfClose(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	db, err := sql.Open("sqlite", filepath.Join(dir, "index.db"))
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := db.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	block := raw("half closed")
	shard := carOf(block)
	conn := rawRequest(t, s, fmt.Sprintf("Content-Length: %d\r\n", len(shard)), shard)
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the shard at the index", func() bool { return strings.Contains(files(t, dir), ".car") })
	if _, err := db.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 200 || !strings.Contains(string(body), block.CID.String()) {
		t.Errorf("%s with body %q", res.Status, body)
	}
}

// A request that ended because the client closed its side must not be answered
// as a success.
func TestHalfCloseIsNoSuccess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir, Discard: true, BufferBytes: 1})
	rawRequest(t, s, "Content-Length: 50000000\r\n", carOf(raw(strings.Repeat("a", 1<<20)), raw(strings.Repeat("b", 1<<20)),
		raw(strings.Repeat("c", 1<<20)), raw(strings.Repeat("d", 1<<20)), raw(strings.Repeat("e", 1<<20))))
	waitFor(t, "the first upload to have all the memory", func() bool {
		received, err := filepath.Glob(filepath.Join(dir, "incoming", "*"))
		if err != nil || len(received) == 0 {
			return false
		}
		st, err := os.Stat(received[0])
		return err == nil && st.Size() > 0
	})
	conn, err := net.Dial("tcp", s.http.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := fmt.Fprintf(conn, "POST /upload HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nContent-Length: 4\r\n\r\nblob", s.token); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := statusOf(t, conn); got != 503 {
		t.Errorf("%d", got)
	}
}

// Uploads that each take a whole buffer wait for one, even if they would fit
// into less.
func TestMemoryIsCountedAsTaken(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{Discard: true, BufferBytes: 1})
	const head = "Content-Length: 2000000\r\nExpect: 100-continue\r\n"
	first := rawRequest(t, s, head, nil)
	if line, err := bufio.NewReader(first).ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q %v", line, err)
	}
	second := rawRequest(t, s, head, nil)
	if err := second.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(second).ReadString('\n'); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%q %v", line, err)
	}
	if err := errors.Join(first.Close(), second.SetReadDeadline(time.Time{})); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(second).ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q %v", line, err)
	}
}

// A client that sends its whole body before it reads must get the reply, even
// if the reply was known after the first block.
func TestAnswerSurvivesALongBody(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	body := flip(carOf(raw("first")), -1)
	body = append(body, make([]byte, 32<<20)...)
	conn := rawRequest(t, s, fmt.Sprintf("Content-Length: %d\r\n", len(body)), body)
	if got := statusOf(t, conn); got != 400 {
		t.Errorf("%d", got)
	}
	stranger := *s
	stranger.token = "nonsense"
	conn = rawRequest(t, &stranger, fmt.Sprintf("Content-Length: %d\r\n", len(body)), body)
	if got := statusOf(t, conn); got != 401 {
		t.Errorf("%d", got)
	}
}
