package cli_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/carload/carload/uploader/uploadertest"
)

// blocked is an upload whose only shard does not arrive before go is closed.
func blocked(t *testing.T, args ...string) (cmd *exec.Cmd, reached <-chan struct{}, arrive chan struct{}) {
	t.Helper()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	at, arrive := make(chan struct{}), make(chan struct{})
	srv.Script(uploadertest.Upload, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		close(at)
		select {
		case <-arrive:
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
	home := t.TempDir()
	return upTo(t, srv, home, append(args, randomFile(t, home, 16<<20))...), at, arrive
}

// On a terminal, the message for Ctrl-C has its own line, and a second Ctrl-C
// leaves nothing of the bars.
func TestSignalsOnATerminal(t *testing.T) {
	t.Parallel()
	cmd, reached, _ := blocked(t)
	m := newTerminal(t, 90, 20)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = m.tty, m.tty, m.tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-reached
	m.await(func(s string) bool { return strings.Contains(s, "sending") && strings.Contains(s, "0 of 1 shard") })
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	m.await(func(s string) bool {
		return strings.Contains(s, "\r \x1b[J\r0s: hashing") || strings.Contains(s, "s: hashing 16.0 MiB of 16.0 MiB (100 %)")
	})
	m.resize(40, 20)

	// Ctrl-Z leaves the terminal to the shell. A mark written after the stop
	// shows that everything before it has arrived.
	if err := cmd.Process.Signal(syscall.SIGTSTP); err != nil {
		t.Fatal(err)
	}
	awaitStopped(t, cmd.Process.Pid)
	if _, err := m.tty.WriteString("$ fg"); err != nil {
		t.Fatal(err)
	}
	m.await(func(s string) bool { return strings.HasSuffix(s, "$ fg") })
	before, _, _ := strings.Cut(m.text(), "$ fg")
	if !strings.HasSuffix(before, "\r \x1b[J\r") {
		t.Errorf("it stopped and left %q", before[max(0, len(before)-200):])
	}
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	m.await(func(s string) bool {
		_, after, _ := strings.Cut(s, "$ fg")
		return strings.Contains(after, "sending  ")
	})

	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	m.await(func(s string) bool {
		_, after, found := strings.Cut(s, "\r \x1b[J\rcarload: interrupt: stopping; a second signal stops at once\r\n")
		return found && strings.Contains(after, "\r \x1b[J\rwaiting for 1 shard in flight") && strings.Contains(after, "sending  ")
	})
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	// If SIGINT was ignored when the tests began, carload exits with the code.
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 && !exit.Sys().(syscall.WaitStatus).Signaled() { //nolint:forcetypeassert // of this system
		t.Errorf("it ended with %v, and not by the signal", err)
	}
	if text := m.hangUp(); !strings.HasSuffix(text, "\r \x1b[J\r") {
		t.Errorf("it left %q", text[max(0, len(text)-200):])
	}
}

// awaitStopped waits until a process is stopped.
func awaitStopped(t *testing.T, pid int) {
	t.Helper()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for range poll.C {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, state, _ := strings.Cut(string(stat), ") ")
		if strings.HasPrefix(state, "T") {
			return
		}
	}
}

// A signal prints a snapshot also without a terminal and with --quiet.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	cmd, reached, arrive := blocked(t, "--quiet", "--json")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-reached
	if err := cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 1000)
	n, err := stderr.Read(said)
	if line := string(said[:n]); err != nil || !strings.Contains(line, "hashing 16.0 MiB of 16.0 MiB (100 %); sending ") || !strings.Contains(line, "0 of 1 shard") {
		t.Errorf("it said %q, %v", line, err)
	}
	close(arrive)
	if err := cmd.Wait(); err != nil || !strings.Contains(stdout.String(), `"type":"progress"`) {
		t.Errorf("%v\n%s", err, stdout.String())
	}
}
