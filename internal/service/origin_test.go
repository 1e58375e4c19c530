package service_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
)

// A website that points its own name at this machine gains nothing.
func TestHosts(t *testing.T) {
	t.Parallel()
	known := newServer(t, options{Hosts: []string{"api.example.com"}, GatewayHosts: []string{"dweb.example.com"}})
	open := newServer(t, options{AnyHost: true})
	u := known.do("POST", "/upload", []byte("content")).upload(t)
	for host, status := range map[string]int{
		"localhost": 200, "localhost:5080": 200, "LocalHost": 200, "127.0.0.1": 200, "127.0.0.1:80": 200, "[::1]:5080": 200, "[::1]": 200, "192.168.1.5:5080": 200,
		"api.example.com": 200, "API.example.com:443": 200, "dweb.example.com": 200,
		"example.com": 421, "www.api.example.com": 421, "api.example.com.evil.example": 421, "evil.example": 421, "localhost.evil.example": 421, "127.0.0.1.evil.example": 421,
		"x.localhost": 421, "ipfs.localhost": 421, "1.2.3.4.5": 421, "localhost.": 421, u.CID + ".ipfs.api.example.com": 421,
	} {
		for _, path := range []string{"/", "/version", "/ipfs/" + u.CID + "?format=raw", "/metrics", "/nothing"} {
			a := known.do("GET", path, nil, "Host", host)
			if (a.status == 421) != (status == 421) {
				t.Errorf("%s of %s: %d %.100s", path, host, a.status, a.raw)
			}
			if status != 421 {
				continue
			}
			if !strings.Contains(string(a.raw), "--host") || a.header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s of %s: %v %s", path, host, a.header, a.raw)
			}
			if a := open.do("GET", path, nil, "Host", host); a.status == 421 {
				t.Errorf("%s of %s, where all hosts are served: %d", path, host, a.status)
			}
		}
		if a := known.do("GET", "/healthz", nil, "Host", host); a.status != 200 {
			t.Errorf("health of %s: %d", host, a.status)
		}
		if a := known.do("POST", "/upload", make([]byte, 1<<20), "Host", host); a.status != status {
			t.Errorf("an upload to %s: %d", host, a.status)
		}
	}
	for _, host := range []string{u.CID + ".ipfs.localhost", u.CID + ".ipfs.localhost:5080", u.CID + ".ipfs.dweb.example.com"} {
		if a := known.do("GET", "/", nil, "Host", host); a.status != 200 || string(a.raw) != "content" {
			t.Errorf("%s: %d %s", host, a.status, a.raw)
		}
		if a := known.do("GET", "/version", nil, "Host", host); a.status == 200 {
			t.Errorf("the API under %s", host)
		}
	}
	// The host that a proxy reports does not circumvent the check.
	if a := known.do("GET", "/version", nil, "Host", "evil.example", "X-Forwarded-Host", "localhost"); a.status != 421 {
		t.Errorf("a forwarded host: %d", a.status)
	}
}

// Uploaded content can't act as the other things served under the same name.
func TestSandbox(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	const script = `<script>fetch("/")</script>`
	parts := []formPart{
		{"file", "index.html", "", "<!doctype html><html>" + script + "</html>"},
		{"file", "page.xhtml", "", `<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">` + script + "</html>"},
		{"file", "image.svg", "", `<svg xmlns="http://www.w3.org/2000/svg">` + script + "</svg>"},
		{"file", "data.xml", "", `<?xml version="1.0"?><a/>`},
		{"file", "code.js", "", "alert(1)"},
		{"file", "noname", "", script},
		{"file", "empty.html", "", ""},
		{"file", "text.txt", "", "text"},
		{"file", "sub/x.txt", "", "text"},
	}
	body, mime := form(t, parts...)
	u := s.do("POST", "/upload", body, "Content-Type", mime).upload(t)
	pdf := s.do("POST", "/upload", []byte("%PDF-1.7\n")).upload(t)
	paths := []string{"", "/", "/sub", "/sub/", "/nothing", "/index.html?filename=x.pdf.html", "?format=dag-json", "?format=raw", "?format=tar"}
	for _, p := range parts {
		paths = append(paths, "/"+p.name)
	}
	for _, path := range paths {
		for _, row := range []struct {
			method, host string
			header       []string
		}{
			{"GET", "127.0.0.1", nil},
			{"HEAD", "localhost", nil},
			{"GET", "localhost", []string{"Range", "bytes=0-3"}},
			{"GET", "127.0.0.1", []string{"If-None-Match", "*"}},
			{"GET", "127.0.0.1", []string{"Service-Worker", "script"}},
			{"POST", "127.0.0.1", nil},
		} {
			a := s.do(row.method, "/ipfs/"+u.CID+path, nil, append(row.header, "Host", row.host, "Accept", "text/html")...)
			policy := a.header.Get("Content-Security-Policy")
			if !strings.HasPrefix(policy, "sandbox;") || !strings.Contains(policy, "script-src 'none'") || a.header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s %s of %s %v: %d with %q, %v", row.method, path, row.host, row.header, a.status, policy, a.header)
			}
		}
		// There, content has an origin of its own.
		if a := s.do("GET", path, nil, "Host", u.CID+".ipfs.localhost"); path != "" && path[0] == '/' && a.header.Get("Content-Security-Policy") != "" {
			t.Errorf("%s under its own name: %v", path, a.header)
		}
	}
	// Browsers show PDF documents themselves, but not in a sandbox.
	a := s.do("GET", "/ipfs/"+pdf.CID, nil)
	if a.header.Get("Content-Type") != "application/pdf" || a.header.Get("Content-Security-Policy") != "" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("PDF: %v", a.header)
	}
	if a := s.do("GET", "/ipfs/"+u.CID+"/index.html?filename=x.pdf", nil); a.header.Get("Content-Type") != "application/pdf" && a.header.Get("Content-Security-Policy") == "" {
		t.Errorf("a page that is called a document: %v", a.header)
	}
}

// Only this machine can read the metrics, and no web page can.
func TestMetricsAreLocal(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	a := s.do("GET", "/metrics", nil, "Authorization", "", "Origin", "https://evil.example")
	if a.status != 200 || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%d %v", a.status, a.header)
	}
	for _, header := range []string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via"} {
		if a := s.do("GET", "/metrics", nil, header, "127.0.0.1"); a.status != 403 {
			t.Errorf("by a proxy that sends %s: %d", header, a.status)
		}
	}
	ask := func(h http.Handler, from, host string) int {
		req := httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil)
		req.RemoteAddr, req.Host = from, host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		return w.Code
	}
	for from, status := range map[string]int{"127.0.0.1:9": 200, "[::1]:9": 200, "[::ffff:127.0.0.1]:9": 200, "192.0.2.1:9": 403, "[2001:db8::1]:9": 403, "": 403} {
		if got := ask(s.svc.Handler(), from, "127.0.0.1"); got != status {
			t.Errorf("from %s: %d", from, got)
		}
		if got := ask(s.svc.Metrics(), from, "127.0.0.1"); got != 200 {
			t.Errorf("from %s at its own address: %d", from, got)
		}
	}
	if got := ask(s.svc.Metrics(), "127.0.0.1:9", "evil.example"); got != 421 {
		t.Errorf("rebound: %d", got)
	}
}

// The console is behind the check of the host, and next to content.
func TestConsole(t *testing.T) {
	t.Parallel()
	console := func(api http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/" && strings.Contains(r.Header.Get("Accept"), "text/html") {
				_, _ = io.WriteString(w, "console") // the client may be gone
				return
			}
			api.ServeHTTP(w, r)
		})
	}
	s := newServer(t, options{Console: console})
	cid := s.do("POST", "/upload", []byte("content")).upload(t).CID
	for _, row := range []struct{ host, path, want string }{
		{"localhost", "/", "console"},
		{"evil.example", "/", "421 "},
		{cid + ".ipfs.localhost", "/", "content"},
		{"localhost", "/ipfs/" + cid, "content"},
		{"localhost", "/version", "{"},
	} {
		if a := s.do("GET", row.path, nil, "Host", row.host, "Accept", "text/html"); !strings.HasPrefix(string(a.raw), row.want) {
			t.Errorf("%s at %s: %.100s", row.path, row.host, a.raw)
		}
	}
	st, err := store.Open(context.Background(), store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, err := service.New(t.Context(), st, service.Options{Console: console, AnyHost: true}); err == nil {
		t.Error("a console for any host")
	}
}
