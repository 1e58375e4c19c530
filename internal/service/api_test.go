package service_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/carload/carload/internal/store"
)

func TestErrors(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	const unknown = "bafkreidvbhs33ighmljlvr7zbv2ywwzcmp5adtf4kqvlly67cy56bdtmve"
	other := newServer(t, options{})
	forged := s.token[:len(s.token)-4] + "AAAA"
	_, revoked, err := s.st.CreateKey(t.Context(), store.KeyOptions{Name: "revoked"})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := s.st.Keys(t.Context(), 0)
	if err != nil || len(keys) != 2 {
		t.Fatal(keys, err)
	}
	if err := s.st.RevokeKey(t.Context(), keys[1].ID); err != nil {
		t.Fatal(err)
	}
	if err := s.st.RevokeKey(t.Context(), keys[1].ID); !errors.Is(err, store.ErrKeyNotFound) {
		t.Fatal(err)
	}
	if _, _, err := s.st.CreateKey(t.Context(), store.KeyOptions{Name: "test"}); !errors.Is(err, store.ErrKeyExists) {
		t.Fatal(err)
	}
	const auth = "Authorization"
	for _, row := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		code, message            string
	}{
		{"no key", "GET", "/", "", []string{auth, ""}, 401, "EXPECTED_BEARER_STRING", "API Key is missing, make sure the `Authorization` header has a value in the following format `Bearer {api key}`."},
		{"basic", "GET", "/", "", []string{auth, "Basic eA=="}, 401, "EXPECTED_BEARER_STRING", ""},
		{"any case", "GET", "/", "", []string{auth, "BEARER " + s.token}, 200, "", ""},
		{"not three parts", "GET", "/", "", []string{auth, "Bearer abc"}, 401, "ERROR_MALFORMED_TOKEN", "API Key is malformed or failed to parse."},
		{"forged", "GET", "/", "", []string{auth, "Bearer " + forged}, 401, "ERROR_MALFORMED_TOKEN", ""},
		{"of another service", "GET", "/", "", []string{auth, "Bearer " + other.token}, 401, "ERROR_MALFORMED_TOKEN", ""},
		{"revoked", "GET", "/", "", []string{auth, "Bearer " + revoked}, 401, "ERROR_TOKEN_NOT_FOUND", "API Key not found."},
		{"upload without key", "POST", "/upload", "x", []string{auth, ""}, 401, "EXPECTED_BEARER_STRING", ""},

		{"bad CID", "GET", "/foo", "", nil, 400, "ERROR_INVALID_CID", "Invalid CID: foo"},
		{"status is a CID", "GET", "/status", "", nil, 400, "ERROR_INVALID_CID", "Invalid CID: status"},
		{"base16 CID", "GET", "/f01551220" + strings.Repeat("00", 32), "", nil, 400, "ERROR_INVALID_CID", ""},
		{"unknown CID", "GET", "/" + unknown, "", nil, 404, "HTTP_ERROR", "NFT not found"},
		{"check bad CID", "GET", "/check/foo", "", []string{auth, ""}, 400, "ERROR_INVALID_CID", "Invalid CID: foo"},
		{"check unknown", "GET", "/check/" + unknown, "", []string{auth, ""}, 404, "HTTP_ERROR", "NFT not found"},
		{"delete unknown", "DELETE", "/" + unknown, "", nil, 404, "HTTP_ERROR", "NFT not found"},
		{"delete bad CID", "DELETE", "/foo", "", nil, 400, "ERROR_INVALID_CID", "Invalid CID: foo"},
		{"empty blob", "POST", "/upload", "", nil, 400, "HTTP_ERROR", "empty payload"},
		{"bad name", "POST", "/upload", "x", []string{"X-Name", "%zz"}, 500, "URIError", "URI malformed"},
		{"limit 0", "GET", "/?limit=0", "", nil, 400, "HTTP_ERROR", "invalid params"},
		{"limit 1001", "GET", "/?limit=1001", "", nil, 400, "HTTP_ERROR", "invalid params"},
		{"limit text", "GET", "/?limit=ten", "", nil, 400, "HTTP_ERROR", "invalid params"},
		{"limit 1.5", "GET", "/?limit=1.5", "", nil, 400, "HTTP_ERROR", "invalid params"},
		{"limit empty", "GET", "/?limit=&before=", "", nil, 200, "", ""},
		{"before text", "GET", "/?before=yesterday", "", nil, 400, "HTTP_ERROR", "invalid params"},
		{"before with a lost plus", "GET", "/?before=2021-09-10T00:45:50.408956+00:00", "", nil, 400, "HTTP_ERROR", "invalid params"},
		{"token without name", "POST", "/internal/tokens", "{}", nil, 500, "Error", "Token name is required."},
		{"token of a taken name", "POST", "/internal/tokens", `{"name":"test"}`, nil, 500, "Error", ""},
		{"token without id", "DELETE", "/internal/tokens", "{}", nil, 500, "Error", "Token id is required."},
		{"not JSON", "POST", "/pins", "{", nil, 500, "SyntaxError", ""},
	} {
		a := s.do(row.method, row.path, []byte(row.body), row.header...)
		if a.status != row.status || a.Error.Code != row.code || !strings.HasPrefix(a.Error.Message, row.message) {
			t.Errorf("%s: got %d %s", row.name, a.status, a.raw)
		}
		if got := a.header.Get("Content-Type"); got != "application/json;charset=UTF-8" {
			t.Errorf("%s: content type %q", row.name, got)
		}
	}
	for _, row := range [][2]string{{"POST", "/"}, {"HEAD", "/version"}, {"GET", "/a/b/c"}, {"PUT", "/upload"}} {
		a := s.do(row[0], row[1], nil)
		if a.status != 404 || row[0] != "HEAD" && strings.TrimSpace(string(a.raw)) != "404 not found" {
			t.Errorf("%s %s: %d %q", row[0], row[1], a.status, a.raw)
		}
	}
}

func TestVersionAndRouting(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{Version: "1.2.3"})
	for _, path := range []string{"/version", "/VERSION", "/version/"} {
		a := s.do("GET", path, nil, "Authorization", "")
		var v struct{ Version, Mode string }
		if err := json.Unmarshal(a.raw, &v); err != nil || v.Version != "1.2.3" || v.Mode != "rwc" || a.header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %d %s", path, a.status, a.raw)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		if a := s.do("GET", path, nil, "Authorization", ""); a.status != 200 {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	if a := s.do("GET", "/metrics", nil, "Authorization", ""); !strings.Contains(string(a.raw), "carload_service_requests_total") {
		t.Errorf("metrics: %d %s", a.status, a.raw)
	}
	if a := s.do("OPTIONS", "/upload", nil, "Origin", "https://x.example", "Access-Control-Request-Method", "POST"); a.status != 204 || a.header.Get("Access-Control-Allow-Origin") != "https://x.example" {
		t.Errorf("preflight: %d %v", a.status, a.header)
	}
	u := s.do("POST", "/api/upload", []byte("legacy")).upload(t)
	if got := s.do("GET", "/api/"+u.CID+"/", nil).upload(t); got.CID != u.CID {
		t.Errorf("%+v", got)
	}
	if a := s.do("GET", "/api/check/"+u.CID, nil); a.status != 200 {
		t.Errorf("legacy check: %d", a.status)
	}
	if a := s.do("GET", "/api", nil); a.header.Get("Count") != "1" {
		t.Errorf("legacy list: %d %s", a.status, a.raw)
	}
	if a := s.do("GET", "/user/tags", nil); !strings.Contains(string(a.raw), `"HasPsaAccess":true`) {
		t.Errorf("tags: %s", a.raw)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	for i := range 25 {
		s.do("POST", "/upload", fmt.Appendf(nil, "file %d", i), "X-Name", fmt.Sprintf("caf%%C3%%A9%%20%d", i)).upload(t)
	}
	page := func(query string) ([]upload, string) {
		t.Helper()
		a := s.do("GET", "/"+query, nil)
		var out []upload
		if err := json.Unmarshal(a.Value, &out); err != nil {
			t.Fatalf("%v: %s", err, a.raw)
		}
		return out, a.header.Get("Count")
	}
	all, count := page("?limit=1000")
	if len(all) != 25 || count != "25" || all[0].Name != "café 24" || all[24].Name != "café 0" {
		t.Fatalf("%d %s %+v", len(all), count, all)
	}
	first, count := page("")
	if len(first) != 10 || count != "25" {
		t.Fatalf("%d %s", len(first), count)
	}
	second, count := page("?before=" + url.QueryEscape(first[9].Created)) // the time is inclusive
	if len(second) != 10 || count != "16" || second[0].CID != first[9].CID {
		t.Fatalf("%d %s %+v", len(second), count, second[0])
	}
	s.do("DELETE", "/"+first[0].CID, nil)
	if _, count := page(""); count != "24" {
		t.Fatal(count)
	}
	again := s.do("POST", "/upload", []byte("file 24")).upload(t)
	if again.Created != first[0].Created || !strings.HasPrefix(again.Name, "Upload at 2") {
		t.Fatalf("revived: %+v", again)
	}
}

func TestRename(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	u := s.do("POST", "/upload", []byte("x")).upload(t)
	a := s.do("PATCH", "/upload/"+u.CID, []byte(`{"name":"new"}`))
	var row struct {
		Name      string
		SourceCID string `json:"source_cid"`
	}
	if err := json.Unmarshal(a.Value, &row); err != nil || !a.OK || row.Name != "new" || row.SourceCID != u.CID {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	if got := s.do("GET", "/"+u.CID, nil).upload(t); got.Name != "new" {
		t.Fatal(got.Name)
	}
	for _, row := range [][2]string{{"/upload/nonsense", `{"name":"x"}`}, {"/upload/" + u.CID, `{`}} {
		if a := s.do("PATCH", row[0], []byte(row[1])); a.status != 200 || a.OK || len(a.Value) < 3 {
			t.Errorf("%v: %d %s", row, a.status, a.raw)
		}
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	var made struct {
		ID           int64
		Name, Secret string
	}
	a := s.do("POST", "/internal/tokens", []byte(`{"name":"second"}`))
	if err := json.Unmarshal(a.Value, &made); err != nil || made.Secret == "" {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	if a := s.do("GET", "/", nil, "Authorization", "Bearer "+made.Secret); a.status != 200 {
		t.Fatalf("new token: %d", a.status)
	}
	list := s.do("GET", "/internal/tokens", nil)
	if strings.Contains(string(list.raw), "eyJ") || !strings.Contains(string(list.raw), `"second"`) {
		t.Fatalf("list: %s", list.raw)
	}
	_, foreign, err := s.st.CreateKey(t.Context(), store.KeyOptions{Name: "other", User: "somebody"})
	if err != nil {
		t.Fatal(err)
	}
	body := fmt.Appendf(nil, `{"id":"%d"}`, made.ID)
	if a := s.do("DELETE", "/internal/tokens", body, "Authorization", "Bearer "+foreign); a.OK {
		t.Fatal("deleted a token of another user")
	}
	for _, ok := range []bool{true, false} {
		if a := s.do("DELETE", "/internal/tokens", body); a.OK != ok {
			t.Fatalf("delete: %d %s", a.status, a.raw)
		}
	}
	u := s.do("POST", "/upload", []byte("mine")).upload(t)
	if a := s.do("GET", "/"+u.CID, nil, "Authorization", "Bearer "+foreign); a.status != 404 {
		t.Fatalf("another user sees it: %d", a.status)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	u := s.do("POST", "/upload", []byte("x")).upload(t)
	s.close()
	for mode, want := range map[string][4]int{ // statuses of: read, upload, make a token, check
		"rwc": {200, 200, 200, 200}, "rw-": {200, 503, 200, 200}, "r--": {200, 503, 503, 200}, "---": {503, 503, 503, 503},
	} {
		m, err := openServer(t, options{Dir: dir, Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		m.token = s.token
		got := [4]int{
			m.do("GET", "/"+u.CID, nil).status, m.do("POST", "/upload", []byte("x")).status,
			m.do("POST", "/internal/tokens", fmt.Appendf(nil, `{"name":"key %s"}`, mode)).status,
			m.do("GET", "/check/"+u.CID, nil).status,
		}
		if got != want {
			t.Errorf("%s: %v, want %v", mode, got, want)
		}
		if a := m.do("GET", "/version", nil); a.status != 200 || !strings.Contains(string(a.raw), mode) {
			t.Errorf("%s: version %d %s", mode, a.status, a.raw)
		}
		m.close()
	}
	if _, err := openServer(t, options{Dir: dir, Mode: "x"}); err == nil {
		t.Error("mode x was taken")
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{MaxBodyBytes: 1000})
	if a := s.do("POST", "/upload", make([]byte, 1000)); a.status != 200 {
		t.Errorf("at the limit: %d", a.status)
	}
	for name, body := range map[string]io.Reader{
		"with a length":    strings.NewReader(strings.Repeat("x", 1001)),
		"without a length": io.MultiReader(strings.NewReader(strings.Repeat("x", 1001))),
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", s.http.URL+"/upload", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.token)
		res, err := s.http.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		page, err := io.ReadAll(res.Body)
		if err := errors.Join(err, res.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 413 || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") || !strings.Contains(string(page), "413 Request Entity Too Large") {
			t.Errorf("%s: %d %s", name, res.StatusCode, page)
		}
	}
}

// If a request is refused whatever its body is, the whole reply comes before
// the body is sent.
func TestAnsweredBeforeTheBody(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	for _, c := range []struct {
		path   string
		length int
		status int
	}{
		{"/upload", 100<<20 + 1, 413},
		{"/upload", 100, 401},
		{"/api/v1/upload", 100, 404},
	} {
		conn, err := net.Dial("tcp", s.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", c.path, c.length); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != c.status {
			t.Errorf("%s, %d bytes: %d, %v", c.path, c.length, resp.StatusCode, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	_, token, err := s.st.CreateKey(t.Context(), store.KeyOptions{Name: "limited", RateLimited: true})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 30 {
		if a := s.do("GET", "/", nil, "Authorization", "Bearer "+token); a.status != 200 {
			t.Fatalf("request %d: %d", i, a.status)
		}
	}
	a := s.do("GET", "/", nil, "Authorization", "Bearer "+token)
	if got := a.header.Get("Access-Control-Expose-Headers"); got != "Retry-After" {
		t.Errorf("pages of other origins may read %q, want Retry-After", got)
	}
	if a.status != 429 || a.header.Get("Retry-After") != "30" || len(a.raw) != 113 || a.Error.Code != "ERROR_RATE_LIMITED" {
		t.Errorf("%d %v %s", a.status, a.header, a.raw)
	}
	if a := s.do("GET", "/", nil); a.status != 200 {
		t.Errorf("another key: %d", a.status)
	}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	_, token, err := s.st.CreateKey(t.Context(), store.KeyOptions{Name: "small", QuotaBytes: 1000})
	if err != nil {
		t.Fatal(err)
	}
	put := func(n int, tag string) *answer {
		return s.do("POST", "/upload", []byte(strings.Repeat(tag, n)), "Authorization", "Bearer "+token)
	}
	if a := put(600, "a"); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	if a := put(600, "b"); a.status != 403 || a.Error.Code != "ERROR_QUOTA_EXCEEDED" {
		t.Fatalf("%d %s", a.status, a.raw)
	}
	if a := put(600, "a"); a.status != 403 { // refused by its announced length, before it is read
		t.Fatalf("%d %s", a.status, a.raw)
	}
	if a := put(100, "c"); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.raw)
	}
}
