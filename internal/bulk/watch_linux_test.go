package bulk

import (
	"net"
	"testing"
	"time"
)

// slowLine is a connection whose other end reads only when told to.
func slowLine(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = peer.Close() })
	near, far = conn.(*net.TCPConn), peer.(*net.TCPConn)
	if err := near.SetWriteBuffer(1 << 20); err != nil {
		t.Fatal(err)
	}
	if err := far.SetReadBuffer(16 << 10); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// fill writes until the kernel takes no more.
func fill(t *testing.T, conn net.Conn) {
	t.Helper()
	chunk := make([]byte, 64<<10)
	for {
		if err := conn.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(chunk); err != nil {
			return
		}
	}
}

// drain reads some bytes at the far end, and waits until the near end knows.
func drain(t *testing.T, near, far net.Conn) {
	t.Helper()
	before, ok := sending(near)
	if !ok {
		t.Fatal("the system does not tell")
	}
	p := make([]byte, 128<<10)
	for {
		if _, err := far.Read(p); err != nil {
			t.Fatal(err)
		}
		if now, _ := sending(near); now.unsent < before.unsent {
			return
		}
	}
}

// TestWatchdogOnSlowLine checks a line that moves although the kernel's buffer
// is as full as before at each look, and then one that does not move.
func TestWatchdogOnSlowLine(t *testing.T) {
	t.Parallel()
	near, far := slowLine(t)
	barks := 0
	w := &Watchdog{stall: time.Hour, bark: func() { barks++ }, timer: time.NewTimer(time.Hour), conn: near}
	defer w.timer.Stop()
	look := func(want int, when string) {
		t.Helper()
		w.moved = time.Time{} // long ago
		if w.look(); barks != want {
			t.Fatalf("%s: %d barks, want %d", when, barks, want)
		}
	}
	fill(t, near)
	look(0, "full")
	for range 3 {
		// A single write that waits for room and gets it bit by bit.
		drain(t, near, far)
		fill(t, near)
		look(0, "refilled within a write")
	}
	for range 3 {
		// The buffer is nearly empty at one look and full at the next.
		drain(t, near, far)
		look(0, "drained")
		w.Alive()
		fill(t, near)
		look(0, "refilled by another write")
	}
	look(1, "standing still")
}

// TestWatchdogWaitsForReply: everything was acknowledged, but no reply comes.
func TestWatchdogWaitsForReply(t *testing.T) {
	t.Parallel()
	near, _ := slowLine(t)
	barks := 0
	w := &Watchdog{stall: time.Hour, bark: func() { barks++ }, timer: time.NewTimer(time.Hour), conn: near}
	defer w.timer.Stop()
	if w.look(); barks != 1 {
		t.Errorf("%d barks", barks)
	}
}
