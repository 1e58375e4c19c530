//go:build unix

package cli_test

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func mkfifo(t *testing.T) string {
	t.Helper()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	return pipe
}

// A file that appears when it is complete does not take the place of a pipe or
// a device, and a link to it stays.
func TestOutputKeepsPipes(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	source, ledger := filepath.Join(home, "source"), filepath.Join(home, "ledger.db")
	if err := os.WriteFile(source, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := hostile(t, "up", source, "--to", "dir:"+filepath.Join(home, "out"), "--ledger", ledger); err != nil {
		t.Fatal(err, out)
	}
	for _, args := range [][]string{
		{"cid", source, "--report"},
		{"ledger", "export", "--ledger", ledger, "-o"},
		{"ledger", "report", "--ledger", ledger, "-o"},
	} {
		pipe := mkfifo(t)
		out, err := hostile(t, append(args, pipe)...)
		if err == nil || !strings.Contains(out, "not a regular file") {
			t.Errorf("%s: %v, %s", args, err, out)
		}
		if info, err := os.Lstat(pipe); err != nil || info.Mode()&os.ModeNamedPipe == 0 {
			t.Errorf("%s: the pipe is gone: %v", args, err)
		}
		link, file := filepath.Join(t.TempDir(), "link"), filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(file, link); err != nil {
			t.Fatal(err)
		}
		if out, err := hostile(t, append(args, link)...); err != nil {
			t.Errorf("%s: %v, %s", args, err, out)
		}
		if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
			t.Errorf("%s: the link is gone: %v", args, err)
		}
	}
}

// A list may come from a program that begins later. Until then carload says
// what it waits for.
func TestListFromLatePipe(t *testing.T) {
	t.Parallel()
	pipe, source := mkfifo(t), filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := newCommand(t, t.TempDir(), "cid", "--files-from", pipe)
	var stdout strings.Builder
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killer := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer killer.Stop()
	lines := bufio.NewScanner(stderr)
	if !lines.Scan() || !strings.Contains(lines.Text(), "waiting for a program that writes to "+pipe) {
		t.Error(lines.Text())
	}
	w, err := os.OpenFile(pipe, os.O_RDWR, 0) // does not wait for a reader
	if err != nil {
		t.Fatal(err)
	}
	_, _ = fmt.Fprintln(w, source)
	time.AfterFunc(time.Second, func() { _ = w.Close() })
	for lines.Scan() {
	}
	if err := cmd.Wait(); err != nil || !strings.Contains(stdout.String(), source) {
		t.Errorf("%v, %s", err, stdout.String())
	}
}

// A store may be from someone else, and so may the address of a node.
func TestEndlessLocalFiles(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	source, dir, node := filepath.Join(home, "source"), filepath.Join(home, "store"), filepath.Join(home, ".ipfs")
	if err := errors.Join(os.WriteFile(source, []byte("x"), 0o600), os.Mkdir(node, 0o700)); err != nil {
		t.Fatal(err)
	}
	up := []string{"up", source, "--ledger", "none", "--retries", "0", "--to"}
	if out, err := hostileAt(t, home, append(up, "store:"+dir)...); err != nil {
		t.Fatal(err, out)
	}
	for _, file := range []string{mkfifo(t), "/dev/zero"} {
		for target, path := range map[string]string{"store:" + dir: filepath.Join(dir, "local-token"), "kubo:": filepath.Join(node, "api")} {
			_ = os.Remove(path)
			if err := os.Symlink(file, path); err != nil {
				t.Fatal(err)
			}
			if out, err := hostileAt(t, home, append(up, target)...); err == nil {
				t.Errorf("%s from %s: %s", target, file, out)
			}
		}
	}
}
