//go:build unix

package cli_test

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/carload/carload/uploader/uploadertest"
)

// brokenPipe is a pipe that nobody reads.
func brokenPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return w
}

// An upload continues if nobody reads its messages. If nobody reads its
// results, it stops as after a signal, and does not succeed.
func TestBrokenPipe(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	home := t.TempDir()
	file := randomFile(t, home, 6<<20)
	up := func(args ...string) *exec.Cmd {
		return upTo(t, srv, home, append(args, "-vv", "--max-shard-bytes", "1100kB", "--transfers", "1", file)...)
	}

	var stderr bytes.Buffer
	deaf := up("--json")
	deaf.Stdout, deaf.Stderr = brokenPipe(t), &stderr
	if code := exitCode(deaf.Run()); code != 1 || !strings.Contains(stderr.String(), "write results: ") {
		t.Errorf("nobody reads results: exit code %d\n%s", code, stderr.String())
	}
	if n := strings.Count(stderr.String(), "write results: "); n != 1 || strings.Count(stderr.String(), "broken pipe") != 1 {
		t.Errorf("it is not told once:\n%s", stderr.String())
	}
	sent := srv.Count(uploadertest.Upload).Requests
	if sent > 1 {
		t.Errorf("%d shards were sent for nobody", sent)
	}

	var stdout bytes.Buffer
	mute := up("--progress", "plain")
	mute.Stdout, mute.Stderr = &stdout, brokenPipe(t)
	if code := exitCode(mute.Run()); code != 0 || !strings.Contains(stdout.String(), "\t"+file) {
		t.Errorf("nobody reads messages: exit code %d, %q", code, stdout.String())
	}
	if n := srv.Count(uploadertest.Upload).Requests; n != 6 {
		t.Errorf("%d shards were sent, want each once", n)
	}

	// For commands that only print, that is not an error.
	if err := newCommand(t, home, "up", "--quiet", file).Run(); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"list"}, {"ledger", "list"}, {"profiles"}, {"cid", file}} {
		var stderr bytes.Buffer
		show := newCommand(t, home, append(args, "--quiet")...)
		show.Stdout, show.Stderr = brokenPipe(t), &stderr
		if code := exitCode(show.Run()); code != 1 || stderr.Len() > 0 {
			t.Errorf("%v: exit code %d, %q", args, code, stderr.String())
		}
	}
}
