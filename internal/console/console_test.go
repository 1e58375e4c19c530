package console_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/carload/carload/internal/console"
	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/internal/store/storetest"
)

// times matches the times in replies.
var times = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.+Z]+`)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is a service with a console, over real HTTP.
type server struct {
	t     *testing.T
	url   string
	token string
	st    *store.Store
	jar   map[string]string
	proof string
}

func newServer(t *testing.T, with bool) *server {
	t.Helper()
	st, err := store.Open(t.Context(), store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	_, token, err := st.CreateKey(t.Context(), store.KeyOptions{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	var opts service.Options
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	close(done)
	if with {
		pages, err := console.New(st, console.Options{})
		if err != nil {
			t.Fatal(err)
		}
		opts.Console = pages.Handler
		done = make(chan struct{})
		go func() { defer close(done); pages.Run(ctx) }()
	}
	svc, err := service.New(t.Context(), st, opts)
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(svc.Handler())
	t.Cleanup(func() {
		cancel()
		<-done
		web.Close()
		if err := errors.Join(svc.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	return &server{t: t, url: web.URL, token: token, st: st, jar: make(map[string]string)}
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends a request with the session, if there is one, and additional headers.
// An empty header removes one.
func (s *server) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	if s.proof != "" {
		req.Header.Set("X-Carload-Console", s.proof)
	}
	for name, value := range s.jar {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	for i := 0; i < len(headers); i += 2 {
		switch {
		case headers[i] == "Host":
			req.Host = headers[i+1]
		case headers[i+1] == "":
			req.Header.Del(headers[i])
		default:
			req.Header.Set(headers[i], headers[i+1])
		}
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	p, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, p}
}

// signIn begins a session and returns its cookie.
func (s *server) signIn(how string) *http.Cookie {
	s.t.Helper()
	a := s.do("POST", "/console/session", how, "Content-Type", "application/json", "X-Carload-Console", "none")
	if a.status != http.StatusOK {
		s.t.Fatalf("sign in: %d %s", a.status, a.body)
	}
	var in struct{ Proof string }
	if err := json.Unmarshal(a.body, &in); err != nil {
		s.t.Fatal(err)
	}
	cookies := (&http.Response{Header: a.header}).Cookies()
	if len(cookies) != 1 {
		s.t.Fatalf("%d cookies", len(cookies))
	}
	s.jar[cookies[0].Name], s.proof = cookies[0].Value, in.Proof
	return cookies[0]
}

func (s *server) withKey() *http.Cookie {
	s.t.Helper()
	return s.signIn(fmt.Sprintf(`{"key":%q}`, s.token))
}

func (s *server) code() string {
	s.t.Helper()
	a := s.do("POST", "/console/code", "", "Authorization", "Bearer "+s.token)
	var out struct{ Code string }
	if err := json.Unmarshal(a.body, &out); err != nil || out.Code == "" {
		s.t.Fatalf("code: %d %s", a.status, a.body)
	}
	return out.Code
}

// Clients of the API notice no difference: status, headers and body are the
// same.
func TestClientsSeeNoDifference(t *testing.T) {
	t.Parallel()
	with, without := newServer(t, true), newServer(t, false)
	root := storetest.Raw("hello")
	archive := string(storetest.CAROf(root))
	requests := []struct {
		method, path, body string
		headers            []string
	}{
		{"GET", "/", "", nil},
		{"GET", "/", "", []string{"Accept", "application/json"}},
		{"GET", "/", "", []string{"Accept", "*/*"}},
		{"GET", "/", "", []string{"Accept", "text/html", "Authorization", "Bearer KEY"}},
		{"GET", "/", "", []string{"Accept", "text/html", "Authorization", "nonsense"}},
		{"POST", "/upload", archive, []string{"Content-Type", "application/car", "Authorization", "Bearer KEY", "Origin", "https://example.com"}},
		{"POST", "/upload", archive, []string{"Content-Type", "application/car"}},
		{"POST", "/", "", []string{"Accept", "text/html"}},
		{"OPTIONS", "/upload", "", []string{"Origin", "https://example.com", "Access-Control-Request-Method", "POST"}},
		{"GET", "/" + root.CID.String(), "", []string{"Authorization", "Bearer KEY"}},
		{"GET", "/check/" + root.CID.String(), "", []string{"Accept", "text/html"}},
		{"GET", "/ipfs/" + root.CID.String(), "", []string{"Accept", "text/html"}},
		{"GET", "/console", "", []string{"Accept", "text/html"}},
		{"GET", "/consoles/x", "", nil},
		{"GET", "/version", "", []string{"Accept", "text/html"}},
		{"GET", "/healthz", "", nil},
		{"DELETE", "/" + root.CID.String(), "", []string{"Authorization", "Bearer KEY"}},
	}
	for _, r := range requests {
		var got [2]answer
		for i, s := range []*server{with, without} {
			headers := append([]string(nil), r.headers...)
			for j := range headers {
				headers[j] = strings.ReplaceAll(headers[j], "KEY", s.token)
			}
			got[i] = s.do(r.method, r.path, r.body, headers...)
			for _, name := range []string{"Date", "X-Request-Id"} {
				got[i].header.Del(name)
			}
			got[i].body = times.ReplaceAll(got[i].body, []byte("TIME"))
		}
		if diff := cmp.Diff(got[1], got[0], cmp.AllowUnexported(answer{})); diff != "" {
			t.Errorf("%s %s %q: -without +with\n%s", r.method, r.path, r.headers, diff)
		}
	}
	if a := without.do("GET", "/", "", "Accept", "text/html"); a.status != http.StatusUnauthorized {
		t.Errorf("without a console a browser gets %d", a.status)
	}
	if a := without.do("GET", "/console/assets/app.js", ""); a.status != http.StatusNotFound {
		t.Errorf("without a console its files are %d", a.status)
	}
}

func TestPage(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	a := s.do("GET", "/", "", "Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if a.status != http.StatusOK || !bytes.Contains(a.body, []byte("/console/assets/app.js")) {
		t.Fatalf("%d %s", a.status, a.body)
	}
	csp := a.header.Get("Content-Security-Policy")
	host := strings.TrimPrefix(s.url, "http://")
	for _, want := range []string{
		"default-src 'none'", "script-src http://" + host + "/console/assets/;", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'",
	} {
		if !strings.Contains(csp+";", want) {
			t.Errorf("the policy lacks %q: %s", want, csp)
		}
	}
	for _, never := range []string{"unsafe", "*", "data:", "blob:"} {
		if strings.Contains(csp, never) {
			t.Errorf("the policy has %q: %s", never, csp)
		}
	}
	if a.header.Get("X-Frame-Options") != "DENY" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("headers: %v", a.header)
	}
	// An IPv6 address may have a zone, which can contain anything.
	for _, host := range []string{"[fe80::1%25a;script-src *]", "[fe80::1%25a]:80"} {
		if a := s.do("GET", "/", "", "Accept", "text/html", "Host", host); strings.ContainsAny(a.header.Get("Content-Security-Policy"), "*%") {
			t.Errorf("%s: %d %s", host, a.status, a.header.Get("Content-Security-Policy"))
		}
	}
	// Inline scripts would not run.
	if bytes.Contains(a.body, []byte("<style")) || bytes.Contains(bytes.ReplaceAll(a.body, []byte(`<script type="module" src=`), nil), []byte("<script")) || bytes.Contains(a.body, []byte(" on")) {
		t.Errorf("the page has something inline: %s", a.body)
	}
	etag := s.do("GET", "/console/assets/app.js", "").header.Get("Etag")
	if a := s.do("GET", "/console/assets/app.js", "", "If-None-Match", etag); a.status != http.StatusNotModified || len(a.body) > 0 {
		t.Errorf("asked again: %d, %d bytes", a.status, len(a.body))
	}
}

// The compressed size of what a browser loads before it shows the first page.
func TestFirstViewIsSmall(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	total := 0
	for _, path := range []string{"/", "/console/assets/app.js", "/console/assets/app.css", "/console/assets/icon.svg"} {
		a := s.do("GET", path, "", "Accept", "text/html", "Accept-Encoding", "gzip")
		if a.status != http.StatusOK || a.header.Get("Content-Encoding") != "gzip" {
			t.Fatalf("%s: %d %s", path, a.status, a.header)
		}
		total += len(a.body)
	}
	if total >= 100_000 {
		t.Errorf("%d bytes", total)
	}
	t.Logf("%d bytes", total)
}

func TestSession(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	if a := s.do("GET", "/console/session", ""); a.status != http.StatusUnauthorized {
		t.Errorf("without a session: %d", a.status)
	}
	cookie := s.withKey()
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/console/" || cookie.Domain != "" {
		t.Errorf("cookie: %v", cookie)
	}
	if strings.Contains(cookie.Value, s.token) || strings.Contains(s.proof, s.token) || cookie.Value == s.proof {
		t.Error("the key is in the session's secrets")
	}
	own := "http://" + strings.TrimPrefix(s.url, "http://")
	tests := []struct {
		name    string
		headers []string
		want    int
	}{
		{"as it is", nil, 200},
		{"own origin", []string{"Origin", own, "Sec-Fetch-Site", "same-origin"}, 200},
		{"without the proof", []string{"X-Carload-Console", ""}, 401},
		{"wrong proof", []string{"X-Carload-Console", "none"}, 401},
		{"without the cookie", []string{"Cookie", ""}, 401},
		{"foreign origin", []string{"Origin", "https://evil.example"}, 403},
		{"origin of a sandboxed page", []string{"Origin", "null"}, 403},
		{"another port", []string{"Origin", "http://127.0.0.1:1"}, 403},
		{"same site", []string{"Sec-Fetch-Site", "same-site"}, 403},
		{"cross site", []string{"Sec-Fetch-Site", "cross-site"}, 403},
		{"typed", []string{"Sec-Fetch-Site", "none"}, 403},
		{"another host", []string{"Host", "localhost"}, 401},
		{"a host that it is not known as", []string{"Host", "evil.example"}, 421},
	}
	for _, tt := range tests {
		if a := s.do("GET", "/console/session", "", tt.headers...); a.status != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, a.status, tt.want)
		}
	}
	// The API through the session.
	a := s.do("GET", "/console/api/", "")
	if a.status != http.StatusOK || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("the API: %d %v", a.status, a.header)
	}
	if a := s.do("DELETE", "/console/session", ""); a.status != http.StatusNoContent {
		t.Errorf("sign out: %d", a.status)
	}
	if a := s.do("GET", "/console/session", ""); a.status != http.StatusUnauthorized {
		t.Errorf("after signing out: %d", a.status)
	}
}

// Revoking a key ends its sessions.
func TestRevokedKey(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	s.withKey()
	keys, err := s.st.Keys(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.st.RevokeKey(t.Context(), keys[0].ID); err != nil {
		t.Fatal(err)
	}
	if a := s.do("GET", "/console/uploads", ""); a.status != http.StatusUnauthorized {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestCode(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	if a := s.do("POST", "/console/code", ""); a.status != http.StatusUnauthorized {
		t.Errorf("a code without a key: %d", a.status)
	}
	how := fmt.Sprintf(`{"code":%q}`, s.code())
	s.signIn(how)
	if a := s.do("GET", "/console/session", ""); a.status != http.StatusOK {
		t.Errorf("signed in by a code: %d", a.status)
	}
	if a := s.do("POST", "/console/session", how, "Content-Type", "application/json"); a.status != http.StatusUnauthorized {
		t.Errorf("the code again: %d", a.status)
	}
}

// Other websites can't sign people in either: they could sign them in as
// somebody else.
func TestSigningInFromElsewhere(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	how := fmt.Sprintf(`{"key":%q}`, s.token)
	for _, headers := range [][]string{
		{"Content-Type", "application/json"}, // without the proof header
		{"Content-Type", "text/plain", "X-Carload-Console", "none"},
		{"Content-Type", "application/x-www-form-urlencoded", "X-Carload-Console", "none"},
		{"Content-Type", "application/json", "X-Carload-Console", "none", "Origin", "https://evil.example"},
		{"Content-Type", "application/json", "X-Carload-Console", "none", "Sec-Fetch-Site", "cross-site"},
	} {
		if a := s.do("POST", "/console/session", how, headers...); a.status != http.StatusForbidden || len(a.header["Set-Cookie"]) > 0 {
			t.Errorf("%q: %d", headers, a.status)
		}
	}
	for _, how := range []string{`{"key":"nonsense"}`, `{}`, `{"code":"AAAA"}`} {
		if a := s.do("POST", "/console/session", how, "Content-Type", "application/json", "X-Carload-Console", "none"); a.status != http.StatusUnauthorized {
			t.Errorf("%s: %d", how, a.status)
		}
	}
}

func (s *server) upload(archive []byte) {
	s.t.Helper()
	a := s.do("POST", "/console/api/upload", string(archive), "Content-Type", "application/car")
	if a.status != http.StatusOK {
		s.t.Fatalf("upload: %d %s", a.status, a.body)
	}
}

func get[T any](s *server, path string) (v T) {
	s.t.Helper()
	a := s.do("GET", path, "")
	if a.status != http.StatusOK {
		s.t.Fatalf("%s: %d %s", path, a.status, a.body)
	}
	if err := json.Unmarshal(a.body, &v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

// Paging through the uploads shows each of them once.
func TestUploads(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	s.withKey()
	const n = 25
	want := make(map[string]bool)
	for i := range n {
		b := storetest.Raw(fmt.Sprint("upload ", i))
		want[b.CID.String()] = true
		s.upload(storetest.CAROf(b))
	}
	type page struct {
		Count   int
		Uploads []struct {
			CID, State string
			Order      int64
		}
	}
	before := int64(0)
	got := make(map[string]bool)
	for range n {
		p := get[page](s, fmt.Sprintf("/console/uploads?limit=4&before=%d", before))
		fresh := 0
		for _, u := range p.Uploads {
			if !got[u.CID] {
				fresh++
			}
			got[u.CID], before = true, u.Order
			if u.State != "complete" {
				t.Errorf("%s is %s", u.CID, u.State)
			}
		}
		if fresh == 0 {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	one := storetest.Raw("upload 7").CID.String()
	if p := get[page](s, "/console/uploads?search="+one); p.Count != 1 || p.Uploads[0].CID != one {
		t.Errorf("search by CID: %+v", p)
	}
	if p := get[page](s, "/console/uploads?state=incomplete"); p.Count != 0 || len(p.Uploads) != 0 {
		t.Errorf("incomplete: %+v", p)
	}
}

// Someone with another user's key sees nothing of this user.
func TestOthersUploads(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	s.withKey()
	b := storetest.Raw("mine")
	s.upload(storetest.CAROf(b))
	_, token, err := s.st.CreateKey(t.Context(), store.KeyOptions{Name: "other", User: "other"})
	if err != nil {
		t.Fatal(err)
	}
	s.signIn(fmt.Sprintf(`{"key":%q}`, token))
	for _, path := range []string{"/console/uploads/" + b.CID.String(), "/console/api/" + b.CID.String()} {
		if a := s.do("GET", path, ""); a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := s.do("POST", "/console/verify/"+b.CID.String(), ""); a.status != http.StatusNotFound {
		t.Errorf("verify: %d", a.status)
	}
}

// Events report a change made through the API, and end with the console.
func TestEvents(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	s.withKey()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", s.url+"/console/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Carload-Console", s.proof)
	for name, value := range s.jar {
		req.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	buf := make([]byte, 4096)
	read := func() string {
		n, err := res.Body.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	if got := read(); !strings.HasPrefix(got, "event: ready\n") {
		t.Fatalf("first: %q", got)
	}
	// As the command line does: with a key, without the session.
	s.do("POST", "/upload", string(storetest.CAROf(storetest.Raw("new"))), "Authorization", "Bearer "+s.token, "Content-Type", "application/car", "Cookie", "", "X-Carload-Console", "")
	if got := read(); !strings.HasPrefix(got, "event: change\n") {
		t.Errorf("then: %q", got)
	}
}
