//go:build unix

package cli_test

import (
	"bytes"
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carload/carload/uploader/uploadertest"
)

// The exit code and a message say what is wrong with the connection to a
// service and what to do, and the same command succeeds once it is fixed.
func TestWayToAService(t *testing.T) {
	t.Parallel()
	ca := uploadertest.NewAuthority(t)
	pem := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(pem, ca.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	// The proxy connects to the test's service whatever the name, because a
	// proxy is never used for loopback addresses.
	const host, user = "api.example.org", "me:proxy-password"
	valid := ca.Certificate(host, time.Now().Add(time.Hour))
	expired := ca.Certificate(host, time.Now().Add(-time.Hour))
	another := ca.Certificate("www.example.org", time.Now().Add(time.Hour))
	ok := []string{"--ca-cert", pem}
	for name, tt := range map[string]struct {
		certificate *tls.Certificate // nil for plain HTTP
		scheme      string           // of the endpoint; empty for that of the service
		host        string           // empty for the one above
		proxy       string           // user and password for the proxy; - for a proxy that does not exist
		args        []string
		code        int
		says        []string
	}{
		"by a proxy":               {proxy: user, code: 0},
		"by a tunnel":              {certificate: &valid, proxy: user, args: ok, code: 0},
		"unknown to a proxy":       {code: 5, says: []string{"the proxy answered 407", "user name and password", "HTTP_PROXY"}},
		"unknown for a tunnel":     {certificate: &valid, args: ok, code: 5, says: []string{"the proxy 127.0.0.1:", "answered 407", "HTTPS_PROXY"}},
		"wrong password":           {certificate: &valid, proxy: "me:wrong-password", args: ok, code: 5, says: []string{"answered 407"}},
		"no proxy there":           {certificate: &valid, proxy: "-", args: ok, code: 5, says: []string{"proxyconnect", "hint: run the same command again"}},
		"unknown authority":        {certificate: &valid, proxy: user, code: 5, says: []string{"unknown authority", "hint: ", "--ca-cert"}},
		"expired":                  {certificate: &expired, proxy: user, args: ok, code: 5, says: []string{"expired", "hint: ", "clock"}},
		"another name":             {certificate: &another, proxy: user, args: ok, code: 5, says: []string{"www.example.org", "hint: ", "--endpoint"}},
		"HTTPS to plain HTTP":      {scheme: "https", proxy: user, code: 5, says: []string{"HTTP response to HTTPS client", "hint: ", "--endpoint"}},
		"no such authority":        {certificate: &valid, args: []string{"--ca-cert", "nothing"}, code: 2, says: []string{"--ca-cert", "no such file"}},
		"not an authority":         {certificate: &valid, args: []string{"--ca-cert", "movie"}, code: 2, says: []string{"--ca-cert", "PEM"}},
		"no such name":             {host: strings.Repeat("x", 64) + ".example.org", proxy: "none", code: 5, says: []string{"no such host", "hint: run the same command again"}},
		"plain HTTP to a far host": {scheme: "http", args: []string{"--insecure-http=false"}, code: 2, says: []string{"plain HTTP"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := uploadertest.Options{}
			scheme := "http"
			if tt.certificate != nil {
				opts.TLS, scheme = &tls.Config{Certificates: []tls.Certificate{*tt.certificate}}, "https"
			}
			if tt.scheme != "" {
				scheme = tt.scheme
			}
			at := host
			if tt.host != "" {
				at = tt.host
			}
			srv := uploadertest.NewServer(t, opts)
			proxy := uploadertest.NewProxy(t, srv.URL, user)
			home := t.TempDir()
			cmd := newCommand(t, home, append([]string{
				"up", "--endpoint", scheme + "://" + at, "--insecure-http", "--retries", "0", "--tpslimit", "off", randomFile(t, home, 3<<20),
			}, tt.args...)...)
			cmd.Env = append(cmd.Env, "CARLOAD_TOKEN="+srv.Token, "GODEBUG=netdns=go")
			switch tt.proxy {
			case "none":
			case "-":
				cmd.Env = append(cmd.Env, "HTTPS_PROXY=http://127.0.0.1:1")
			case "":
				cmd.Env = append(cmd.Env, "HTTPS_PROXY="+proxy.URL.String(), "HTTP_PROXY="+proxy.URL.String())
			default:
				by := "http://" + tt.proxy + "@" + proxy.URL.Host
				cmd.Env = append(cmd.Env, "HTTPS_PROXY="+by, "HTTP_PROXY="+by)
			}
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if code := exitCode(cmd.Run()); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			for _, want := range tt.says {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("standard error does not say %q", want)
				}
			}
			if strings.Contains(stderr.String()+stdout.String(), "-password") {
				t.Error("the password is shown")
			}
			sent := srv.Count(uploadertest.Upload)
			if (tt.code == 0) != (stdout.Len() > 0) || (tt.code == 0) != (sent.Bytes > 3<<20) || tt.code != 0 && sent.Bytes > 0 {
				t.Errorf("%+v was sent, standard output: %s", sent, stdout.String())
			}
			if t.Failed() {
				t.Logf("standard error:\n%s", stderr.String())
			}
		})
	}
}
