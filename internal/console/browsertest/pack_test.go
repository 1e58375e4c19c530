package browsertest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/console/web"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader/uploadertest"
)

// policy is the content security policy under which the engine must work.
const policy = "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'; form-action 'none'; base-uri 'none'"

// site is a page with the packing engine, and a service at the same origin.
type site struct {
	*uploadertest.Server
	http *httptest.Server

	mu     sync.Mutex
	posted [][sha256.Size]byte // digests of bodies that were read completely
	gate   func(n int)         // called before the reply to shard n; may block
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{Server: uploadertest.NewServer(t, uploadertest.Options{})}
	files := http.FileServerFS(overlay{os.DirFS("testdata"), web.Files()})
	s.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		switch {
		case r.Method == http.MethodGet && strings.Contains(r.URL.Path, "."):
			files.ServeHTTP(w, r)
		case r.Method == http.MethodPost:
			s.post(w, r)
		default:
			s.Server.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		s.http.CloseClientConnections()
		s.http.Close()
	})
	return s
}

// post records what arrived, and passes it on.
func (s *site) post(w http.ResponseWriter, r *http.Request) {
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return // the page is gone
	}
	s.mu.Lock()
	s.posted = append(s.posted, sha256.Sum256(data))
	n, gate := len(s.posted), s.gate
	s.mu.Unlock()
	if gate != nil {
		gate(n)
	}
	r.Body = io.NopCloser(bytes.NewReader(data))
	s.Server.ServeHTTP(w, r)
}

func (s *site) sums() [][sha256.Size]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.posted)
}

func (s *site) setGate(gate func(n int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gate = gate
}

// overlay looks for files in two places.
type overlay struct{ a, b fs.FS }

func (o overlay) Open(name string) (fs.File, error) {
	if f, err := o.a.Open(name); err == nil {
		return f, nil
	}
	return o.b.Open(name)
}

// visit opens the page.
func (s *site) visit(t *testing.T, b *browser) {
	t.Helper()
	b.do(t, chromedp.Navigate(s.http.URL+"/page.html"))
	waitFor(t, b, "globalThis.ready === true")
}

// waitFor waits until an expression is true. After a minute, it fails and
// reports what the page says.
func waitFor(t *testing.T, b *browser, expression string) {
	t.Helper()
	eval[bool](t, b, fmt.Sprintf(`new Promise((resolve, reject) => {
		const end = performance.now() + 60_000
		const look = () => {
			if (%s) resolve(true)
			else if (performance.now() > end) reject(new Error('waited in vain; the page says: ' + document.body?.innerText))
			else setTimeout(look, 10)
		}
		look()
	})`, expression))
}

// options are those of an upload to the site.
func (s *site) options(more map[string]any) string {
	all := map[string]any{"token": s.Token, "maxShardBytes": 5_000_000}
	for name, value := range more {
		all[name] = value
	}
	text, err := json.Marshal(all)
	if err != nil {
		panic(err) // cannot happen: plain values
	}
	return string(text)
}

// ended is the result of an upload.
type ended struct {
	Result *struct {
		Root                            string
		Shards, SentShards, KnownShards int
	}
	Code, Message string
}

func random(seed uint64, n int) []byte {
	data := make([]byte, n)
	var key [32]byte
	key[0] = byte(seed)
	rand.NewChaCha8(key).Read(data)
	return data
}

// plan returns what the Go engine makes from a file or folder.
func plan(t *testing.T, path string) (*chunker.DAG, *splitter.Plan) {
	t.Helper()
	tree := chunker.NewTree()
	if err := tree.AddDisk("", path); err != nil {
		t.Fatal(err)
	}
	d, err := tree.Build(t.Context(), chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := splitter.Split(d, splitter.Options{MaxShardBytes: 5_000_000})
	if err != nil {
		t.Fatal(err)
	}
	return d, p
}

// A real browser reads files and folders as the Go engine does, and what it
// sends is complete.
func TestPackInBrowser(t *testing.T) {
	s := newSite(t)
	dir := write(t, map[string][]byte{
		"movie.bin":                   random(1, 23_000_000),
		"empty":                       {},
		"folder/a.txt":                []byte("hello world"),
		"folder/sub/ä 日本語 \U0001f600": random(2, 3_000_000),
		"folder/sub/<b>x</b> & y":     random(3, 10),
		"folder/__proto__":            {},
		"folder/.hidden":              []byte("not taken"),
	})
	b := open(t, t.TempDir())
	s.visit(t, b)
	for _, name := range []string{"movie.bin", "empty"} {
		path := filepath.Join(dir, name)
		want, _ := plan(t, path)
		b.do(t, chromedp.SetUploadFiles(chromedp.CSS("#file"), []string{path}))
		if got := eval[[]string](t, b, "roots('file')"); !slices.Equal(got, []string{want.Root().String()}) {
			t.Errorf("%s: %v, want %s", name, got, want.Root())
		}
	}
	folder := filepath.Join(dir, "folder")
	want, p := plan(t, folder)
	b.do(t, chromedp.SetUploadFiles(chromedp.CSS("#folder"), []string{folder}))
	waitFor(t, b, "pick('folder').length > 0") // wait until the folder has been read
	eval[any](t, b, "begin('folder', "+s.options(nil)+")")
	got := eval[ended](t, b, "ended")
	if got.Result == nil || got.Result.Root != want.Root().String() || got.Result.SentShards != len(p.Shards) {
		t.Errorf("%+v, want root %s in %d shards", got, want.Root(), len(p.Shards))
	}
	if !s.Store.Complete(want.Root()) || s.Store.Name(want.Root()) != "folder" {
		t.Errorf("the service has %q, complete: %t", s.Store.Name(want.Root()), s.Store.Complete(want.Root()))
	}
	if left := eval[int](t, b, "ledger.list().then((l) => l.length)"); left != 0 {
		t.Errorf("the ledger has %d uploads, all are done", left)
	}
}

// A browser that was killed in the middle continues: it sends nothing again and
// hashes nothing again.
func TestBrowserIsKilled(t *testing.T) {
	s := newSite(t)
	dir := write(t, map[string][]byte{"movie.bin": random(4, 50_000_000)})
	path := filepath.Join(dir, "movie.bin")
	want, p := plan(t, path)
	const before = 4
	reached, release := make(chan struct{}), make(chan struct{})
	s.setGate(func(n int) {
		if n == before+1 {
			close(reached)
		}
		if n > before {
			<-release
		}
	})
	profile := t.TempDir()
	b := open(t, profile)
	s.visit(t, b)
	b.do(t, chromedp.SetUploadFiles(chromedp.CSS("#file"), []string{path}))
	eval[any](t, b, "begin('file', "+s.options(map[string]any{"parallel": 2})+")")
	<-reached
	waitFor(t, b, fmt.Sprintf("document.title === 'sending %d'", before))
	b.kill(t)
	s.setGate(nil)
	close(release)
	first := s.sums()

	b = open(t, profile)
	s.visit(t, b)
	type pending struct {
		Name                  string
		Bytes                 int64
		SentBytes, TotalBytes int64
		Root                  string
	}
	list := eval[[]pending](t, b, "ledger.list()")
	if len(list) != 1 || list[0].Name != "movie.bin" || list[0].Bytes != 50_000_000 || list[0].SentBytes == 0 || list[0].TotalBytes != p.Size() || list[0].Root != want.Root().String() {
		t.Errorf("the ledger has %+v", list)
	}
	b.do(t, chromedp.SetUploadFiles(chromedp.CSS("#file"), []string{path}))
	if got := eval[*pending](t, b, "ledger.matches(pick('file')[0])"); got == nil {
		t.Error("the file is not known again")
	}
	eval[any](t, b, "begin('file', "+s.options(nil)+")")
	got := eval[ended](t, b, "ended")
	if got.Result == nil || got.Result.Root != want.Root().String() || got.Result.KnownShards < before || got.Result.SentShards > len(p.Shards)-before {
		t.Fatalf("%+v, want at least %d known of %d", got, before, len(p.Shards))
	}
	if !s.Store.Complete(want.Root()) {
		t.Error("it is not complete")
	}
	for _, sum := range s.sums()[len(first):] {
		if slices.Contains(first[:before], sum) {
			t.Error("a shard was sent again")
		}
	}
}

// If a file changes while it is being sent, that is detected, and the versions
// are never mixed.
func TestFileChangesInBrowser(t *testing.T) {
	s := newSite(t)
	dir := write(t, map[string][]byte{"movie.bin": random(5, 30_000_000)})
	path := filepath.Join(dir, "movie.bin")
	reached, release := make(chan struct{}), make(chan struct{})
	s.setGate(func(n int) {
		if n == 1 {
			close(reached)
			<-release
		}
	})
	b := open(t, t.TempDir())
	s.visit(t, b)
	b.do(t, chromedp.SetUploadFiles(chromedp.CSS("#file"), []string{path}))
	eval[any](t, b, "begin('file', "+s.options(map[string]any{"parallel": 1})+")")
	<-reached
	if err := os.WriteFile(path, random(6, 30_000_000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	close(release)
	if got := eval[ended](t, b, "ended"); got.Code != "changed" || !strings.Contains(got.Message, "movie.bin") {
		t.Errorf("%+v, want that it changed", got)
	}
	changed, _ := plan(t, path)
	if s.Store.Complete(changed.Root()) {
		t.Error("it is complete")
	}
}

// The same file is not sent twice at the same time, as by another tab.
func TestSentOnceAtATime(t *testing.T) {
	s := newSite(t)
	path := filepath.Join(write(t, map[string][]byte{"movie.bin": random(7, 12_000_000)}), "movie.bin")
	release := make(chan struct{})
	let := sync.OnceFunc(func() { close(release) })
	t.Cleanup(let)
	s.setGate(func(int) { <-release })
	b := open(t, t.TempDir())
	s.visit(t, b)
	b.do(t, chromedp.SetUploadFiles(chromedp.CSS("#file"), []string{path}))
	eval[any](t, b, "begin('file', "+s.options(nil)+")")
	waitFor(t, b, "document.title.startsWith('sending')")
	eval[any](t, b, "globalThis.one = ended; null")
	eval[any](t, b, "begin('file', "+s.options(nil)+")")
	if got := eval[ended](t, b, "ended"); got.Code != "busy" {
		t.Errorf("%+v, want busy", got)
	}
	let()
	if got := eval[ended](t, b, "one"); got.Result == nil {
		t.Errorf("%+v", got)
	}
}
