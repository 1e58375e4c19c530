package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/unpack"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/dirtarget"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

// numbers yields all possible system errors.
func numbers() iter.Seq[syscall.Errno] {
	return func(yield func(syscall.Errno) bool) {
		for n := range syscall.Errno(140) {
			if n > 0 && !yield(n) {
				return
			}
		}
	}
}

// codeOf returns the exit code for an error that ends an upload.
func codeOf(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		t.Error("the fault did not happen")
	}
	a := &app{life: &lifetime{soft: t.Context(), hard: t.Context()}, con: &console{out: io.Discard, err: io.Discard}}
	r := a.newResults(false)
	r.src = &inputs{}
	r.add(uploader.Result{Root: car.CID([32]byte{})}, err) // with a root, because an error of pass 1 may be worse
	if code := exitCode(a.blame(err)); code != r.worst {
		t.Errorf("%v: exit code %d for an input and %d by itself", err, r.worst, code)
	}
	return r.worst
}

// engine uploads without retries.
func engine(t *testing.T, target uploader.Target, opts uploader.Options) *uploader.Uploader {
	t.Helper()
	opts.Retries = -1
	u, err := uploader.New(target, opts)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func send(t *testing.T, u *uploader.Uploader, in uploader.Input) (err error) {
	t.Helper()
	for _, e := range u.Upload(t.Context(), slices.Values([]uploader.Input{in})) {
		err = e
	}
	return err
}

func someFile(t *testing.T) uploader.Input {
	t.Helper()
	path := filepath.Join(t.TempDir(), "movie")
	if err := os.WriteFile(path, []byte("some bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := uploader.File(path, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// failing is an [http.RoundTripper] that returns one error for all requests.
type failing struct{ err *error }

func (f failing) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Body != nil {
		_, _ = io.Copy(io.Discard, req.Body)
		_ = req.Body.Close()
	}
	return nil, *f.err
}

func serviceAt(t *testing.T, url string, transport http.RoundTripper) *nftstorage.Target {
	t.Helper()
	token, err := nftstorage.NewToken("test-token")
	if err != nil {
		t.Fatal(err)
	}
	target, err := nftstorage.New(nftstorage.Options{Endpoint: url, AllowHTTP: true, Token: token, Transport: transport, Stall: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	return target
}

// asked returns the error of each kind of request to a service, including
// uploads.
func asked(t *testing.T, target *nftstorage.Target, u *uploader.Uploader) map[string]error {
	t.Helper()
	ctx, c := t.Context(), car.CID([32]byte{1})
	_, status := target.Status(ctx, c)
	_, block := target.FetchBlock(ctx, c, 100)
	body, archive := target.FetchArchive(ctx, c)
	if archive == nil {
		_, archive = io.Copy(io.Discard, body)
		_ = body.Close()
	}
	errs := map[string]error{
		"upload": send(t, u, brokenInput{}),
		"status": status, "block": block, "archive": archive, "delete": target.Delete(ctx, c),
	}
	for _, err := range target.List(ctx) {
		errs["list"] = err
	}
	for _, err := range target.Pins(ctx) {
		errs["pins"] = err
	}
	return errs
}

// A network error means "try again", whatever system error it contains and
// whichever request it hit.
func TestNetworkErrorsExitCode(t *testing.T) {
	t.Parallel()
	var err error
	target := serviceAt(t, "http://127.0.0.1:1", failing{&err})
	u := engine(t, target, uploader.Options{})
	for n := range numbers() {
		err = []error{
			&net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", n)},
			&net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", n)},
			fmt.Errorf("write: %w", n),
		}[n%3]
		for request, err := range asked(t, target, u) {
			if code := codeOf(t, err); code != exitTemporary {
				t.Errorf("%s: exit code %d: %v", request, code, err)
			}
		}
	}
}

// Real failures between carload and a service.
func TestWayExitCode(t *testing.T) {
	t.Parallel()
	answer := func(f func(w http.ResponseWriter, r *http.Request)) func(t *testing.T) *nftstorage.Target {
		return func(t *testing.T) *nftstorage.Target {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				f(w, r)
			}))
			t.Cleanup(srv.Close)
			return serviceAt(t, srv.URL, nil)
		}
	}
	raw := func(text string) func(t *testing.T) *nftstorage.Target {
		return answer(func(w http.ResponseWriter, _ *http.Request) {
			c, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = rw.WriteString(text)
			_ = rw.Flush()
			_ = c.Close()
		})
	}
	status := func(code int) func(t *testing.T) *nftstorage.Target {
		return answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
	}
	for name, tt := range map[string]struct {
		target func(t *testing.T) *nftstorage.Target
		code   int
		except string // requests that have another code for a reason
	}{
		"name": {func(t *testing.T) *nftstorage.Target {
			tr := nftstorage.NewTransport()
			d := &net.Dialer{Resolver: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
				return nil, errors.New("no resolver")
			}}}
			tr.Proxy, tr.DialContext = nil, d.DialContext
			return serviceAt(t, "http://api.example.org", tr)
		}, 5, ""},
		"dial refused": {func(t *testing.T) *nftstorage.Target { return serviceAt(t, "http://127.0.0.1:1", nil) }, 5, ""},
		"dial timeout": {func(t *testing.T) *nftstorage.Target {
			tr := nftstorage.NewTransport()
			tr.DialContext = (&net.Dialer{Deadline: time.Unix(1, 0)}).DialContext
			return serviceAt(t, "http://127.0.0.1:1", tr)
		}, 5, ""},
		"TLS unknown authority": {func(t *testing.T) *nftstorage.Target {
			srv := httptest.NewUnstartedServer(http.NotFoundHandler())
			srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
			srv.StartTLS()
			t.Cleanup(srv.Close)
			return serviceAt(t, srv.URL, nil)
		}, 5, ""},
		"TLS alert": {func(t *testing.T) *nftstorage.Target {
			srv := httptest.NewUnstartedServer(http.NotFoundHandler())
			srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
			srv.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12}
			srv.StartTLS()
			t.Cleanup(srv.Close)
			return serviceAt(t, srv.URL, nil)
		}, 5, ""},
		"TLS to plain": {func(t *testing.T) *nftstorage.Target {
			srv := httptest.NewServer(http.NotFoundHandler())
			t.Cleanup(srv.Close)
			return serviceAt(t, strings.Replace(srv.URL, "http:", "https:", 1), nil)
		}, 5, ""},
		"proxy refuses": {func(t *testing.T) *nftstorage.Target {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }))
			t.Cleanup(srv.Close)
			tr := nftstorage.NewTransport()
			tr.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(srv.URL) }
			return serviceAt(t, "https://api.example.org", tr)
		}, 5, ""},
		"proxy asks for a password": {status(http.StatusProxyAuthRequired), 5, ""},
		"closed":                    {raw(""), 5, ""},
		"not HTTP":                  {raw("SSH-2.0-OpenSSH_9.9\r\n"), 5, ""},
		"cut":                       {raw("HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{\"ok\":tr"), 5, ""},
		"chunk cut":                 {raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\nffff\r\n{\"ok\":tr"), 5, ""},
		"header without end":        {raw("HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("x", 2<<20)), 5, ""},
		"redirect without end": {answer(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}), 5, ""},
		"redirect elsewhere": {answer(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusTemporaryRedirect)
		}), 5, ""},
		"stall": {answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), 5, ""},
		// Blocks and archives may contain any bytes; the caller finds out that
		// they are wrong.
		"web page": {answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<html>log in")
		}), 5, "block archive delete"},
		"not JSON": {answer(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "oops") }), 5, "block archive"},
		"endless": {answer(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.CopyN(w, zeros{}, 5<<20)
		}), 5, "block archive"},
		"parts of nonsense": {answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"ok":true,"value":{"cid":"x","parts":["x"]}}`)
		}), 5, "block archive delete list pins upload"},

		"500": {status(500), 5, ""}, "502": {status(502), 5, ""}, "503": {status(503), 5, ""}, "504": {status(504), 5, ""},
		"429": {status(429), 5, ""}, "408": {status(408), 5, ""}, "425": {status(425), 5, ""},
		"507": {status(507), 28, ""}, "401": {status(401), 7, ""}, "403": {status(403), 7, ""}, "413": {status(413), 8, ""},
		// A refusal by the service itself is not a network failure.
		"400": {status(400), 1, ""}, "405": {status(405), 1, ""}, "501": {status(501), 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			target := tt.target(t)
			for request, err := range asked(t, target, engine(t, target, uploader.Options{})) {
				if slices.Contains(strings.Fields(tt.except), request) {
					continue
				}
				if code := codeOf(t, err); code != tt.code {
					t.Errorf("%s: exit code %d, want %d: %v", request, code, tt.code, err)
				}
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// An error of this machine never means "network; try again", whatever its
// number and whichever layer it hit.
func TestLocalErrorsExitCode(t *testing.T) {
	t.Parallel()
	store := uploadertest.NewServer(t, uploadertest.Options{})
	var err error // what fails now
	good := serviceAt(t, store.URL, nil)
	ledger := func(op string, level uploader.VerifyLevel) *uploader.Uploader {
		return engine(t, good, uploader.Options{Ledger: &brokenLedger{err: &err, op: op}, Verify: level})
	}
	u, spool, movie := engine(t, good, uploader.Options{}), t.TempDir(), someFile(t)
	receipts, record, finish := ledger("receipts", uploader.VerifyPinned), ledger("record", uploader.VerifySample), ledger("finish", uploader.VerifyPinned)
	broken, rate := engine(t, brokenTarget{&err}, uploader.Options{}), engine(t, paced(t, store.URL, &err), uploader.Options{})
	for n := range numbers() {
		want := func(code int) int {
			if n == syscall.ENOSPC || n == syscall.EDQUOT || n == syscall.EFBIG {
				return exitNoSpace
			}
			return code
		}
		forms := []error{
			&fs.PathError{Op: "open", Path: "x", Err: n}, &os.LinkError{Op: "link", Old: "x", New: "y", Err: n}, os.NewSyscallError("fsync", n), n,
		}
		for _, err := range forms {
			if code := codeOf(t, fmt.Errorf("configuration: %w", err)); code != want(exitOther) {
				t.Errorf("exit code %d: %v", code, err)
			}
		}
		err = forms[n%4] // each layer with all numbers, and all forms in turn
		for layer, tt := range map[string]struct {
			err  error
			code int
		}{
			"source, pass 1":      {send(t, u, brokenInput{describe: err}), exitSources},
			"source, pass 2":      {send(t, u, brokenInput{read: err}), exitSources},
			"source, stream":      {send(t, u, uploader.Stream("-", iotest.ErrReader(err), uploader.StreamOptions{Dir: spool})), exitSources},
			"path of an input":    {sourceError{err}, exitSources},
			"ledger, read":        {send(t, receipts, movie), exitOther},
			"ledger, write":       {send(t, record, movie), exitOther},
			"ledger, end":         {send(t, finish, movie), exitOther},
			"output":              {lacking(fmt.Errorf("%q: %w", "movie", err)), exitOther},
			"a target's own":      {send(t, broken, movie), exitOther},
			"request rate":        {send(t, rate, movie), exitOther},
			"standard output":     {fmt.Errorf("write results: %w", err), exitOther},
			"block of an archive": {lacking(&unpack.BlockError{Path: "x", Err: err}), exitOther},
		} {
			if code := codeOf(t, tt.err); code != want(tt.code) {
				t.Errorf("%s: exit code %d, want %d: %v", layer, code, want(tt.code), tt.err)
			}
		}
	}
	if n := store.Count(uploadertest.Upload).Requests; n == 0 {
		t.Error("nothing was ever sent")
	}
}

// paced is a target whose rate limiter fails.
func paced(t *testing.T, url string, err *error) *nftstorage.Target {
	token, _ := nftstorage.NewToken("test-token")
	target, e := nftstorage.New(nftstorage.Options{Endpoint: url, Token: token, Pacer: brokenPacer{err}})
	if e != nil {
		t.Fatal(e)
	}
	t.Cleanup(func() { _ = target.Close() })
	return target
}

type brokenPacer struct{ err *error }

func (p brokenPacer) Wait(context.Context) error {
	return fmt.Errorf("share the request rate: %w", *p.err)
}

// brokenInput fails when it is described, or when it is read again.
type brokenInput struct{ describe, read error }

func (brokenInput) Name() string       { return "movie" }
func (brokenInput) UploadName() string { return "movie" }
func (brokenInput) Close() error       { return nil }

func (b brokenInput) Describe(ctx context.Context, _ *atomic.Int64) (uploader.DAG, error) {
	if b.describe != nil {
		return nil, b.describe
	}
	opened := 0
	return chunker.Build(ctx, brokenSource{b.read, &opened}, chunker.Options{})
}

// brokenSource can be opened only once.
type brokenSource struct {
	err    error
	opened *int
}

func (brokenSource) Name() string { return "movie" }
func (brokenSource) Size() int64  { return 10 }

func (b brokenSource) Open() (car.SourceFile, error) {
	if *b.opened++; *b.opened > 1 && b.err != nil {
		return nil, b.err
	}
	return readerFile{strings.NewReader("some bytes")}, nil
}

type readerFile struct{ *strings.Reader }

func (readerFile) Close() error { return nil }

// brokenTarget fails with a bare error.
type brokenTarget struct{ err *error }

func (brokenTarget) String() string { return "broken" }

func (b brokenTarget) Put(context.Context, *uploader.Shard) (uploader.Receipt, error) {
	return uploader.Receipt{}, *b.err
}

// brokenLedger fails in one operation.
type brokenLedger struct {
	uploader.MemoryLedger
	err *error
	op  string
}

func (l *brokenLedger) fail(op string) error {
	if l.op == op {
		return *l.err
	}
	return nil
}

func (l *brokenLedger) Receipts(context.Context, uploader.UploadKey) (map[int]cid.Cid, error) {
	return map[int]cid.Cid{}, l.fail("receipts")
}

func (l *brokenLedger) Record(context.Context, uploader.UploadKey, int, cid.Cid) error {
	return l.fail("record")
}

func (l *brokenLedger) Finish(context.Context, uploader.UploadKey, map[int]cid.Cid, uploader.Finished) error {
	return l.fail("finish")
}

// Real errors of the os package.
func TestFileOperationsExitCode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	long := at(strings.Repeat("n", 300))
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := errors.Join(os.WriteFile(at("file"), nil, 0o600), os.Mkdir(at("dir"), 0o700), os.WriteFile(at("dir/in"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	closed, err := os.Open(at("file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	second := func(_ any, err error) error { return err }
	for name, err := range map[string]error{
		"open": second(os.Open(at("nothing"))), "open a directory": second(os.OpenFile(at("dir"), os.O_WRONLY, 0)),
		"open long": second(os.Open(long)), "create": second(os.Create(at("file/x"))), "temp": second(os.CreateTemp(at("nothing"), "x")),
		"mkdir": os.Mkdir(at("dir"), 0o700), "mkdir all": os.MkdirAll(at("file/x/y"), 0o700), "mkdir temp": second(os.MkdirTemp(at("file"), "x")),
		"link": os.Link(at("nothing"), at("x")), "link there": os.Link(at("file"), at("dir")), "link long": os.Link(at("file"), long),
		"symlink": os.Symlink("x", at("file")), "symlink long": os.Symlink(strings.Repeat("x", 5000), at("s")),
		"rename": os.Rename(at("nothing"), at("x")), "rename onto": os.Rename(at("file"), at("dir")), "rename long": os.Rename(at("file"), long),
		"remove": os.Remove(at("dir")), "remove nothing": os.Remove(at("nothing")), "remove all": os.RemoveAll(string([]byte{'a', 0})),
		"stat": second(os.Stat(at("nothing"))), "lstat": second(os.Lstat(long)), "readlink": second(os.Readlink(at("file"))), "readdir": second(os.ReadDir(at("file"))),
		"chmod": os.Chmod(at("nothing"), 0), "chown": os.Chown(at("nothing"), 0, 0), "lchown": os.Lchown(at("nothing"), 0, 0), "chtimes": os.Chtimes(at("nothing"), time.Now(), time.Now()),
		"truncate": os.Truncate(at("dir"), 1), "chdir": os.Chdir(at("file")), "read file": second(os.ReadFile(at("dir"))), "write file": os.WriteFile(at("dir"), nil, 0o600),
		"read": second(closed.Read(make([]byte, 1))), "write": second(closed.Write([]byte{1})), "sync": closed.Sync(), "seek": second(closed.Seek(0, 0)), "close": closed.Close(), "fstat": second(closed.Stat()),
		"root open": second(root.Open("../x")), "root create": second(root.Create("dir")), "root mkdir": root.Mkdir("file", 0o700), "root link": root.Link("file", "dir"),
		"root symlink": root.Symlink("x", "file"), "root rename": root.Rename("nothing", "x"), "root remove": root.Remove("dir"), "root stat": second(root.Lstat("nothing")),
		"root readlink": second(root.Readlink("file")), "root chmod": root.Chmod("nothing", 0), "root chtimes": root.Chtimes("nothing", time.Now(), time.Now()), "root of a file": second(os.OpenRoot(at("file"))),
		"target": second(dirtarget.New(at("file/shards"), dirtarget.Options{})), "listen": second(net.Listen("unix", at("file"))),
	} {
		if code := codeOf(t, err); code != exitOther {
			t.Errorf("%s: exit code %d: %v", name, code, err)
		}
		if code := codeOf(t, sourceError{err}); code != exitSources {
			t.Errorf("%s of a source: exit code %d: %v", name, code, err)
		}
		if again, _ := uploader.Retryable(err); again && name != "listen" {
			t.Errorf("%s is tried again: %v", name, err)
		}
	}
}

// The store of the built-in service fails behind an HTTP server, but still on
// this machine.
func TestOwnStoreExitCode(t *testing.T) {
	t.Parallel()
	for _, status := range []int{500, 502, 503} {
		err := fmt.Errorf("%w: %w", uploader.ErrUnavailable, &nftstorage.APIError{Status: status})
		a := &app{life: &lifetime{soft: t.Context()}}
		if code := exitCode(a.blame(err)); code != exitTemporary {
			t.Errorf("status %d of a service elsewhere: exit code %d", status, code)
		}
		a.embedded = true
		if code := exitCode(a.blame(err)); code != exitOther {
			t.Errorf("status %d of the built-in service: exit code %d", status, code)
		}
	}
	a := &app{life: &lifetime{soft: t.Context()}, embedded: true}
	if code := exitCode(a.blame(&nftstorage.APIError{Status: 507})); code != exitNoSpace {
		t.Errorf("a full store: exit code %d", code)
	}
}
