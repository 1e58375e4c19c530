//go:build unix

package cli_test

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A collection beside a running service does nothing, and says that the service
// does it.
func TestCollectBesideAService(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	store := filepath.Join(home, "store")
	startService(t, home, "serve", "-q", "--store", store, "--listen", "127.0.0.1:0")
	out, err := newCommand(t, home, "service", "gc", "--store", store).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 11 || !strings.Contains(string(out), "--gc-interval") {
		t.Errorf("%v: %s", err, out)
	}
	file := filepath.Join(home, "file")
	if err := os.WriteFile(file, []byte("here still"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := newCommand(t, home, "up", file, "--store", store).CombinedOutput(); err != nil {
		t.Errorf("an upload afterwards: %v: %s", err, out)
	}
}

// serve --read-only does not change the store.
func TestServeReadOnly(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	store := filepath.Join(home, "store")
	file := filepath.Join(home, "file")
	if err := os.WriteFile(file, []byte("what is there"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := newCommand(t, home, "up", "-q", file, "--store", store).Output()
	root, _, _ := strings.Cut(string(out), "\t")
	if err != nil || root == "" {
		t.Fatalf("%v: %s", err, out)
	}
	token, err := os.ReadFile(filepath.Join(store, "local-token"))
	if err != nil {
		t.Fatal(err)
	}
	all := func() (names []string) {
		err := filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			names = append(names, path+info.ModTime().String())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	before := all()
	url := startService(t, home, "serve", "-q", "--store", store, "--listen", "127.0.0.1:0", "--read-only")
	ask := func(method, path, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(res.Body)
		if err := errors.Join(err, res.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(p)
	}
	if status, body := ask("GET", "/ipfs/"+root, ""); status != 200 || body != "what is there" {
		t.Errorf("content: %d %s", status, body)
	}
	for _, path := range []string{"/" + root, "/check/" + root, "/pins", "/internal/status", "/readyz"} {
		if status, body := ask("GET", path, ""); status != 200 {
			t.Errorf("GET %s: %d %s", path, status, body)
		}
	}
	for _, tt := range [][2]string{{"POST", "/upload"}, {"DELETE", "/" + root}, {"POST", "/pins"}, {"DELETE", "/pins/" + root}, {"POST", "/internal/tokens"}} {
		if status, body := ask(tt[0], tt[1], "new"); status != 503 || !strings.Contains(body, "MAINTENANCE") {
			t.Errorf("%s %s: %d %s", tt[0], tt[1], status, body)
		}
	}
	if after := all(); !slices.Equal(before, after) {
		t.Errorf("%v became %v", before, after)
	}
}
