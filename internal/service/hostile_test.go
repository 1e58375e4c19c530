package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/store"
)

// Any number of trickling uploads must neither take memory that others need nor
// make others wait.
func TestSlowUploadsStopNobody(t *testing.T) { // not parallel: it measures the memory of all
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	const slow = 100
	var blocks []block
	for i := range 200 {
		blocks = append(blocks, raw(fmt.Sprint(i, strings.Repeat("x", 1000))))
	}
	begun := carOf(blocks...)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range slow / 10 { // several keys, since one key may not have so many
		_, token, err := s.st.CreateKey(t.Context(), store.KeyOptions{Name: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		client := *s
		client.token = token
		for range 10 {
			rawRequest(t, &client, "Content-Length: 90000000\r\n", begun)
		}
	}
	waitFor(t, "all slow uploads to be received", func() bool {
		received, err := filepath.Glob(filepath.Join(dir, "incoming", "*"))
		return err == nil && len(received) == slow
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // shorter than a slow upload may last
	defer cancel()
	for _, size := range []int{100, 100_000, 1 << 20} {
		body := carOf(raw(strings.Repeat("y", size)))
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.http.URL+"/upload", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.token)
		req.Header.Set("Content-Type", "application/car")
		res, err := s.http.Client().Do(req)
		if err != nil {
			t.Fatalf("an upload of %d bytes beside %d slow ones: %v", size, slow, err)
		}
		if err := res.Body.Close(); err != nil || res.StatusCode != 200 {
			t.Errorf("an upload of %d bytes beside %d slow ones: %s, %v", size, slow, res.Status, err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 160<<20 {
		t.Errorf("%d slow uploads hold %d MiB", slow, grown>>20)
	}
}

// Any number of clients that request much from the gateway and read nothing
// must not take anything that others need.
func TestReadersThatDontReadStopNobody(t *testing.T) { // not parallel: other tests measure memory too
	s := newServer(t, options{})
	large := s.do(http.MethodPost, "/upload", bytes.Repeat([]byte("0123456789abcdef"), 2<<20), "Content-Type", "application/octet-stream").upload(t).CID
	small := s.do(http.MethodPost, "/upload", []byte("small"), "Content-Type", "application/octet-stream").upload(t).CID
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const readers = 200
	for i := range readers {
		conn, err := net.Dial("tcp", s.http.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() }) // the service may have closed it
		query := []string{"", "?format=car"}[i%2]
		if _, err := fmt.Fprintf(conn, "GET /ipfs/%s%s HTTP/1.1\r\nHost: localhost\r\n\r\n", large, query); err != nil {
			t.Fatal(err)
		}
	}
	var blocks []block
	for i := range 10 {
		blocks = append(blocks, raw(fmt.Sprint(i, strings.Repeat("y", 10_000))))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // shorter than clients may stand still
	defer cancel()
	ask := func(method, path string, body []byte) time.Duration {
		start := time.Now()
		req, err := http.NewRequestWithContext(ctx, method, s.http.URL+path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+s.token)
		req.Header.Set("Content-Type", "application/car")
		res, err := s.http.Client().Do(req)
		if err != nil {
			t.Fatalf("%s %s beside %d that don't read: %v", method, path, readers, err)
		}
		_, err = io.Copy(io.Discard, res.Body)
		if err := errors.Join(err, res.Body.Close()); err != nil || res.StatusCode != 200 {
			t.Errorf("%s %s beside %d that don't read: %s, %v", method, path, readers, res.Status, err)
		}
		return time.Since(start)
	}
	var reads []time.Duration
	for i := range 100 {
		reads = append(reads, ask(http.MethodGet, "/ipfs/"+[]string{small, small + "?format=car"}[i%2], nil))
	}
	whole := ask(http.MethodGet, "/ipfs/"+large, nil)
	upload := ask(http.MethodPost, "/upload", carOf(blocks...))
	slices.Sort(reads)
	t.Logf("reads take %s, p99 %s; one of 32 MiB %s; an upload %s", reads[50], reads[98], whole, upload)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 200<<20 && !underRace {
		t.Errorf("%d that don't read hold %d MiB", readers, grown>>20)
	}
}

// What the service makes from forms must pass its own checks: fsck, a rebuild,
// and the checks of a client that uploads the shard elsewhere.
func TestFormsPassTheServicesOwnChecks(t *testing.T) {
	t.Parallel()
	const octets = "application/octet-stream"
	long := strings.Repeat("n", 255)
	many := func(n int, name func(int) string) (parts []formPart) {
		for i := range n {
			parts = append(parts, formPart{"file", name(i), octets, fmt.Sprint(i)})
		}
		return parts
	}
	deep := strings.TrimSuffix(strings.Repeat("d/", 63), "/") + "/f"
	for _, row := range []struct {
		name, path string
		parts      []formPart
	}{
		{"one", "/upload", many(1, func(int) string { return "a" })},
		{"999 of the longest names", "/upload", many(999, func(i int) string { return fmt.Sprintf("%03d%s", i, long[3:]) })},
		{"1001 of the longest names", "/upload", many(1001, func(i int) string { return fmt.Sprintf("%04d%s", i, long[4:]) })},
		{"deep", "/upload", many(3, func(i int) string { return deep + fmt.Sprint(i) })},
		{"wide and deep", "/upload", many(1200, func(i int) string { return fmt.Sprintf("%d/%d", i%3, i) })},
		{"empty file", "/upload", []formPart{{"file", "empty", octets, ""}}},
		{"nft", "/store", []formPart{{"meta", "", "", `{"name":"n"}`}, {"image", long, "image/png", "png"}}},
		{"nft with lists", "/store", []formPart{{"meta", "", "", `{}`}, {"a.1000.b.1000", "x", octets, "x"}, {"c." + strings.Repeat("d.", 60) + "e", "y", octets, "y"}}},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := newServer(t, options{Dir: dir})
			body, mime := form(t, row.parts...)
			a := s.do(http.MethodPost, row.path, body, "Content-Type", mime)
			if a.status != 200 {
				t.Fatalf("%d %s", a.status, a.raw)
			}
			if r := fsck(t, s); len(r.Problems) > 0 {
				t.Fatalf("fsck: %v", r.Problems)
			}
			s.close()
			shards, err := filepath.Glob(filepath.Join(dir, "shards", "*", "*.car"))
			if err != nil || len(shards) != 1 {
				t.Fatalf("%v %v", shards, err)
			}
			src, err := chunker.OpenFile(shards[0])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := car.Import(t.Context(), src); err != nil {
				t.Errorf("the shard as the source of an upload: %v", err)
			}
			if r, err := store.Rebuild(t.Context(), dir); err != nil || len(r.Problems) > 0 || r.Shards != 1 {
				t.Errorf("rebuild: %+v, %v", r, err)
			}
		})
	}
}

// A form is refused with a reason if the service would refuse the result
// itself, or if it would cost the service far more than the client.
func TestFormsThatAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	const octets = "application/octet-stream"
	repeat := func(n int, part func(int) formPart) (parts []formPart) {
		for i := range n {
			parts = append(parts, part(i))
		}
		return parts
	}
	for _, row := range []struct {
		name, path, says string
		parts            []formPart
	}{
		{"long name", "/upload", "too long", []formPart{{"file", strings.Repeat("n", 256), octets, "x"}}},
		{"900 names of 60,000 bytes", "/upload", "too long", repeat(900, func(i int) formPart {
			return formPart{"file", fmt.Sprint(i) + strings.Repeat("n", 60_000), octets, "x"}
		})},
		{"names that are long together", "/upload", "names", repeat(5000, func(i int) formPart {
			return formPart{"file", fmt.Sprintf("%04d%s", i, strings.Repeat("n", 250)), octets, ""}
		})},
		{"long type", "/upload", "Content-Type", []formPart{{"file", "n", "text/" + strings.Repeat("x", 300), "x"}}},
		{"deep field", "/store", "steps", []formPart{{"meta", "", "", `{}`}, {strings.Repeat("a.", 100_000), "n", octets, "x"}}},
		{"gaps", "/store", "gaps", append(repeat(100, func(i int) formPart {
			return formPart{fmt.Sprintf("k%d.65535", i), "n", octets, "x"}
		}), formPart{"meta", "", "", `{}`})},
		{"root of many megabytes", "/store", "block of more than", append(repeat(40_000, func(i int) formPart {
			return formPart{fmt.Sprintf("k%d", i), "n", "a/b", fmt.Sprint(i)}
		}), formPart{"meta", "", "", `{"k":"` + strings.Repeat("v", 1_000_000) + `"}`})},
	} {
		body, mime := form(t, row.parts...)
		a := s.do(http.MethodPost, row.path, body, "Content-Type", mime)
		if a.status != 400 || !strings.Contains(a.Error.Message, row.says) {
			t.Errorf("%s: %d %.300s", row.name, a.status, a.raw)
		}
	}
	if left, err := os.ReadDir(filepath.Join(dir, "incoming")); err != nil || len(left) > 0 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
}

// Each page of a list is limited in bytes, and the pages together have
// everything.
func TestListsAreBounded(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	const uploads = 12
	for u := range uploads {
		var parts []formPart
		for i := range 3000 {
			parts = append(parts, formPart{"file", fmt.Sprintf("%d/%04d%s", u, i, strings.Repeat("n", 200)), "a/b", ""})
		}
		body, mime := form(t, parts...)
		if a := s.do(http.MethodPost, "/upload", body, "Content-Type", mime); a.status != 200 {
			t.Fatalf("%d %.300s", a.status, a.raw)
		}
	}
	seen := map[string]bool{}
	query := url.Values{"limit": {"1000"}}
	for range uploads {
		a := s.do(http.MethodGet, "/?"+query.Encode(), nil)
		if len(a.raw) > 8<<20 {
			t.Fatalf("a page of %d bytes", len(a.raw))
		}
		var page []upload
		if err := json.Unmarshal(a.Value, &page); err != nil || len(page) == 0 {
			t.Fatal(err, "an empty page")
		}
		fresh := 0
		for _, u := range page {
			if !seen[u.CID] {
				fresh++
			}
			seen[u.CID] = true
		}
		if len(seen) == uploads {
			return
		}
		if fresh == 0 && len(page) == 1 {
			break
		}
		query.Set("before", page[len(page)-1].Created)
	}
	t.Errorf("the pages have %d of %d uploads", len(seen), uploads)
}

// A list of pins can be filtered by metadata. Someone who deletes what the list
// contains must not delete the pins of others.
func TestPinsByMeta(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	pin := func(name, meta string) {
		body := fmt.Sprintf(`{"cid":%q,"name":%q,"meta":%s}`, raw(name).CID, name, meta)
		if a := s.do(http.MethodPost, "/pins", []byte(body), "Content-Type", "application/json"); a.status != 200 {
			t.Fatalf("%d %s", a.status, a.raw)
		}
	}
	pin("ours", `{"app":"ours","run":"1"}`)
	pin("ours too", `{"app":"ours","run":"2","it's \"odd\"":"x"}`)
	pin("theirs", `{"app":"theirs"}`)
	pin("nobody's", `null`)
	for query, want := range map[string]int{
		``: 4, `{"app":"ours"}`: 2, `{"app":"ours","run":"2"}`: 1, `{"app":"nobody"}`: 0, `{"it's \"odd\"":"x"}`: 1, `{}`: 4, `{"ap":"ours"}`: 0,
	} {
		a := s.do(http.MethodGet, "/pins?status=queued,pinning,pinned,failed&meta="+url.QueryEscape(query), nil)
		var list struct {
			Count   int
			Results []json.RawMessage
		}
		if err := json.Unmarshal(a.raw, &list); err != nil || list.Count != want || len(list.Results) != want {
			t.Errorf("meta %s: %d pins, %v, want %d", query, list.Count, err, want)
		}
	}
	for _, bad := range []string{`{`, `[1]`, `{"a":1}`, `"a"`} {
		a := s.do(http.MethodGet, "/pins?meta="+url.QueryEscape(bad), nil)
		if reason := reasonOf(t, a.raw); a.status != 400 || reason != "INVALID_META" {
			t.Errorf("meta %s: %d %s", bad, a.status, a.raw)
		}
	}
}

// Errors of the pinning API have a reason in the place where its clients look.
func TestPinErrorsHaveReasons(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	stranger := *s
	stranger.token = "nonsense"
	big := fmt.Sprintf(`{"cid":%q,"meta":{"k":"%s"}}`, raw("x").CID, strings.Repeat("v", 65<<10))
	for name, a := range map[string]*answer{
		"no key":    stranger.do(http.MethodGet, "/pins", nil),
		"bad query": s.do(http.MethodGet, "/pins?limit=0", nil),
		"no JSON":   s.do(http.MethodPost, "/pins", []byte("{"), "Content-Type", "application/json"),
		"no CID":    s.do(http.MethodPost, "/pins", []byte("{}"), "Content-Type", "application/json"),
		"unknown":   s.do(http.MethodGet, "/pins/"+raw("y").CID.String(), nil),
		"large":     s.do(http.MethodPost, "/pins", []byte(big), "Content-Type", "application/json"),
	} {
		if a.status < 400 || reasonOf(t, a.raw) == "" {
			t.Errorf("%s: %d %.200s", name, a.status, a.raw)
		}
	}
}

func reasonOf(t *testing.T, reply []byte) string {
	t.Helper()
	var body struct{ Error struct{ Reason string } }
	if err := json.Unmarshal(reply, &body); err != nil {
		t.Fatal(errors.Join(err, fmt.Errorf("in %.200s", reply)))
	}
	return body.Error.Reason
}

// deadlines is a writer that records its write deadline.
type deadlines struct {
	*httptest.ResponseRecorder
	all []time.Time
}

// SetWriteDeadline is called by http.ResponseController.
func (d *deadlines) SetWriteDeadline(t time.Time) error {
	d.all = append(d.all, t)
	return nil
}

// A reply's deadline must not outlive it: the next reply on the connection may
// come much later. A reply without a body needs time too.
func TestRepliesHaveDeadlinesOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	for _, method := range []string{"OPTIONS", "GET"} {
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		r := httptest.NewRequestWithContext(t.Context(), method, "http://localhost/version", nil)
		r.Header.Set("Origin", "http://example.com")
		r.Header.Set("Access-Control-Request-Method", "GET")
		s.svc.Handler().ServeHTTP(w, r)
		if n := len(w.all); n < 2 || !w.all[0].IsZero() || !w.all[n-1].After(time.Now()) {
			t.Errorf("%s: %d, deadlines %v", method, w.Code, w.all)
		}
	}
}
