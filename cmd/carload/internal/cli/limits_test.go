//go:build unix

package cli_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/carload/carload/uploader/uploadertest"
)

// With few descriptors (Go needs seven to start), an upload works or says what
// it lacks. It prints no root for an incomplete upload, and the same command
// works with more descriptors.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	home := t.TempDir()
	file := randomFile(t, home, 6<<20)
	root, err := newCommand(t, home, "cid", "-Q", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	up := func(descriptors int, args ...string) (stdout, stderr string, code int) {
		cmd := upTo(t, srv, home, append([]string{"-Q", "--retries", "0", "--max-shard-bytes", "1100kB", "--transfers", "6", file}, args...)...)
		if descriptors > 0 {
			cmd.Args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec carload "$@"`, descriptors)}, cmd.Args...)
			if cmd.Path, err = exec.LookPath("sh"); err != nil {
				t.Fatal(err)
			}
		}
		var out, errOut bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errOut
		code = exitCode(cmd.Run())
		return out.String(), errOut.String(), code
	}
	refused := 0
	for _, n := range []int{8, 9, 11, 13, 16, 20, 64} {
		srv.Store.Reset()
		ledger := []string{"--ledger", fmt.Sprintf("ledger-%d", n)}
		stdout, stderr, code := up(n, ledger...)
		switch {
		case code == 0 && stdout == string(root):
		case code == 0 || stdout != "" || !strings.Contains(stderr, "too many open files") || !strings.Contains(stderr, "hint: raise the limit on open files") || strings.Contains(stderr, "goroutine"):
			t.Errorf("%d descriptors: exit code %d, %q\n%s", n, code, stdout, stderr)
		case n == 64:
			t.Errorf("%d descriptors: exit code %d\n%s", n, code, stderr)
		default:
			refused++
		}
		if stdout, stderr, code := up(0, ledger...); code != 0 || stdout != string(root) {
			t.Errorf("after %d descriptors: exit code %d, %q\n%s", n, code, stdout, stderr)
		}
	}
	if refused == 0 {
		t.Error("there were always enough")
	}
}

// An upload keeps within a memory budget that is far smaller than the file.
func TestMemoryLimit(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells how much memory a program took, without what its parent had when it began")
	}
	t.Parallel()
	const budget = 48 << 20
	size := int64(256 << 20)
	if underRace {
		size = 32 << 20 // the race detector uses more memory
	}
	home := t.TempDir()
	file := randomFile(t, home, size)
	url := startService(t, home, "serve", "-q", "--discard", "--store", "service", "--listen", "127.0.0.1:0")
	cmd := newCommand(t, home, "up", "-Q", "--endpoint", url, "--token-file", filepath.Join("service", "local-token"), "--transfers", "8", "--max-shard-bytes", "20MB", file)
	cmd.Env = append(cmd.Env, fmt.Sprintf("GOMEMLIMIT=%d", budget))
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	peaks := make(chan int64)
	go func() { peaks <- peakMemory(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	close(ended)
	peak := <-peaks
	if err != nil || out.Len() == 0 {
		t.Fatalf("%q, %v", &out, err)
	}
	if peak == 0 {
		t.Fatal("its memory was never looked at")
	}
	// Go does not count the program itself.
	if most := int64(budget + 48<<20); peak > most && !underRace {
		t.Errorf("%d MiB at most, want %d", peak>>20, most>>20)
	}
	t.Logf("%d MiB at most, for a file of %d MiB and GOMEMLIMIT of %d MiB", peak>>20, size>>20, budget>>20)
}

// peakMemory returns the peak memory of a process until it ended, as far as it
// can be observed from outside.
func peakMemory(pid int, ended <-chan struct{}) (peak int64) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return peak
		case <-tick.C:
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue // the process has ended
		}
		for line := range strings.Lines(string(status)) {
			var kilobytes int64
			if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); n == 1 {
				peak = max(peak, kilobytes<<10)
			}
		}
	}
}
