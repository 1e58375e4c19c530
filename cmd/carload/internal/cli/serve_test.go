//go:build unix

package cli_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Where the service listens and its names decide which host names it answers
// to.
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

// A service that may have 256 files open has refused three hundred connections,
// each with an unfinished body. It still reports its health and accepts an
// upload.
func TestRefusedTakeNoDescriptors(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	file := randomFile(t, home, 3<<20)
	url := startLimited(t, home, 256, "serve", "-q", "--store", "service", "--listen", "127.0.0.1:0")
	addr := strings.TrimPrefix(url, "http://")
	for i := range 300 {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() }) // the service may have closed it
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 90000000\r\n\r\nx"); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, " 401 ") {
			t.Fatalf("connection %d: %q, %v", i, line, err)
		}
	}
	// The client does not wait until these are closed.
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(url + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil || res.StatusCode != 200 {
		t.Fatalf("health: %s, %v", res.Status, err)
	}
	cmd := newCommand(t, home, "up", "-Q", "--retries", "0", "--endpoint", url, "--token-file", filepath.Join("service", "local-token"), file)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("an upload: %v\n%s", err, out)
	}
}
