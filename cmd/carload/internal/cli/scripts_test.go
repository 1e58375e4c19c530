//go:build unix

package cli_test

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carload/carload/uploader/uploadertest"
)

// marked returns the script after a mark in a page.
func marked(t *testing.T, page, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(text), "<!-- "+name+" -->\n")
	scripts := fenced(after, "sh")
	if !found || len(scripts) == 0 {
		t.Fatalf("%s has no script that is marked %s", page, name)
	}
	return scripts[0]
}

// The scripts in docs/scripts.md do what the page says, using only standard
// output and exit codes: they retry on 5, verify later, and raise an alarm on
// 6.
func TestScriptsOfTheDocs(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	home := t.TempDir()
	bin := filepath.Join(home, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"upload-list": marked(t, "scripts.md", "upload-list"),
		"verify-list": marked(t, "scripts.md", "verify-list"),
		"sleep":       "#!/bin/sh\necho \"$@\" >> \"$HOME/slept\"\n",
		"logger":      "#!/bin/sh\necho \"$@\" >> \"$HOME/alerts\"\n",
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil { //nolint:gosec // it is run
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"one.mkv": "one", "two.mkv": "two", "films.list": "one.mkv\ntwo.mkv\n"} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(script string) int {
		cmd := exec.Command(filepath.Join(bin, script), "films.list")
		cmd.Dir = home
		cmd.Env = []string{
			"HOME=" + home, "PATH=" + bin + ":" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=50",
			"CARLOAD_ENDPOINT=" + srv.URL, "CARLOAD_TOKEN=" + srv.Token, "CARLOAD_RETRIES=0",
		}
		out, err := cmd.CombinedOutput()
		t.Logf("%s: %v\n%s", script, err, out)
		return exitCode(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(home, name))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(text)
	}

	// The service is down for two runs.
	srv.Script(uploadertest.Upload, uploadertest.Repeat(4, uploadertest.Status(http.StatusServiceUnavailable))...)
	if code := run("upload-list"); code != 0 || read("slept") != "60\n300\n" || read("alerts") != "" {
		t.Errorf("upload-list: exit code %d, slept %q, alerts %q", code, read("slept"), read("alerts"))
	}
	roots := strings.Fields(read("films.list.roots"))
	if len(roots) != 2 {
		t.Fatalf("roots: %q", roots)
	}
	if code := run("verify-list"); code != 0 || read("alerts") != "" {
		t.Errorf("verify-list: exit code %d, alerts %q", code, read("alerts"))
	}

	// The service is down for good, so nothing is known about its uploads.
	srv.Always(uploadertest.Check, uploadertest.Status(http.StatusServiceUnavailable))
	if code := run("verify-list"); code != 5 || read("alerts") != "" {
		t.Errorf("verify-list while the service is down: exit code %d, alerts %q", code, read("alerts"))
	}
	srv.Always(uploadertest.Check, nil)

	// The service returns wrong data.
	srv.Always(uploadertest.Block, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		_, _ = w.Write([]byte("six")) // of the same size
	})
	if code, alerts := run("verify-list"), read("alerts"); code != 6 || strings.Count(alerts, "is damaged at the service") != 2 {
		t.Errorf("verify-list of what is damaged: exit code %d, alerts %q", code, alerts)
	}

	// A missing path is reported to people, and not retried.
	srv.Always(uploadertest.Block, nil)
	for _, name := range []string{"alerts", "slept", "two.mkv"} {
		if err := os.Remove(filepath.Join(home, name)); err != nil {
			t.Fatal(err)
		}
	}
	if code := run("upload-list"); code != 3 || read("slept") != "" || !strings.Contains(read("alerts"), "some paths can't be read") {
		t.Errorf("upload-list without a file: exit code %d, slept %q, alerts %q", code, read("slept"), read("alerts"))
	}
	if again := strings.Fields(read("films.list.roots")); len(again) != 2 {
		t.Errorf("roots: %q", again)
	}
}
