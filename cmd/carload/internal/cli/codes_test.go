//go:build unix

package cli_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carload/carload/uploader/uploadertest"
)

// upTo is carload up to a service of the test.
func upTo(t *testing.T, srv *uploadertest.Server, home string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := newCommand(t, home, append([]string{"up", "--endpoint", srv.URL}, args...)...)
	cmd.Env = append(cmd.Env, "CARLOAD_TOKEN="+srv.Token)
	return cmd
}

// The exit code says what a service did wrong, and no root is printed for an
// upload that is not there.
func TestExitCodesOfAService(t *testing.T) {
	t.Parallel()
	const other = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
	for name, tt := range map[string]struct {
		op    uploadertest.Op
		fault uploadertest.Fault
		code  int
		says  string
	}{
		"another root": {uploadertest.Upload, uploadertest.NamesRoot(other), 6, other},
		"no root":      {uploadertest.Upload, uploadertest.NamesNoRoot, 6, "root"},
		"never pinned": {uploadertest.Check, uploadertest.Reports("pinning"), 4, "pinning"},
		"disk full":    {uploadertest.Upload, uploadertest.Status(http.StatusInsufficientStorage), 28, "507"},
		"down":         {uploadertest.Upload, uploadertest.Status(http.StatusServiceUnavailable), 5, "503"},
		"stalls":       {uploadertest.Upload, uploadertest.Stall(1 << 20), 5, "no byte moved for 500ms"},
		"rate limit":   {uploadertest.Upload, uploadertest.RateLimited("1"), 5, "429"},
		"too large":    {uploadertest.Upload, uploadertest.Page(http.StatusRequestEntityTooLarge), 8, "--max-shard-bytes"},
		"web page":     {uploadertest.Upload, uploadertest.Page(http.StatusOK), 5, "web page"},
		"elsewhere":    {uploadertest.Upload, uploadertest.Redirect(http.StatusPermanentRedirect, "http://127.0.0.1:1/"), 5, "another origin"},
		"key refused":  {uploadertest.Upload, uploadertest.Refuse(http.StatusForbidden, "ERROR_TOKEN_BLOCKED", "API Key is blocked."), 7, "blocked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := uploadertest.NewServer(t, uploadertest.Options{})
			srv.Always(tt.op, tt.fault)
			home := t.TempDir()
			cmd := upTo(t, srv, home, "--retries", "0", "--verify-timeout", "100ms", randomFile(t, home, 3<<20))
			if name == "stalls" {
				cmd.Args = append(cmd.Args, "--stall-timeout", "500ms")
			}
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if code := exitCode(cmd.Run()); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			if !strings.Contains(stderr.String(), "carload: error: ") || !strings.Contains(stderr.String(), tt.says) {
				t.Errorf("standard error does not say %q:\n%s", tt.says, stderr.String())
			}
			if stdout.Len() > 0 {
				t.Errorf("standard output: %s", stdout.String())
			}
			if srv.Count(tt.op).Faults == 0 {
				t.Error("the fault has not happened")
			}
		})
	}
}

// Of two uploads of a file at once, the second one waits for the first, unless
// it has no ledger. Meanwhile others can use the ledger.
func TestTwoUploadsAtOnce(t *testing.T) {
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
	file := randomFile(t, home, 3<<20)

	var firstOut, firstErr bytes.Buffer
	first := upTo(t, srv, home, file)
	first.Stdout, first.Stderr = &firstOut, &firstErr
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- first.Wait() }()
	select {
	case <-reached:
	case err := <-ended:
		t.Fatalf("the first upload ended without a request: %v\n%s", err, firstErr.String())
	}

	second := upTo(t, srv, home, file)
	said, err := second.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	var secondOut bytes.Buffer
	second.Stdout = &secondOut
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(said)
	for lines.Scan() && !strings.Contains(lines.Text(), "waiting for it to end") {
	}
	for _, args := range [][]string{{"ledger", "list"}, {"up", "--store", "other", file}} {
		if out, err := newCommand(t, home, args...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	third, err := upTo(t, srv, home, "--ledger", "none", file).Output()
	if err != nil {
		t.Errorf("without a ledger: %v", err)
	}

	close(goOn)
	if err := <-ended; err != nil {
		t.Errorf("the first upload: %v\n%s", err, firstErr.String())
	}
	for lines.Scan() {
	}
	if err := second.Wait(); err != nil {
		t.Errorf("the second upload: %v", err)
	}
	if firstOut.Len() == 0 || firstOut.String() != string(third) || firstOut.String() != secondOut.String() {
		t.Errorf("the uploads print %q, %q and %q", firstOut.String(), secondOut.String(), third)
	}
}

// While a command has this user's store open, others use the store through that
// command, which waits for them before it exits.
func TestStoreIsShared(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	// The first takes some seconds, the second a little longer.
	start := func(name string, bytes int64) (*exec.Cmd, *bufio.Scanner, *strings.Builder) {
		cmd := newCommand(t, home, "up", "--json", "--progress", "none", "--bwlimit", "4MB", "--transfers", "1", "--max-shard-bytes", "1100kB", name)
		f, err := os.Create(filepath.Join(home, name))
		if err == nil {
			_, err = io.CopyN(f, rand.NewChaCha8([32]byte{byte(bytes >> 20)}), bytes)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		stderr := new(strings.Builder)
		cmd.Stderr = stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(stdout)
		for lines.Scan() && !strings.Contains(lines.Text(), `"type":"shard"`) {
		}
		return cmd, lines, stderr
	}
	first, firstLines, firstSaid := start("one", 6<<20)
	second, secondLines, secondSaid := start("two", 9<<20)
	if out, err := newCommand(t, home, "list").CombinedOutput(); err != nil {
		t.Errorf("list: %v\n%s", err, out)
	}
	for firstLines.Scan() {
	}
	if err := first.Wait(); err != nil || !strings.Contains(firstSaid.String(), "another carload uses the store through this one") {
		t.Errorf("the first: %v\n%s", err, firstSaid)
	}
	for secondLines.Scan() {
	}
	if err := second.Wait(); err != nil {
		t.Errorf("the second: %v\n%s", err, secondSaid)
	}
	if out, err := newCommand(t, home, "list").Output(); err != nil || strings.Count(string(out), "pinned") != 2 {
		t.Errorf("list: %v\n%s", err, out)
	}
}
