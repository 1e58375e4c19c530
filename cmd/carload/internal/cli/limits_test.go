//go:build unix

package cli_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/carload/carload/uploader/uploadertest"
)

// With few descriptors (Go needs seven to begin) an upload does its work or
// says what it lacks: no root is printed for what is not there, and nothing is
// in the way of the same command with more of them.
func TestFewDescriptors(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	home := t.TempDir()
	file := randomFile(t, home, 6<<20)
	root, err := newCommand(t, home, "cid", "-Q", file).Output()
	if err != nil {
		t.Fatal(err)
	}
	// What the tests were started with may be open in children, too.
	const alone = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-;"
	up := func(descriptors int, args ...string) (stdout, stderr string, code int) {
		cmd := upTo(t, srv, home, append([]string{"-Q", "--retries", "0", "--max-shard-bytes", "1100kB", "--transfers", "6", file}, args...)...)
		if descriptors > 0 {
			cmd.Args = append([]string{"sh", "-c", fmt.Sprintf(`%s ulimit -n %d; exec carload "$@"`, alone, descriptors)}, cmd.Args...)
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
		case code == 0 || stdout != "" || !strings.Contains(stderr, "too many open files") || !strings.Contains(stderr, "hint: let it have more") || strings.Contains(stderr, "goroutine"):
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

// An upload keeps within a budget of memory that is far smaller than the file.
func TestMemoryLimit(t *testing.T) {
	// Not parallel: the system counts what the parent had when the child began.
	const budget = 48 << 20
	size := int64(256 << 20)
	if underRace {
		size = 32 << 20 // and memory is not what it is
	}
	home := t.TempDir()
	file := randomFile(t, home, size)
	url := startService(t, home, "serve", "-q", "--discard", "--store", "service", "--listen", "127.0.0.1:0")
	cmd := newCommand(t, home, "up", "-Q", "--endpoint", url, "--token-file", filepath.Join("service", "local-token"), "--transfers", "8", "--max-shard-bytes", "20MB", file)
	cmd.Env = append(cmd.Env, fmt.Sprintf("GOMEMLIMIT=%d", budget))
	out, err := cmd.Output()
	if err != nil || len(out) == 0 {
		t.Fatalf("%q, %v", out, err)
	}
	usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		t.Skip("the system does not tell how much memory it took")
	}
	peak := usage.Maxrss
	if runtime.GOOS == "linux" {
		peak <<= 10
	}
	// Beside what Go counts there is the program itself.
	if most := int64(budget + 48<<20); peak > most && !underRace {
		t.Errorf("%d MiB at most, want %d", peak>>20, most>>20)
	}
	t.Logf("%d MiB at most, for a file of %d MiB and GOMEMLIMIT of %d MiB", peak>>20, size>>20, budget>>20)
}
