package browsertest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/dustin/go-humanize"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/console/web"
)

// tabLimit is the most memory that the process of a tab may use.
const tabLimit = 400 << 20

// TestBigFile uploads a file of CARLOAD_BROWSER_BYTES (6GiB) from the disk to
// `carload serve`, and watches the memory of the browser's processes.
func TestBigFile(t *testing.T) {
	size, err := humanize.ParseBytes(os.Getenv("CARLOAD_BROWSER_BYTES"))
	if err != nil {
		t.Skip("CARLOAD_BROWSER_BYTES says how big the file is to be, as in 6GiB")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "big.bin")
	writeRandom(t, path, int64(size))
	carload := filepath.Join(dir, "carload")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-C", filepath.Join("..", "..", ".."), "-o", carload, "./cmd/carload").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	endpoint, token := serve(t, carload, filepath.Join(dir, "store"))
	pages := httptest.NewServer(http.FileServerFS(overlay{os.DirFS("testdata"), web.Files()}))
	t.Cleanup(pages.Close)

	b := openFor(t, filepath.Join(dir, "profile"), time.Hour)
	b.do(t, chromedp.Navigate(pages.URL+"/page.html"))
	waitFor(t, b, "globalThis.ready === true")
	b.do(t, chromedp.SetUploadFiles(chromedp.CSS("#file"), []string{path}))
	mem := watchMemory(t, chromedp.FromContext(b.ctx).Browser.Process().Pid)
	start := time.Now()
	eval[any](t, b, fmt.Sprintf("begin('file', {endpoint: %q, token: %q})", endpoint, token))
	waitFor(t, b, "document.title.startsWith('sending') || document.title.startsWith('failed')")
	hashed := time.Since(start)
	got := eval[ended](t, b, "ended")
	took := time.Since(start)
	peaks := mem()
	if got.Result == nil {
		t.Fatalf("%+v", got)
	}
	src, err := chunker.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := chunker.Build(t.Context(), src, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Result.Root != want.Root().String() {
		t.Errorf("root %s, want %s", got.Result.Root, want.Root())
	}
	mb := func(d time.Duration) float64 { return float64(size) / 1e6 / d.Seconds() }
	t.Logf("%s in %.1f s, %.0f MB/s; hashed in %.1f s, %.0f MB/s; sent in %.1f s, %.0f MB/s; %d shards",
		humanize.IBytes(size), took.Seconds(), mb(took), hashed.Seconds(), mb(hashed), (took - hashed).Seconds(), mb(took-hashed), got.Result.Shards)
	for kind, peak := range peaks {
		t.Logf("%s: at most %s", kind, humanize.IBytes(uint64(peak)))
	}
	if peaks["renderer"] == 0 || peaks["renderer"] > tabLimit {
		t.Errorf("the tab had %s in memory, want at most %s", humanize.IBytes(uint64(peaks["renderer"])), humanize.IBytes(tabLimit))
	}
}

// writeRandom writes a file in which no two blocks are equal.
func writeRandom(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.CopyN(f, rand.Reader, size)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// serve starts the service with a new key.
func serve(t *testing.T, carload, store string) (endpoint, token string) {
	t.Helper()
	key, err := exec.CommandContext(t.Context(), carload, "key", "new", "browser", "--store", store).Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), carload, "serve", "--store", store, "--listen", "127.0.0.1:0")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = cmd.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // its context has ended then
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if i := strings.Index(lines.Text(), "http://127.0.0.1:"); i >= 0 {
			endpoint = strings.Fields(lines.Text()[i:])[0]
			break
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the process
	if endpoint == "" {
		t.Fatal("the service did not start")
	}
	return endpoint, string(bytes.TrimSpace(key))
}

// watchMemory watches the processes below one. The returned function stops it,
// and returns the most memory that a process of each kind used.
func watchMemory(t *testing.T, browser int) func() map[string]int64 {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan map[string]int64)
	go func() {
		peaks := map[string]int64{}
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			for kind, rss := range memoryBelow(browser) {
				peaks[kind] = max(peaks[kind], rss)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				done <- peaks
				return
			}
		}
	}()
	return func() map[string]int64 {
		stop()
		return <-done
	}
}

// memoryBelow returns the largest resident size of each kind of process below a
// browser. It skips processes that it can't read, since they come and go.
func memoryBelow(browser int) map[string]int64 {
	parents := map[int]int{}
	kinds := map[int]string{}
	rss := map[int]int64{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		status, err := os.ReadFile(filepath.Join(dir, "status"))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			fields := strings.Fields(line)
			if len(fields) < 2 {
				continue
			}
			switch fields[0] {
			case "PPid:":
				parents[pid], _ = strconv.Atoi(fields[1])
			case "VmRSS:":
				kb, _ := strconv.ParseInt(fields[1], 10, 64)
				rss[pid] = kb << 10
			}
		}
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		kinds[pid] = "browser"
		// Processes that change their title separate arguments by blanks.
		for arg := range strings.FieldsFuncSeq(string(cmdline), func(r rune) bool { return r == 0 || r == ' ' }) {
			if kind, ok := strings.CutPrefix(arg, "--type="); ok {
				kinds[pid] = kind
			}
			if kind, ok := strings.CutPrefix(arg, "--utility-sub-type="); ok {
				kinds[pid] = kind
			}
		}
	}
	out := map[string]int64{}
	for pid := range rss {
		for p := pid; p > 1; p = parents[p] {
			if p == browser {
				out[kinds[pid]] = max(out[kinds[pid]], rss[pid])
				break
			}
		}
	}
	return out
}
