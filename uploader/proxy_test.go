package uploader_test

import (
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

// network is a line to a server, with the faults of real lines.
type network struct {
	t       *testing.T
	addr    string // of its near end
	server  string
	url     string
	working sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener          // guarded by mu; nil while the line is down
	up, down bend                  // guarded by mu; nil for none
	healed   chan struct{}         // guarded by mu; closed when the faults end
	conns    map[net.Conn]struct{} // guarded by mu
}

// bend is a fault in one direction of a connection. It passes p on to one end,
// or breaks the connection by returning an error. before is the number of bytes
// that came before on this connection in this direction.
type bend func(to net.Conn, before int, p []byte, healed <-chan struct{}) error

var errLine = errors.New("the line breaks")

// cutAfter breaks the connection after n bytes.
func cutAfter(n int) bend {
	return func(to net.Conn, before int, p []byte, _ <-chan struct{}) error {
		if before+len(p) < n {
			_, err := to.Write(p)
			return err
		}
		_, err := to.Write(p[:n-before])
		return errors.Join(err, errLine)
	}
}

// resetLine breaks the connection with an error for both ends.
func resetLine(to net.Conn, _ int, _ []byte, _ <-chan struct{}) error {
	return errors.Join(errReset, to.(*net.TCPConn).SetLinger(0))
}

var errReset = errors.New("the line is reset")

// stallLine keeps bytes until the line is healed.
func stallLine(to net.Conn, _ int, p []byte, healed <-chan struct{}) error {
	<-healed
	_, err := to.Write(p)
	return err
}

// sliced sends n bytes at a time, with a pause after each.
func sliced(n int, pause time.Duration) bend {
	return func(to net.Conn, _ int, p []byte, healed <-chan struct{}) error {
		for part := range slices.Chunk(p, n) {
			if _, err := to.Write(part); err != nil {
				return err
			}
			late(pause, healed)
		}
		return nil
	}
}

// delayed sends bytes later.
func delayed(by time.Duration) bend {
	return func(to net.Conn, _ int, p []byte, healed <-chan struct{}) error {
		late(by, healed)
		_, err := to.Write(p)
		return err
	}
}

func late(by time.Duration, healed <-chan struct{}) {
	select {
	case <-time.After(by):
	case <-healed:
	}
}

func newNetwork(t *testing.T, srv *uploadertest.Server) *network {
	t.Helper()
	n := &network{t: t, addr: "127.0.0.1:0", server: strings.TrimPrefix(srv.URL, "http://"), healed: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	n.start()
	n.url = "http://" + n.addr
	t.Cleanup(func() {
		n.heal()
		n.stop()
		n.working.Wait()
	})
	return n
}

// start brings the line up, at the same address as before.
func (n *network) start() {
	n.t.Helper()
	l, err := net.Listen("tcp", n.addr)
	if err != nil {
		n.t.Error(err)
		return
	}
	n.mu.Lock()
	n.listener, n.addr = l, l.Addr().String()
	n.mu.Unlock()
	n.working.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return // stopped
			}
			n.working.Go(func() { n.connect(near) })
		}
	})
}

// stop takes it down, with all its connections.
func (n *network) stop() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listener != nil {
		_ = n.listener.Close() // it is not used any more
		n.listener = nil
	}
	for c := range n.conns {
		_ = c.Close() // the other end will notice
	}
}

// connect connects to the server for one connection to the line.
func (n *network) connect(near net.Conn) {
	far, err := net.Dial("tcp", n.server)
	if err != nil {
		_ = near.Close() // as the server would
		return
	}
	n.mu.Lock()
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	if n.listener == nil {
		_, _ = near.Close(), far.Close() // it was stopped meanwhile
	}
	n.mu.Unlock()
	var ways sync.WaitGroup
	ways.Go(func() { n.pass(near, far, func() bend { return n.up }) })
	ways.Go(func() { n.pass(far, near, func() bend { return n.down }) })
	ways.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, near)
	delete(n.conns, far)
	_, _ = near.Close(), far.Close() // both ends have seen the end
}

// pass passes on what comes from one end, through the current fault.
func (n *network) pass(from, to net.Conn, which func() bend) {
	buf := make([]byte, 32<<10)
	for before := 0; ; {
		k, err := from.Read(buf)
		if k > 0 {
			n.mu.Lock()
			f, healed := which(), n.healed
			n.mu.Unlock()
			if f == nil {
				_, err = to.Write(buf[:k])
			} else if failed := f(to, before, buf[:k], healed); failed != nil {
				if errors.Is(failed, errReset) {
					_ = from.(*net.TCPConn).SetLinger(0) // it is closed in any case
				}
				_, _ = from.Close(), to.Close() // this is the fault
				return
			}
			before += k
		}
		if err != nil {
			n.mu.Lock()
			f, healed := which(), n.healed
			n.mu.Unlock()
			if f != nil {
				_ = f(to, before, nil, healed) // even the end may be delayed
			}
			_ = to.(*net.TCPConn).CloseWrite() // the other direction may go on
			return
		}
	}
}

func (n *network) add(up, down bend) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.up, n.down = up, down
}

// heal ends all faults, even on existing connections.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.up, n.down = nil, nil
	close(n.healed)
	n.healed = make(chan struct{})
}

// TestNetwork sends through a line that fails until the first retry, or all the
// time.
func TestNetwork(t *testing.T) {
	t.Parallel()
	const continued = len("HTTP/1.1 100 Continue\r\n\r\n")
	tests := []struct {
		name     string
		up, down bend
		stays    bool // the fault outlasts the first retry
		stall    time.Duration
		resends  int // shards, at most
		retries  bool
	}{
		{"closed at once", cutAfter(0), nil, false, 0, 2, true},
		{"closed after a byte", cutAfter(1), nil, false, 0, 2, true},
		{"closed half-way", cutAfter(shardBytes / 2), nil, false, 0, 2, true},
		{"closed before the last byte", cutAfter(shardBytes - 1000), nil, false, 0, 2, true},
		{"reset", resetLine, nil, false, 0, 2, true},
		{"reply lost", nil, cutAfter(continued), false, 0, 2, true},
		{"reply cut", nil, cutAfter(continued + 100), false, 0, 2, true},
		{"stalled", stallLine, nil, false, 400 * time.Millisecond, 2, true},
		{"reply stalled", nil, stallLine, false, 400 * time.Millisecond, 2, true},
		{"slow line", sliced(2000, 10*time.Millisecond), nil, true, 5 * time.Second, 0, false},
		{"far away, and slow to close", nil, delayed(100 * time.Millisecond), true, 0, 0, false},
		{"in slices", sliced(700, 10*time.Microsecond), nil, true, 0, 0, false},
		{"replies byte by byte", nil, sliced(1, 10*time.Microsecond), true, 0, 0, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv := uploadertest.NewServer(t, uploadertest.Options{})
			line := newNetwork(t, srv)
			path := randomFile(t, fileBytes, 1)
			line.add(test.up, test.down)
			var once sync.Once
			obs := observerFunc(func(e uploader.Event) {
				if _, ok := e.(uploader.Retrying); ok && !test.stays {
					once.Do(line.heal)
				}
			})
			target := newTarget(t, srv, func(o *nftstorage.Options) { o.Endpoint, o.Stall = line.url, test.stall })
			u := newUploader(t, target, uploader.Options{Observer: obs, Transfers: 2, NoResume: true})
			r, err := uploadOne(t.Context(), u, input(t, path))
			if err != nil || !srv.Store.Complete(rootOf(t, path)) {
				t.Fatalf("%+v, %v", r, err)
			}
			p := u.Progress()
			if (p.Retries > 0) != test.retries {
				t.Errorf("%d retries", p.Retries)
			}
			if p.BytesSent != p.BytesToSend || r.Sent != p.BytesToSend {
				t.Errorf("progress %+v", p)
			}
			if most := p.BytesToSend + int64(test.resends)*shardBytes; srv.Count(uploadertest.Upload).Bytes > most {
				t.Errorf("%d bytes arrived, want at most %d", srv.Count(uploadertest.Upload).Bytes, most)
			}
		})
	}
}

// TestRefusedConnections: the service is down, and comes up later or never.
func TestRefusedConnections(t *testing.T) {
	t.Parallel()
	for _, comes := range []bool{true, false} {
		srv := uploadertest.NewServer(t, uploadertest.Options{})
		line := newNetwork(t, srv)
		line.stop()
		retries := 0
		obs := observerFunc(func(e uploader.Event) {
			if _, ok := e.(uploader.Retrying); !ok {
				return
			}
			if retries++; retries == 3 && comes {
				line.start()
			}
		})
		c := &clock{now: time.Unix(1e9, 0)}
		target := newTarget(t, srv, func(o *nftstorage.Options) { o.Endpoint = line.url })
		u := newUploader(t, target, uploader.Options{Observer: obs, Transfers: 1, Clock: c})
		_, err := uploadOne(t.Context(), u, input(t, randomFile(t, fileBytes, 1)))
		if comes && err != nil || !comes && !errors.Is(err, uploader.ErrUnavailable) {
			t.Errorf("comes %t: error %v", comes, err)
		}
		for i, wait := range c.slept() {
			if most := 2 * time.Second << i; wait > most {
				t.Errorf("wait %d was %s, want at most %s", i, wait, most)
			}
		}
		if want := map[bool]int{true: 3, false: uploader.DefaultRetries}[comes]; retries != want {
			t.Errorf("comes %t: %d retries, want %d", comes, retries, want)
		}
	}
}
