package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is a pseudo-terminal that keeps what commands write to it.
type terminal struct {
	t        *testing.T
	pty, tty *os.File
	done     chan struct{}

	mu     sync.Mutex
	wrote  bytes.Buffer
	change chan struct{} // closed and replaced at each write
}

func newTerminal(t *testing.T, columns, rows uint16) *terminal {
	t.Helper()
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	m := &terminal{t: t, pty: pty, tty: tty, done: make(chan struct{}), change: make(chan struct{})}
	m.resize(columns, rows)
	go m.read()
	t.Cleanup(func() { m.hangUp(); _ = pty.Close() })
	return m
}

func (m *terminal) resize(columns, rows uint16) {
	m.t.Helper()
	if err := unix.IoctlSetWinsize(int(m.pty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *terminal) read() {
	defer close(m.done)
	buf := make([]byte, 4<<10)
	for {
		n, err := m.pty.Read(buf)
		m.mu.Lock()
		m.wrote.Write(buf[:n])
		close(m.change)
		m.change = make(chan struct{})
		m.mu.Unlock()
		if err != nil {
			return // nobody has the terminal open any more
		}
	}
}

// hangUp closes this side, and waits for the last output of others.
func (m *terminal) hangUp() string {
	_ = m.tty.Close()
	<-m.done
	return m.text()
}

func (m *terminal) text() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.wrote.String()
}

// await waits until the output fulfils a condition.
func (m *terminal) await(is func(string) bool) {
	for {
		m.mu.Lock()
		text, change := m.wrote.String(), m.change
		m.mu.Unlock()
		if is(text) {
			return
		}
		select {
		case <-change:
		case <-m.done:
			m.t.Fatalf("it ended with:\n%s", text)
		}
	}
}

// run runs a command on the terminal.
func (m *terminal) run(cmd *exec.Cmd) string {
	m.t.Helper()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = m.tty, m.tty, m.tty
	if err := cmd.Run(); err != nil {
		m.t.Fatalf("%v: %v\n%s", cmd.Args, err, m.text())
	}
	return strings.ReplaceAll(m.hangUp(), "\r\n", "\n")
}
