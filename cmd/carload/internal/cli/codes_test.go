//go:build unix

package cli_test

import (
	"bufio"
	"bytes"
	"net/http"
	"os/exec"
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

// What a service does wrong is told by the exit code, and no root is printed
// for what is not there.
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

// Two uploads of a file at once: the second one waits for the first, unless it
// has no ledger. Meanwhile others may use the ledger.
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
