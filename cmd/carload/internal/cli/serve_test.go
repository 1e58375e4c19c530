//go:build unix

package cli_test

import (
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// What the service answers to is a matter of where it listens and of its names.
func TestServeHosts(t *testing.T) {
	t.Parallel()
	get := func(url, host string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		if err := errors.Join(err, res.Body.Close()); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	serve := func(args ...string) string {
		t.Helper()
		home := t.TempDir()
		args = append([]string{"serve", "-q", "--store", filepath.Join(home, "store")}, args...)
		return startService(t, home, args...)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	metrics := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		url  string
		host string
		want int
	}{
		"loopback":                 {serve("--listen", "127.0.0.1:0"), "example.com", 421},
		"loopback with a name":     {serve("--listen", "127.0.0.1:0", "--host", "example.com", "--metrics-addr", metrics), "example.com", 200},
		"all addresses":            {serve("--listen", "0.0.0.0:0", "--insecure"), "example.com", 200},
		"all addresses and a name": {serve("--listen", "0.0.0.0:0", "--insecure", "--host", "example.com"), "example.net", 421},
		"the name of a gateway":    {serve("--listen", "127.0.0.1:0", "--gateway-host", "example.com"), "example.com", 200},
	} {
		if status, body := get(tt.url+"/version", tt.host); status != tt.want {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	if status, body := get("http://"+metrics+"/metrics", metrics); status != 200 || !strings.Contains(body, "carload_store_shards") {
		t.Errorf("metrics: %d %s", status, body)
	}
	if status, body := get("http://"+metrics+"/version", metrics); status != 404 {
		t.Errorf("more than metrics: %d %s", status, body)
	}
	if out, err := newCommand(t, t.TempDir(), "serve", "--host", "https://example.com").CombinedOutput(); err == nil || !strings.Contains(string(out), "--host") {
		t.Errorf("a URL for a name: %v %s", err, out)
	}
}
