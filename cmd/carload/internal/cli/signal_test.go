//go:build unix

package cli_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/carload/carload/uploader/uploadertest"
)

// line is the part of a JSON line that the tests read.
type line struct {
	V     int       `json:"v"`
	Type  string    `json:"type"`
	Time  time.Time `json:"time"`
	Index int       `json:"index"`
	Held  bool      `json:"held"`
	Root  string    `json:"root"`
}

// newCommand is carload with its own home directory.
func newCommand(t *testing.T, home string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("carload", args...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=50"}
	cmd.Dir = home
	return cmd
}

func randomFile(t *testing.T, dir string, size int64) string {
	t.Helper()
	path := filepath.Join(dir, "movie")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte{2}), size)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

func exitCode(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		return -2
	}
	return 0
}

// An upload that must stop finishes what is in flight and says how to resume,
// and the same command then continues.
func TestStopAndGoOn(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		signal os.Signal
		code   int
	}{{os.Interrupt, 130}, {syscall.SIGTERM, 143}} {
		t.Run(tt.signal.String(), func(t *testing.T) {
			t.Parallel()
			home := t.TempDir()
			file := randomFile(t, home, 12<<20)
			args := []string{"up", "--json", "--max-shard-bytes", "1100kB", "--transfers", "1", "--bwlimit", "8MB", file}

			var stderr bytes.Buffer
			cmd := newCommand(t, home, args...)
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			sent := 0
			for lines := bufio.NewScanner(stdout); lines.Scan(); {
				var l line
				if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
					t.Errorf("%s: %v", lines.Text(), err)
				}
				if l.Type != "shard" {
					continue
				}
				if sent++; sent == 2 {
					if err := cmd.Process.Signal(tt.signal); err != nil {
						t.Fatal(err)
					}
				}
			}
			if code := exitCode(cmd.Wait()); code != tt.code {
				t.Fatalf("exit code %d, want %d\n%s", code, tt.code, stderr.String())
			}
			if want := "carload up --json"; !strings.Contains(stderr.String(), want) {
				t.Errorf("standard error does not say %q:\n%s", want, stderr.String())
			}

			out, err := newCommand(t, home, args...).Output()
			if err != nil {
				t.Fatalf("the same command again: %v", err)
			}
			held := 0
			for text := range strings.Lines(string(out)) {
				var l line
				if err := json.Unmarshal([]byte(text), &l); err != nil {
					t.Fatalf("%s: %v", text, err)
				}
				if l.Type == "shard" && l.Held {
					held++
				}
			}
			if held != sent {
				t.Errorf("%d shards were there, %d had been sent", held, sent)
			}
		})
	}
}

// A stop says what it waits for.
func TestStopSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	reached, goOn := make(chan struct{}), make(chan struct{})
	srv.Script(uploadertest.Upload, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		close(reached)
		select {
		case <-goOn:
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
	home := t.TempDir()
	up := upTo(t, srv, home, "--bwlimit", "1GB", randomFile(t, home, 16<<20))
	stderr, err := up.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Start(); err != nil {
		t.Fatal(err)
	}
	<-reached
	if err := up.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	said := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if strings.Contains(lines.Text(), "waiting for 1 shard in flight") && strings.Contains(lines.Text(), "MiB left, about ") {
			said = true
			close(goOn)
		}
	}
	if code := exitCode(up.Wait()); code != 0 || !said {
		t.Errorf("exit code %d, said %t", code, said)
	}
}

// A signal while the source is hashed, or while the service is asked whether it
// has everything, ends the command soon; the same command then completes.
func TestStopBeforeAndAfterSending(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{"hashing", "verifying"} {
		t.Run(phase, func(t *testing.T) {
			t.Parallel()
			srv := uploadertest.NewServer(t, uploadertest.Options{})
			home := t.TempDir()
			file := randomFile(t, home, 3<<20)
			reached := make(chan struct{})
			var once sync.Once
			args := []string{"--json", file}
			if phase == "hashing" {
				// While and after the first input is sent, the next one is
				// hashed: zeros, for seconds.
				large := file + "-large"
				if err := errors.Join(os.WriteFile(large, nil, 0o600), os.Truncate(large, 31<<30)); err != nil {
					t.Fatal(err)
				}
				args = append(args, large)
			} else {
				srv.Always(uploadertest.Check, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					once.Do(func() { close(reached) })
					uploadertest.Reports("pinning")(w, r, next)
				})
			}
			up := upTo(t, srv, home, args...)
			stdout, err := up.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := up.Start(); err != nil {
				t.Fatal(err)
			}
			read := make(chan struct{})
			go func() {
				defer close(read)
				for lines := bufio.NewScanner(stdout); lines.Scan(); {
					if phase == "hashing" && strings.Contains(lines.Text(), `"type":"file"`) {
						once.Do(func() { close(reached) })
					}
				}
			}()
			select {
			case <-reached:
			case <-read:
				t.Error("it ended before the signal")
			}
			started := time.Now()
			if err := up.Process.Signal(os.Interrupt); err != nil {
				t.Fatal(err)
			}
			<-read
			if code := exitCode(up.Wait()); code != 130 {
				t.Errorf("exit code %d, want 130", code)
			}
			if took := time.Since(started); took > 5*time.Second {
				t.Errorf("it took %s to end", took)
			}
			srv.Always(uploadertest.Check, nil)
			if out, err := upTo(t, srv, home, "-Q", file).Output(); err != nil || len(out) == 0 {
				t.Errorf("the same command again: %q, %v", out, err)
			}
			if n := srv.Count(uploadertest.Upload).Requests; n != 1 {
				t.Errorf("%d shards were sent, want 1", n)
			}
		})
	}
}

// A second signal ends the command at once, even if the signal was ignored when
// the command began, as for background processes of scripts.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	for _, ignored := range []bool{false, true} {
		t.Run(fmt.Sprintf("ignored %t", ignored), func(t *testing.T) {
			t.Parallel()
			secondSignal(t, ignored)
		})
	}
}

func secondSignal(t *testing.T, ignored bool) {
	t.Helper()
	home := t.TempDir()
	file := randomFile(t, home, 4<<20)
	cmd := newCommand(t, home, "up", "--json", "--bwlimit", "100kB", file)
	if ignored {
		sh, err := exec.LookPath("sh")
		if err != nil {
			t.Fatal(err)
		}
		cmd.Path, cmd.Args = sh, append([]string{"sh", "-c", `trap "" INT; exec carload "$@"`}, cmd.Args...)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stdout); lines.Scan() && !strings.Contains(lines.Text(), `"plan"`); {
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(stderr); lines.Scan() && !strings.Contains(lines.Text(), "a second signal"); {
	}
	started := time.Now()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	err = cmd.Wait()
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("it took %s to end", took)
	}
	if err == nil {
		t.Error("it ended as if all was well")
	}
}

// Waiting for standard input ends with a signal, and leaves nothing behind.
func TestStopReading(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	cmd := newCommand(t, home, "cid", "-v", "-")
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdin = in
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteString("the beginning"); err != nil {
		t.Fatal(err)
	}
	// The spool directory appears when carload begins to read.
	spool := filepath.Join(home, ".cache", "carload", "spool")
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err := os.Stat(spool); err == nil {
			break
		}
		<-poll.C
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(cmd.Wait()); code != 130 {
		t.Errorf("exit code %d, want 130", code)
	}
	left, err := os.ReadDir(spool)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the spool: %v, %v", left, err)
	}
}
