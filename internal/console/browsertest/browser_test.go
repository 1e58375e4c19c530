// Package browsertest runs the console in a real browser. It is a separate
// module, so that carload does not depend on the packages that control
// browsers.
package browsertest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// browser is a headless Chromium. Its profile keeps what pages store, and
// outlives it.
type browser struct {
	ctx   context.Context // the browser's, for chromedp
	close func()
}

// executable finds a Chromium. In CI there must be one.
func executable(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatal("Chromium is needed: apt-get install chromium")
	}
	t.Skip("there is no Chromium")
	return ""
}

// open starts a browser with its profile in this directory, with further
// options.
func open(t testing.TB, profile string, more ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	return openFor(t, profile, 2*time.Minute, more...)
}

// openFor is open with another time limit.
func openFor(t testing.TB, profile string, limit time.Duration, more ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	alloc, closeAlloc := chromedp.NewExecAllocator(t.Context(), append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(executable(t)),
		chromedp.Headless,
		chromedp.NoSandbox,
		chromedp.UserDataDir(profile),
		chromedp.WindowSize(1200, 900),
	}, more...)...)
	ctx, cancel := chromedp.NewContext(alloc, chromedp.WithErrorf(t.Logf))
	ctx, stop := context.WithTimeout(ctx, limit)
	b := &browser{ctx: ctx}
	b.close = func() {
		stop()
		cancel()
		closeAlloc()
	}
	t.Cleanup(func() { b.close() })
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	return b
}

// kill ends the browser like a crash: it saves nothing.
func (b *browser) kill(t testing.TB) {
	t.Helper()
	if err := chromedp.FromContext(b.ctx).Browser.Process().Kill(); err != nil {
		t.Fatal(err)
	}
	b.close()
}

// do runs steps in the browser's page.
func (b *browser) do(t testing.TB, steps ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		t.Fatal(err)
	}
}

// eval evaluates an expression in the page. It waits for a promise.
func eval[T any](t testing.TB, b *browser, expression string) T {
	t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return v
}

// write writes files below a directory and returns it.
func write(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if data == nil {
			continue
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
