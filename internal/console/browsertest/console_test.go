package browsertest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/console"
	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
)

// home is a service with a console, as carload serve runs it.
type home struct {
	t     *testing.T
	http  *httptest.Server
	st    *store.Store
	token string

	mu      sync.Mutex
	seen    []seen
	gate    func(*http.Request) // called before each request; may block
	arrived int                 // requests so far
}

// seen is a request that was answered.
type seen struct {
	method, path, origin, ranges string
	status                       int
	arrived                      int // its number, by arrival
}

type statusOf struct {
	http.ResponseWriter
	status int
}

func (s *statusOf) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *statusOf) Flush() { _ = http.NewResponseController(s.ResponseWriter).Flush() }

func (s *statusOf) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

func newHome(t *testing.T) *home {
	t.Helper()
	if testing.Short() {
		t.Skip("a browser takes its time")
	}
	st, err := store.Open(t.Context(), store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	_, token, err := st.CreateKey(t.Context(), store.KeyOptions{Name: "laptop"})
	if err != nil {
		t.Fatal(err)
	}
	metrics := prometheus.NewRegistry()
	pages, err := console.New(st, console.Options{Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	svc, err := service.New(t.Context(), st, service.Options{Console: pages.Handler, Registry: metrics})
	if err != nil {
		t.Fatal(err)
	}
	h := &home{t: t, st: st, token: token}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); pages.Run(ctx) }()
	h.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		gate := h.gate
		h.arrived++
		arrived := h.arrived
		h.mu.Unlock()
		if gate != nil {
			gate(r)
		}
		rec := &statusOf{w, http.StatusOK}
		svc.Handler().ServeHTTP(rec, r)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.seen = append(h.seen, seen{r.Method, r.URL.Path, r.Header.Get("Origin"), r.Header.Get("Range"), rec.status, arrived})
	}))
	t.Cleanup(func() {
		cancel()
		<-done
		h.http.CloseClientConnections()
		h.http.Close()
		if err := errors.Join(svc.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	return h
}

func (h *home) requests() []seen {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen)
}

// arrivals returns how many requests have arrived. Some may still be running.
func (h *home) arrivals() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.arrived
}

func (h *home) setGate(gate func(*http.Request)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gate = gate
}

// code requests a sign-in code, as carload console does.
func (h *home) code() string {
	h.t.Helper()
	req, err := http.NewRequestWithContext(h.t.Context(), http.MethodPost, h.http.URL+"/console/code", nil)
	if err != nil {
		h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	var out struct{ Code string }
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil || out.Code == "" {
		h.t.Fatalf("code: %s %v", res.Status, err)
	}
	return out.Code
}

// signIn opens the console as carload console does.
func (h *home) signIn(b *browser) {
	h.t.Helper()
	b.do(h.t, chromedp.Navigate(h.http.URL+"/#code="+h.code()))
	waitFor(h.t, b, "document.querySelector('header nav') !== null")
	// A violation would mean that the page needs something that its policy
	// forbids, or that foreign content tried something.
	eval[any](h.t, b, "globalThis.violations = []; addEventListener('securitypolicyviolation', (e) => violations.push(e.violatedDirective + ' ' + e.blockedURI)); null")
}

// clean fails if the policy was violated since signing in.
func clean(t *testing.T, b *browser) {
	t.Helper()
	if got := eval[[]string](t, b, "globalThis.violations ?? ['the page was left']"); len(got) > 0 {
		t.Errorf("policy: %v", got)
	}
}

// page opens a page of the console.
func (h *home) page(b *browser, hash, title string) {
	h.t.Helper()
	eval[any](h.t, b, fmt.Sprintf("location.hash = %q; null", hash))
	waitFor(h.t, b, fmt.Sprintf("document.querySelector('main h1')?.textContent === %q", title))
}

func has(text string) string {
	return fmt.Sprintf("document.querySelector('main')?.textContent.includes(%q)", text)
}

// up uploads a path as carload up does.
func (h *home) up(path string, name string) string {
	h.t.Helper()
	token, err := nftstorage.NewToken(h.token)
	if err != nil {
		h.t.Fatal(err)
	}
	target, err := nftstorage.New(nftstorage.Options{Endpoint: h.http.URL, Token: token})
	if err != nil {
		h.t.Fatal(err)
	}
	defer target.Close()
	up, err := uploader.New(target, uploader.Options{})
	if err != nil {
		h.t.Fatal(err)
	}
	tree := chunker.NewTree()
	if err := tree.AddDisk("", path); err != nil {
		h.t.Fatal(err)
	}
	for result, err := range up.Upload(h.t.Context(), slices.Values([]uploader.Input{uploader.Tree(name, tree, chunker.Options{})})) {
		if err != nil {
			h.t.Fatal(err)
		}
		return result.Root.String()
	}
	h.t.Fatal("nothing was sent")
	return ""
}

func (h *home) pick(b *browser, input, path string) {
	h.t.Helper()
	h.page(b, "#/add", "Upload")
	waitFor(h.t, b, "document.querySelector('"+input+"') !== null")
	b.do(h.t, chromedp.SetUploadFiles(chromedp.CSS(input), []string{path}))
}

// scheme switches pages to the light or dark color scheme.
func scheme(name string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
		})
		return err
	})
}

// From signing in to signing out.
func TestConsole(t *testing.T) {
	h := newHome(t)
	b := open(t, t.TempDir())
	h.signIn(b)
	if hash := eval[string](t, b, "location.hash"); hash != "#/" {
		t.Errorf("the code is still in the URL: %s", hash)
	}
	waitFor(t, b, has("Nothing here yet"))

	dir := write(t, map[string][]byte{
		"movie.bin":       random(1, 12_000_000),
		"photos/a.txt":    []byte("hello"),
		"photos/sub/b.md": []byte("# Title"),
	})
	movie, _ := plan(t, filepath.Join(dir, "movie.bin"))
	photos, _ := plan(t, filepath.Join(dir, "photos"))
	h.pick(b, "#files", filepath.Join(dir, "movie.bin"))
	waitFor(t, b, has("Done."))
	h.pick(b, "#folder", filepath.Join(dir, "photos"))
	waitFor(t, b, "document.querySelectorAll('.transfer .good').length === 2")
	for _, root := range []string{movie.Root().String(), photos.Root().String()} {
		if !eval[bool](t, b, has(root)) {
			t.Errorf("the page does not name %s", root)
		}
	}

	h.page(b, "#/", "Uploads")
	waitFor(t, b, has("2 uploads"))
	b.do(t, chromedp.SendKeys(chromedp.CSS("input[type=search]"), "movie"))
	waitFor(t, b, has("1 upload")+" && document.querySelectorAll('a.upload-row').length === 1")
	b.do(t, chromedp.Click(chromedp.CSS("a.upload-row")))
	waitFor(t, b, "document.querySelector('main h1')?.textContent === 'movie.bin'")
	waitFor(t, b, has("pinned: complete"))
	b.do(t, chromedp.Click(chromedp.CSS("#sample")))
	waitFor(t, b, has("300 random blocks are intact"))
	b.do(t, chromedp.Click(chromedp.CSS("#full")))
	waitFor(t, b, has("Everything is intact"))
	if n := eval[int](t, b, "document.querySelectorAll('.map .held').length"); n != 1 {
		t.Errorf("the map has %d squares of shards that are held", n)
	}
	b.do(t, chromedp.Click(chromedp.CSS(".links button[aria-expanded]")))
	waitFor(t, b, "document.querySelector('.qr path').getAttribute('d').length > 500")

	// Answer no the first time.
	b.do(t, chromedp.Click(chromedp.CSS("#delete")))
	waitFor(t, b, "document.querySelector('dialog[open]') !== null")
	b.do(t, chromedp.KeyEvent(kb.Enter))
	waitFor(t, b, "document.querySelector('dialog') === null")
	b.do(t, chromedp.Click(chromedp.CSS("#delete")), chromedp.Click(chromedp.CSS("dialog button.danger")))
	waitFor(t, b, "document.querySelector('main h1')?.textContent === 'Uploads'")
	if all, _, err := h.st.Uploads(t.Context(), store.Filter{UserID: 1, Limit: 10}); err != nil || len(all) != 1 || all[0].SourceCID != photos.Root().String() {
		t.Errorf("the store has %v (%v), want the folder", all, err)
	}

	h.page(b, "#/service", "Service")
	waitFor(t, b, has("No known damage"))
	waitFor(t, b, "document.querySelector('#chart-stored strong').textContent === '12.0 MB' && document.querySelector('.facts dd').textContent === '2'")
	h.page(b, "#/keys", "Keys")
	waitFor(t, b, has("this session"))
	b.do(t, chromedp.SendKeys(chromedp.CSS("#key-name"), "second"), chromedp.Click(chromedp.CSS("form.inline .primary")))
	waitFor(t, b, has("You will not see it again"))
	second := eval[string](t, b, "document.querySelector('main .line code').textContent")
	clean(t, b)

	b.do(t, chromedp.Click(chromedp.CSS("header button.quiet")), chromedp.Click(chromedp.CSS("dialog button.primary")))
	waitFor(t, b, "document.querySelector('#key') !== null")
	if status := eval[int](t, b, "fetch('/console/session', {headers: {'X-Carload-Console': 'x'}}).then((r) => r.status)"); status != http.StatusUnauthorized {
		t.Errorf("after signing out: %d", status)
	}
	b.do(t, chromedp.SendKeys(chromedp.CSS("#key"), "nonsense"+kb.Enter))
	waitFor(t, b, has("does not know that key"))
	b.do(t, chromedp.SendKeys(chromedp.CSS("#key"), second+kb.Enter))
	waitFor(t, b, has("1 upload"))
	if found := eval[bool](t, b, fmt.Sprintf("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href]).includes(%q)", second)); found {
		t.Error("the key is kept where scripts can read it")
	}
}

// The tab is killed in the middle of an upload. Afterwards the page knows that
// the upload is not finished, and the same file continues it.
func TestConsoleIsKilled(t *testing.T) {
	h := newHome(t)
	path := filepath.Join(write(t, map[string][]byte{"movie.bin": random(2, 320_000_000)}), "movie.bin")
	want, _ := plan(t, path)
	var posts int
	var mu sync.Mutex
	reached, release := make(chan struct{}), make(chan struct{})
	h.setGate(func(r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/upload") {
			return
		}
		mu.Lock()
		posts++
		n := posts
		mu.Unlock()
		if n == 4 {
			close(reached)
		}
		if n >= 3 {
			<-release
		}
	})
	profile := t.TempDir()
	b := open(t, profile)
	h.signIn(b)
	h.pick(b, "#files", path)
	<-reached // two shards are answered; the next two wait
	waitFor(t, b, "document.querySelectorAll('.transfer .map .held').length === 2")
	b.kill(t)
	h.setGate(nil)
	close(release)

	b = open(t, profile)
	h.signIn(b)
	h.page(b, "#/add", "Upload")
	waitFor(t, b, has("Unfinished"))
	before := len(h.requests())
	h.pick(b, "#files", path)
	waitFor(t, b, has("Done."))
	if !eval[bool](t, b, has(want.Root().String())) {
		t.Error("the root is another")
	}
	sent := 0
	for _, r := range h.requests()[before:] {
		if strings.HasSuffix(r.path, "/upload") {
			sent++
		}
	}
	if sent < 1 || sent > 2 {
		t.Errorf("%d shards were sent after the first two of four", sent)
	}
	waitFor(t, b, "document.querySelector('#pending-title').closest('section').hidden")
}

// The page shows how an upload from the command line progresses.
func TestLive(t *testing.T) {
	h := newHome(t)
	dir := write(t, map[string][]byte{"movie.bin": random(3, 9_000_000)})
	source, err := chunker.OpenFile(filepath.Join(dir, "movie.bin"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := chunker.Build(t.Context(), source, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := splitter.Split(d, splitter.Options{MaxShardBytes: 2_500_000})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Shards) < 4 {
		t.Fatalf("%d shards", len(p.Shards))
	}
	post := func(i int) {
		t.Helper()
		body := new(car.Packer).Open(t.Context(), p.Archive(i))
		defer body.Close()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.http.URL+"/upload", body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = p.Shards[i].Size
		req.Header.Set("Authorization", "Bearer "+h.token)
		req.Header.Set("Content-Type", "application/car")
		req.Header.Set("X-Name", "movie.bin")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusOK {
			t.Fatalf("shard %d: %s", i, res.Status)
		}
	}
	b := open(t, t.TempDir())
	h.signIn(b)
	waitFor(t, b, has("Nothing here yet"))
	post(0)
	waitFor(t, b, has("1 upload")+" && document.querySelector('a.upload-row .incomplete') !== null")
	b.do(t, chromedp.Click(chromedp.CSS("a.upload-row")))
	waitFor(t, b, "document.querySelectorAll('.map .held').length === 1 && document.querySelectorAll('.map .missing').length > 0")
	for i := 1; i < len(p.Shards); i++ {
		post(i)
		waitFor(t, b, fmt.Sprintf("document.querySelectorAll('.map .held').length === %d", i+1))
	}
	waitFor(t, b, has("pinned: complete")+" && document.querySelectorAll('.map .missing').length === 0")
	clean(t, b)
}

// A sharded directory is loaded while scrolling, with the keyboard alone. The
// page holds only a small part of it.
func TestBrowse(t *testing.T) {
	n := 6_000
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		n = 60_000
	}
	h := newHome(t)
	dir := t.TempDir()
	for i := range n {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("token-%05d.json", i)), fmt.Appendf(nil, `{"name":"Token %d","description":"one of many"}`, i), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root := h.up(dir, "tokens")
	b := open(t, t.TempDir())
	h.signIn(b)
	h.page(b, "#/upload/"+root, "tokens")
	waitFor(t, b, has("500+ entries"))
	eval[any](t, b, "document.querySelector('[role=treeitem]').focus(); null")
	for range n/500 + 1 {
		loaded := eval[string](t, b, "document.querySelector('#content-title').parentElement.querySelector('[role=status]').textContent")
		if !strings.Contains(loaded, "+") {
			break
		}
		b.do(t, chromedp.KeyEvent(kb.End))
		waitFor(t, b, fmt.Sprintf("document.querySelector('#content-title').parentElement.querySelector('[role=status]').textContent !== %q", loaded))
	}
	text := map[int]string{6_000: "6,000 entries", 60_000: "60,000 entries"}[n]
	waitFor(t, b, has(text))
	if rows := eval[int](t, b, "document.querySelectorAll('[role=treeitem]').length"); rows == 0 || rows > 200 {
		t.Errorf("%d rows are in the page", rows)
	}
	b.do(t, chromedp.KeyEvent(kb.End), chromedp.KeyEvent(kb.Enter))
	waitFor(t, b, "document.querySelector('.nft h3')?.textContent.startsWith('Token ')")
	clean(t, b)
}

// What previews show, and that nothing in them runs.
func TestPreviews(t *testing.T) {
	h := newHome(t)
	b := open(t, t.TempDir())
	b.do(t, chromedp.Navigate(h.http.URL+"/console/assets/icon.svg")) // any page of the origin
	// The browser itself makes a video: two seconds of a canvas.
	video := eval[string](t, b, `(async () => {
		const canvas = new OffscreenCanvas(64, 48), c = canvas.getContext('2d')
		const html = document.createElementNS('http://www.w3.org/1999/xhtml', 'canvas')
		html.width = 64; html.height = 48
		const g = html.getContext('2d')
		const rec = new MediaRecorder(html.captureStream(25), {mimeType: 'video/webm'})
		const parts = []
		rec.ondataavailable = (e) => parts.push(e.data)
		const stopped = new Promise((resolve) => { rec.onstop = resolve })
		rec.start()
		for (let i = 0; i < 40; i++) { g.fillStyle = 'hsl(' + i * 9 + ' 80% 50%)'; g.fillRect(0, 0, 64, 48); await new Promise((r) => setTimeout(r, 25)) }
		rec.stop()
		await stopped
		const bytes = new Uint8Array(await new Blob(parts).arrayBuffer())
		return btoa(Array.from(bytes, (x) => String.fromCharCode(x)).join(''))
	})()`)
	movie, err := base64.StdEncoding.DecodeString(video)
	if err != nil || len(movie) < 1000 {
		t.Fatalf("the video has %d bytes (%v)", len(movie), err)
	}
	const markup = `<img src=x onerror="globalThis.pwned=1"><script>globalThis.pwned=1</script>`
	svg := `<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30" onload="globalThis.pwned=1;document.documentElement.setAttribute('data-pwned','1')"><script>document.documentElement.setAttribute('data-pwned','1')</script><rect width="40" height="30" fill="red"/></svg>`
	meta, err := json.Marshal(map[string]any{
		"name": markup, "description": markup, "image": "ipfs://bafkqaaa/" + markup,
		"attributes": []any{map[string]any{"trait_type": markup, "value": markup}, nil, 3},
	})
	if err != nil {
		t.Fatal(err)
	}
	const title = `<img src=x onerror="globalThis.pwned=1">`
	odd := `<img src=x onerror="globalThis.pwned=1">.txt`
	root := h.up(write(t, map[string][]byte{
		"a.svg": []byte(svg), "b.json": meta, "c.webm": movie, odd: []byte(markup), "page.html": []byte("<!doctype html>" + markup),
		"data.bin": random(9, 1000), "e/" + odd: nil, "z/empty": {},
	}), title)
	h.signIn(b)
	h.page(b, "#/", "Uploads")
	waitFor(t, b, has(title)) // as text
	h.page(b, "#/upload/"+root, title)
	choose := func(name string) {
		t.Helper()
		waitFor(t, b, fmt.Sprintf("[...document.querySelectorAll('[role=treeitem]')].some((e) => e.title === %q)", name))
		eval[any](t, b, fmt.Sprintf("[...document.querySelectorAll('[role=treeitem]')].find((e) => e.title === %q).click(); null", name))
	}
	choose("a.svg")
	waitFor(t, b, "document.querySelector('.preview img')?.naturalWidth === 40")
	choose("b.json")
	waitFor(t, b, "document.querySelector('.nft') !== null")
	for _, where := range []string{".nft h3", ".nft p + h3 + p", ".nft td", ".nft td + td"} {
		if got := eval[string](t, b, "document.querySelector('"+where+"').textContent"); got != markup {
			t.Errorf("%s: %q", where, got)
		}
	}
	choose("c.webm")
	waitFor(t, b, "document.querySelector('.preview video')?.videoWidth === 64")
	eval[any](t, b, "document.querySelector('.preview video').muted = true; document.querySelector('.preview video').play()")
	waitFor(t, b, "document.querySelector('.preview video').currentTime > 0.2")
	partial := slices.ContainsFunc(h.requests(), func(r seen) bool {
		return strings.HasSuffix(r.path, "/c.webm") && r.ranges != "" && r.status == http.StatusPartialContent
	})
	if !partial {
		t.Error("the video was not read by ranges")
	}
	choose(odd)
	waitFor(t, b, "document.querySelector('.preview pre')?.textContent === "+quoted(markup))
	choose("page.html")
	waitFor(t, b, "document.querySelector('.preview pre')?.textContent.startsWith('<!doctype html>')")
	choose("data.bin")
	waitFor(t, b, has("no preview"))
	choose("z")
	waitFor(t, b, "[...document.querySelectorAll('[role=treeitem]')].some((e) => e.title === 'empty' && e.getAttribute('aria-level') === '2')")
	if eval[bool](t, b, "globalThis.pwned !== undefined || document.querySelector('[data-pwned]') !== null") {
		t.Error("something in the content has run")
	}
	// The metadata names an image that is not one. An image whose name is
	// markup must not have been requested.
	clean(t, b)
	for _, r := range h.requests() {
		if strings.HasSuffix(r.path, "/x") {
			t.Errorf("markup was taken for an image: %s", r.path)
		}
	}

	// If the SVG is opened as a page, its script does not run either.
	b.do(t, chromedp.Navigate(h.http.URL+"/ipfs/"+root+"/a.svg"))
	waitFor(t, b, "document.documentElement.localName === 'svg' && document.readyState === 'complete'")
	if eval[bool](t, b, "document.documentElement.hasAttribute('data-pwned')") {
		t.Error("the script of an SVG has run at the console's origin")
	}
}

func quoted(s string) string {
	p, err := json.Marshal(s)
	if err != nil {
		panic(err) // cannot happen: a string
	}
	return string(p)
}

// attack is a page that tries everything against the console at an origin. It
// writes the result into its title.
const attack = `<!doctype html><title>begun</title><body><script>
const at = 'ORIGIN'
const tried = async (name, f) => { try { return name + ':' + await f() } catch { return name + ':refused' } }
;(async () => {
	const results = [
		await tried('cookie', () => document.cookie || 'refused'),
		await tried('storage', () => localStorage.getItem('carload-console-proof') || 'refused'),
		await tried('session', async () => (await (await fetch(at + '/console/session', {credentials: 'include'})).json()).user ?? 'refused'),
		await tried('list', async () => (await (await fetch(at + '/console/api/', {credentials: 'include', headers: {'X-Carload-Console': 'x'}})).json()).ok === true || 'refused'),
		await tried('delete', async () => (await fetch(at + '/console/api/ROOT', {method: 'DELETE', credentials: 'include'})).ok || 'refused'),
		await tried('worker', async () => { const r = await fetch(at + '/console/assets/app.js', {credentials: 'include'}); return r.ok && r.type !== 'opaque' ? 'read' : 'refused' }),
		await tried('frame', () => new Promise((resolve) => {
			const f = document.createElement('iframe')
			f.onload = () => { try { resolve(f.contentDocument.querySelector('header') ? 'framed' : 'refused') } catch { resolve('refused') } }
			f.src = at + '/'
			document.body.append(f)
		})),
	]
	for (const path of ['/console/api/upload', '/console/session', '/console/verify/ROOT', '/console/code']) {
		const name = 'frame-' + path.replaceAll('/', '-')
		const target = document.createElement('iframe')
		target.name = name
		document.body.append(target)
		const form = document.createElement('form')
		Object.assign(form, {method: 'POST', action: at + path, target: name, enctype: 'text/plain'})
		const field = document.createElement('input')
		field.name = '{"key":"x","x":"'; field.value = '"}'
		form.append(field)
		document.body.append(form)
		const loaded = new Promise((resolve) => { target.onload = resolve; setTimeout(resolve, 3000) })
		form.submit()
		await loaded
	}
	document.title = 'ended ' + results.filter((r) => !r.endsWith(':refused')).join(' ')
})()
</script>`

// Pages of other origins, and uploaded pages, cannot use the session of
// somebody who is signed in.
func TestAttacks(t *testing.T) {
	h := newHome(t)
	kept := h.up(write(t, map[string][]byte{"kept": []byte("kept")}), "kept")
	page := strings.NewReplacer("ORIGIN", h.http.URL, "ROOT", kept).Replace(attack)
	root := h.up(write(t, map[string][]byte{"index.html": []byte(page)}), "evil")
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = w.Write([]byte(page))
	}))
	t.Cleanup(evil.Close)
	port := h.http.URL[strings.LastIndexByte(h.http.URL, ':')+1:]
	b := open(t, t.TempDir(), chromedp.Flag("host-resolver-rules", "MAP evil.example 127.0.0.1"))
	h.signIn(b)
	waitFor(t, b, has("2 uploads")) // all requests of the page are answered, except for the events
	b.do(t, chromedp.Navigate("about:blank"))
	began := h.arrivals() // the page of the console may still wait for events
	sound := func(where string, mustPost bool) {
		t.Helper()
		posts := 0
		for _, r := range h.requests() {
			if r.arrived <= began {
				continue
			}
			if r.method != http.MethodGet && r.method != http.MethodOptions {
				posts++
			}
			if r.method != http.MethodGet && r.status < 400 && r.status != http.StatusNoContent {
				t.Errorf("%s: %+v was accepted", where, r)
			}
			if strings.HasPrefix(r.path, "/console/") && !strings.HasPrefix(r.path, "/console/assets/") && r.status < 400 {
				t.Errorf("%s: %+v was answered", where, r)
			}
		}
		if mustPost && posts == 0 {
			t.Errorf("%s: the attack has sent nothing, so it shows nothing", where)
		}
		if _, err := h.st.Upload(t.Context(), 1, kept); err != nil {
			t.Errorf("%s: the upload is gone: %v", where, err)
		}
	}

	// Another port of this host, to which browsers send the cookie, and another
	// site. Their scripts run, but achieve nothing.
	evilPort := evil.URL[strings.LastIndexByte(evil.URL, ':')+1:]
	for _, origin := range []string{evil.URL, "http://evil.example:" + evilPort, "http://localhost:" + evilPort} {
		began = h.arrivals()
		b.do(t, chromedp.Navigate(origin+"/"))
		waitFor(t, b, "document.title.startsWith('ended')")
		if got := eval[string](t, b, "document.title"); got != "ended" {
			t.Errorf("%s: %s", origin, got)
		}
		sound(origin, true)
	}

	// Content at the console's own origin: its scripts don't run.
	began = h.arrivals()
	b.do(t, chromedp.Navigate(h.http.URL+"/ipfs/"+root+"/index.html"))
	waitFor(t, b, "document.readyState === 'complete' && document.querySelector('script') !== null")
	if got := eval[string](t, b, "document.title"); got != "begun" {
		t.Errorf("the script of a page in /ipfs/ has run: %s", got)
	}
	if origin := eval[string](t, b, "origin"); origin != "null" {
		t.Errorf("a page in /ipfs/ has the origin %s", origin)
	}
	sound("/ipfs/", false)
	// Nor can the content frame the console.
	b.do(t, chromedp.Navigate(h.http.URL+"/"))
	waitFor(t, b, "document.querySelector('header nav') !== null")

	// A foreign name that points at this machine is no use, since the service
	// does not accept it.
	began = h.arrivals()
	b.do(t, chromedp.Navigate("http://evil.example:"+port+"/"))
	if got := eval[string](t, b, "document.body.innerText"); !strings.Contains(got, "does not answer for") {
		t.Errorf("by rebinding: %q", got)
	}
	for _, path := range []string{"/console/session", "/console/assets/app.js", "/"} {
		if status := eval[int](t, b, fmt.Sprintf("fetch(%q, {headers: {Accept: 'text/html', 'X-Carload-Console': 'x'}}).then((r) => r.status)", path)); status != http.StatusMisdirectedRequest {
			t.Errorf("by rebinding, %s: %d", path, status)
		}
	}

	// After all that, the session still works.
	b.do(t, chromedp.Navigate(h.http.URL+"/"))
	waitFor(t, b, has("2 uploads"))
}

// Every control has a name for screen readers and can be reached by keyboard,
// and text has enough contrast.
func TestBasics(t *testing.T) {
	h := newHome(t)
	root := h.up(write(t, map[string][]byte{"a.txt": []byte("hello"), "sub/b.txt": []byte("x")}), "folder")
	b := open(t, t.TempDir())
	h.signIn(b)
	for _, at := range []struct{ hash, title string }{{"#/", "Uploads"}, {"#/add", "Upload"}, {"#/upload/" + root, "folder"}, {"#/service", "Service"}, {"#/keys", "Keys"}} {
		h.page(b, at.hash, at.title)
		for _, look := range []string{"light", "dark"} {
			b.do(t, scheme(look))
			for _, problem := range eval[[]string](t, b, basics) {
				t.Errorf("%s, %s: %s", at.hash, look, problem)
			}
		}
	}
	// From the list to an upload with the keyboard alone.
	h.page(b, "#/", "Uploads")
	waitFor(t, b, has("1 upload"))
	for range 30 {
		b.do(t, chromedp.KeyEvent(kb.Tab))
		if eval[bool](t, b, "document.activeElement.matches('a.upload-row')") {
			break
		}
	}
	b.do(t, chromedp.KeyEvent(kb.Enter))
	waitFor(t, b, "document.querySelector('main h1')?.textContent === 'folder'")
}

const basics = `(() => {
	const problems = []
	const named = (e) => e.getAttribute('aria-label') || e.getAttribute('title') || e.textContent.trim() || e.alt || (e.labels?.length && e.labels[0].textContent.trim()) ||
		(e.querySelector?.('img[alt]') && e.textContent.trim())
	for (const e of document.querySelectorAll('a, button, input, select, [role=treeitem], [role=progressbar], svg[role=img]')) if (e.checkVisibility() && !named(e)) problems.push('no name: ' + e.outerHTML.slice(0, 100))
	const rgb = (text) => { const c = document.createElement('canvas').getContext('2d'); c.fillStyle = text; c.fillRect(0, 0, 1, 1); return c.getImageData(0, 0, 1, 1).data }
	const light = (c) => { const [r, g, b] = [...c].map((v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4 }); return 0.2126 * r + 0.7152 * g + 0.0722 * b }
	const back = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] > 250) return rgb(c) } return [255, 255, 255] }
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
	for (let n; (n = walker.nextNode());) {
		const e = n.parentElement
		if (!n.textContent.trim() || !e.checkVisibility()) continue
		const a = light(rgb(getComputedStyle(e).color)), b = light(back(e))
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)
		if (ratio < 4.5 && !e.closest(':disabled')) problems.push('contrast ' + ratio.toFixed(2) + ': ' + n.textContent.slice(0, 40))
	}
	if (document.documentElement.scrollWidth > innerWidth) problems.push('wider than the window')
	if (document.documentElement.lang !== 'en' || document.querySelectorAll('h1').length !== 1) problems.push('language or title')
	return [...new Set(problems)]
})()`

// Screenshots of the main pages, for people to look at. CARLOAD_SCREENSHOTS
// names the directory for them.
func TestScreenshots(t *testing.T) {
	out := os.Getenv("CARLOAD_SCREENSHOTS")
	if out == "" {
		t.Skip("CARLOAD_SCREENSHOTS names no directory")
	}
	h := newHome(t)
	tree := map[string][]byte{"README.md": []byte("# Photos\n\nOf the sea.\n")}
	for i := range 12 {
		tree[fmt.Sprintf("2026/img-%03d.bin", i)] = random(uint64(i), 100_000*(i+1))
	}
	tree["metadata/1.json"] = []byte(`{"name":"Wave","description":"The sea at seven in the morning.","attributes":[{"trait_type":"Weather","value":"calm"},{"trait_type":"Light","value":"low"}]}`)
	tree["metadata/2.json"] = []byte(`{"name":"Dune"}`)
	for i, name := range []string{"harbour.mov", "archive-2025.tar", "notes.txt", "holiday", "reading list.md", "interview (raw).wav", "paper.pdf"} {
		h.up(write(t, map[string][]byte{"data": random(uint64(100+i), 3_000_000*(i*i*3+1))}), name)
	}
	root := h.up(write(t, tree), "Photos of the sea")
	b := open(t, t.TempDir())
	h.signIn(b)
	shoot := func(name string) {
		t.Helper()
		p, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, name+".png"), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	big := filepath.Join(write(t, map[string][]byte{"movie.mkv": random(50, 900_000_000)}), "movie.mkv")
	for _, look := range []struct {
		name, scheme string
		width        int64
	}{{"light", "light", 1200}, {"dark", "dark", 1200}, {"narrow", "light", 390}} {
		b.do(t, scheme(look.scheme), chromedp.EmulateViewport(look.width, 850))
		h.page(b, "#/", "Uploads")
		waitFor(t, b, "document.querySelectorAll('a.upload-row').length > 7")
		shoot("uploads-" + look.name)
		h.page(b, "#/upload/"+root, "Photos of the sea")
		waitFor(t, b, "document.querySelectorAll('[role=treeitem]').length > 2")
		shoot("upload-" + look.name)
		eval[any](t, b, "[...document.querySelectorAll('[role=treeitem]')].find((e) => e.title === 'metadata').click(); null")
		waitFor(t, b, "[...document.querySelectorAll('[role=treeitem]')].some((e) => e.title === '1.json')")
		eval[any](t, b, "[...document.querySelectorAll('[role=treeitem]')].find((e) => e.title === '1.json').click(); null")
		waitFor(t, b, "document.querySelector('.nft') !== null")
		eval[any](t, b, "document.querySelector('#content-title').scrollIntoView(); scrollBy(0, -70); null")
		shoot("files-" + look.name)
		h.page(b, "#/service", "Service")
		shoot("service-" + look.name)
		h.page(b, "#/keys", "Keys")
		waitFor(t, b, has("this session"))
		shoot("keys-" + look.name)
		h.page(b, "#/add", "Upload")
		waitFor(t, b, "document.querySelector('#files') !== null")
		if look.name == "light" {
			b.do(t, chromedp.SetUploadFiles(chromedp.CSS("#files"), []string{big}))
			waitFor(t, b, "document.querySelectorAll('.transfer .sending').length > 0 && document.querySelectorAll('.transfer .held').length > 2")
			eval[any](t, b, "document.querySelector('.transfer button').click(); null")
			waitFor(t, b, has("Paused"))
			shoot("add-paused")
			eval[any](t, b, "document.querySelector('.transfer button').click(); null")
			waitFor(t, b, "document.querySelectorAll('.transfer .sending').length > 2")
		}
		shoot("add-" + look.name)
	}
	b.do(t, chromedp.Navigate("about:blank"))
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate(h.http.URL+"/"), scheme("light")); err != nil {
		t.Fatal(err)
	}
	b.do(t, chromedp.EmulateViewport(1200, 850))
	eval[any](t, b, "localStorage.clear(); location.reload(); null")
	waitFor(t, b, "document.querySelector('#key') !== null")
	shoot("sign-in")
}
