package nftstorage_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waits makes n requests concurrently and returns when they began.
func waits(t *testing.T, n int, pacers ...nftstorage.Pacer) []time.Time {
	t.Helper()
	var mu sync.Mutex
	var at []time.Time
	var g errgroup.Group
	for i := range n {
		g.Go(func() error {
			err := pacers[i%len(pacers)].Wait(t.Context())
			mu.Lock()
			defer mu.Unlock()
			at = append(at, time.Now())
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(at, time.Time.Compare)
	return at
}

// wantExact checks that there are never more than n within a window, and no
// time is lost.
func wantExact(t *testing.T, at []time.Time, n int, length time.Duration) {
	t.Helper()
	for i := n; i < len(at); i++ {
		if d := at[i].Sub(at[i-n]); d != length {
			t.Errorf("requests %d and %d are %s apart, want %s", i-n, i, d, length)
		}
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w, err := nftstorage.NewWindow(nftstorage.HostedRequests, nftstorage.HostedWindow)
		if err != nil {
			t.Fatal(err)
		}
		wantExact(t, waits(t, 100, w), 30, 10*time.Second)
		// After a pause there is room for one window, not more.
		<-time.After(time.Hour)
		at := waits(t, 61, w)
		wantExact(t, at, 30, 10*time.Second)
		if d := at[29].Sub(at[0]); d != 0 {
			t.Errorf("the first 30 took %s", d)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		if err := w.Wait(ctx); err == nil || err.Error() != "enough" {
			t.Errorf("error %v", err)
		}
	})
}

// Hosts that share a token stay within its rate limit together while they come
// and go, if a new one waits for a window.
func TestVaryingWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var hosts atomic.Int64
		hosts.Store(1)
		host := func() *nftstorage.Window {
			w, err := nftstorage.NewWindow(30, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			w.Vary(func() (int, time.Duration, error) { return 30 / int(hosts.Load()), 10 * time.Second, nil })
			return w
		}
		var mu sync.Mutex
		var at []time.Time
		work := func(ctx context.Context, w *nftstorage.Window) {
			for w.Wait(ctx) == nil {
				mu.Lock()
				at = append(at, time.Now())
				mu.Unlock()
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		brief, leave := context.WithCancel(ctx)
		var g errgroup.Group
		g.Go(func() error { work(ctx, host()); return nil })
		<-time.After(33 * time.Second)
		hosts.Store(3)
		<-time.After(10 * time.Second)
		for range 2 {
			g.Go(func() error { work(brief, host()); return nil })
		}
		<-time.After(95 * time.Second)
		leave()
		<-time.After(10 * time.Second)
		hosts.Store(1)
		<-time.After(40 * time.Second)
		cancel()
		_ = g.Wait()
		most := 0
		for i := range at {
			if i >= 30 && at[i].Sub(at[i-30]) < 10*time.Second {
				t.Fatalf("31 requests in %s", at[i].Sub(at[i-30]))
			}
			most = max(most, i)
		}
		if most < 350 { // 19 windows, a few of them with only a third
			t.Errorf("%d requests in three minutes", most)
		}
		hosts.Store(31)
		none := host()
		short, end := context.WithTimeout(t.Context(), time.Minute)
		defer end()
		if err := none.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a share of nothing: %v", err)
		}
	})
}

func TestSharedWindow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	token, _ := nftstorage.NewToken("eyJhbGciOi.secret.token")
	other, _ := nftstorage.NewToken("another")
	synctest.Test(t, func(t *testing.T) {
		window := func(token nftstorage.Token) *nftstorage.Window {
			w, err := nftstorage.NewSharedWindow(dir, token, 30, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			return w
		}
		at := waits(t, 95, window(token), window(token), window(token))
		wantExact(t, at, 30, 10*time.Second)
		if at := waits(t, 30, window(other)); at[29].Sub(at[0]) != 0 {
			t.Error("another token waits as well")
		}
	})
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 2 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil || strings.Contains(f.Name()+string(data), "secret") {
			t.Errorf("%q tells the token, %v", f.Name(), err)
		}
		// A broken file, or one from a clock that was a year ahead, does no
		// harm.
		for i := range data[16:] {
			data[16+i] = 0x7f
		}
		for _, data := range [][]byte{data, data[:9], nil, []byte(strings.Repeat("\xff", 1000))} {
			if err := os.WriteFile(filepath.Join(dir, f.Name()), data, 0o600); err != nil {
				t.Fatal(err)
			}
			w, err := nftstorage.NewSharedWindow(dir, token, 30, 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if err := w.Wait(ctx); err != nil {
				t.Error(err)
			}
			cancel()
		}
	}
}

// TestClockSetBack: the clock is set back a day, or forward, between two
// requests. Nobody waits for the old time, and the rate is exact again.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	token, err := nftstorage.NewToken(secret)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	shared := func() (*nftstorage.Window, error) { return nftstorage.NewSharedWindow(dir, token, 30, 10*time.Second) }
	alone := func() (*nftstorage.Window, error) { return nftstorage.NewWindow(30, 10*time.Second) }
	for _, make := range []func() (*nftstorage.Window, error){shared, alone} {
		w, err := make()
		if err != nil {
			t.Fatal(err)
		}
		// Each bubble begins at the same time. The second one waits a day
		// before its request.
		for _, later := range []time.Duration{0, 24 * time.Hour, 0} {
			synctest.Test(t, func(t *testing.T) {
				<-time.After(later)
				start := time.Now()
				at := waits(t, 95, w)
				wantExact(t, at, 30, 10*time.Second)
				if d := at[29].Sub(start); d != 0 {
					t.Errorf("%s later: the first 30 took %s", later, d)
				}
			})
		}
	}
}

func TestWindowOptions(t *testing.T) {
	t.Parallel()
	for _, n := range []int{-1, 0, 1 << 20} {
		if _, err := nftstorage.NewWindow(n, time.Second); err == nil {
			t.Errorf("%d requests: no error", n)
		}
	}
	if _, err := nftstorage.NewWindow(1, 0); err == nil {
		t.Error("no window: no error")
	}
}

const secret = "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl"

func TestTokenIsNotShown(t *testing.T) {
	t.Parallel()
	token, err := nftstorage.NewToken(secret)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", token, "opts", nftstorage.Options{Token: token})
	out, err := json.Marshal(nftstorage.Options{Token: token, Endpoint: "x", UserAgent: "y"}.Token)
	if err != nil {
		t.Fatal(err)
	}
	opts := nftstorage.Options{Token: token}
	for _, s := range []string{
		log.String(), string(out), fmt.Sprint(token), fmt.Sprintf("%v %+v %#v %s %q", token, token, token, token, token),
		fmt.Sprintf("%v %+v", opts, &opts),
	} {
		if strings.Contains(s, "c2VjcmV0") {
			t.Errorf("%s", s)
		}
	}
	if token.Reveal() != secret {
		t.Error("the token is lost")
	}
	for _, bad := range []string{"two words", "line\nbreak", `"quoted"`, "'quoted'", "tab\t", "ümlaut", strings.Repeat("x", 10_000)} {
		if _, err := nftstorage.NewToken(bad); err == nil || strings.Contains(err.Error(), bad) {
			t.Errorf("%.20q: error %v", bad, err)
		}
	}
}

// TestEchoedToken uses services that send the token back in their replies.
func TestEchoedToken(t *testing.T) {
	t.Parallel()
	token, _ := nftstorage.NewToken(secret)
	root := cid.MustParse("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
	replies := map[string]func(w http.ResponseWriter, got string){
		"message": func(w http.ResponseWriter, got string) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, `{"ok":false,"error":{"code":"ERROR %s","message":"%s is blocked: %s"}}`, got, strings.Repeat("x", 480), got)
		},
		"reset": func(http.ResponseWriter, string) { panic(http.ErrAbortHandler) },
		"header": func(w http.ResponseWriter, got string) {
			w.Header().Set("Location", "http://"+got+".example.org/")
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
		"part": func(w http.ResponseWriter, got string) {
			fmt.Fprintf(w, `{"ok":true,"value":{"cid":"%s","parts":["%s"]}}`, root, got)
		},
		"type": func(w http.ResponseWriter, got string) { fmt.Fprintf(w, `{"ok":%q}`, got) },
	}
	for name, reply := range replies {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { reply(w, r.Header.Get("Authorization")[7:]) }))
			defer srv.Close()
			target, err := nftstorage.New(nftstorage.Options{Endpoint: srv.URL, Token: token})
			if err != nil {
				t.Fatal(err)
			}
			defer target.Close()
			_, err = target.Status(t.Context(), root)
			if err == nil || strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "c2VjcmV0") {
				t.Errorf("error %v", err)
			}
			var api *nftstorage.APIError
			if name == "message" && (!errors.As(err, &api) || !errors.Is(err, uploader.ErrUnauthorized) || strings.Contains(api.Code+api.Message, "c2Vj")) {
				t.Errorf("error %#v", err)
			}
		})
	}
}

func TestTokenStaysAtItsOrigin(t *testing.T) {
	t.Parallel()
	token, _ := nftstorage.NewToken(secret)
	root := cid.MustParse("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the token went to another origin")
		}
		http.NotFound(w, r)
	}))
	defer elsewhere.Close()
	api := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusPermanentRedirect))
	defer api.Close()
	target, err := nftstorage.New(nftstorage.Options{Endpoint: api.URL, Gateway: elsewhere.URL, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if _, err := target.Status(t.Context(), root); err == nil || !strings.Contains(err.Error(), "another origin") {
		t.Errorf("error %v", err)
	}
	if _, err := target.FetchBlock(t.Context(), root, 100); !errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("error %v", err)
	}
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	for endpoint, ok := range map[string]bool{
		"https://api.example.org": true, "https://api.example.org/": true, "https://api.example.org/base/path": true,
		"http://127.0.0.1:3000": true, "http://localhost": true, "http://[::1]:80": true,
		"": false, "api.example.org": false, "ftp://api.example.org": false, "http://api.example.org": false, "https://": false,
		"https://user@api.example.org": false, "https://user:pass@api.example.org": false, "https://api.example.org/?x=1": false,
		"https://api.example.org/#x": false, "http://localhost.example.org": false, "://": false,
	} {
		_, err := nftstorage.New(nftstorage.Options{Endpoint: endpoint})
		if (err == nil) != ok {
			t.Errorf("%q: error %v", endpoint, err)
		}
		if err != nil && strings.Contains(err.Error(), "pass@") {
			t.Errorf("%q: error %v", endpoint, err)
		}
	}
	if _, err := nftstorage.New(nftstorage.Options{Endpoint: "http://api.example.org", AllowHTTP: true}); err != nil {
		t.Error(err)
	}
}

// TestListOfOneMoment: more uploads or pins have the same time than fit on a
// page. A list that cannot be complete must not seem complete.
func TestListOfOneMoment(t *testing.T) {
	t.Parallel()
	const total = 1100
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit, err := strconv.Atoi(r.FormValue("limit"))
		if err != nil {
			t.Error(err)
		}
		const created = "2026-01-02T03:04:05.006Z"
		var uploads, pins []any
		for i := range min(limit, total) {
			c := cid.NewCidV1(cid.Raw, sum(t, fmt.Sprint(i))).String()
			uploads = append(uploads, map[string]any{"cid": c, "created": created, "pin": map[string]any{"cid": c, "status": "pinned"}})
			pins = append(pins, map[string]any{"requestid": c, "status": "pinned", "created": created, "pin": map[string]any{"cid": c}})
		}
		var answer any = map[string]any{"ok": true, "value": uploads}
		if r.URL.Path == "/pins" {
			answer = map[string]any{"count": total, "results": pins}
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Error(err)
		}
	}))
	defer srv.Close()
	token, err := nftstorage.NewToken("token")
	if err != nil {
		t.Fatal(err)
	}
	target, err := nftstorage.New(nftstorage.Options{Endpoint: srv.URL, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	listed, last := 0, error(nil)
	for _, last = range target.List(t.Context()) {
		listed++
	}
	if listed != 1001 || last == nil || !strings.Contains(last.Error(), "can't list all uploads") {
		t.Errorf("%d uploads, %v", listed, last)
	}
	listed, last = 0, nil
	for _, last = range target.Pins(t.Context()) {
		listed++
	}
	if listed != 1001 || last == nil || !strings.Contains(last.Error(), "can't list all pins") {
		t.Errorf("%d pins, %v", listed, last)
	}
}

// TestPages lists more than fits on a page, in the largest pages possible, and
// in smaller ones where uploads have many parts.
func TestPages(t *testing.T) {
	t.Parallel()
	const total = 2500
	for _, test := range []struct {
		name     string
		parts    int
		most     int  // entries that the service returns at a time
		count    bool // it reports how many there are
		requests int
	}{
		{"few parts", 1, 1000, true, 3},
		{"no count", 1, 1000, false, 3},
		{"many parts", 100, 1000, true, 13},
		{"short pages", 1, 500, true, 6},
		{"small pages", 1, -100, true, 43},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			part := cid.NewCidV1(0x0202, sum(t, "part")).String()
			first := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
			requests := 0
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests++
				limit, err := strconv.Atoi(r.FormValue("limit"))
				if err != nil {
					t.Error(err)
				}
				w.Header().Set("Content-Type", "application/json")
				if test.most < 0 && limit > -test.most {
					w.WriteHeader(http.StatusBadRequest)
					_, _ = w.Write([]byte(`{"ok":false,"error":{"code":"HTTP_ERROR","message":"invalid params"}}`))
					return
				}
				from := 0
				if before := r.FormValue("before"); before != "" {
					at, err := time.Parse(time.RFC3339Nano, before)
					if err != nil {
						t.Error(err)
					}
					from = int(first.Sub(at) / time.Microsecond) // including that one
				}
				most := test.most
				if most < 0 {
					most = -most
				}
				var uploads []any
				for i := from; i < min(from+limit, from+most, total); i++ {
					c := cid.NewCidV1(cid.Raw, sum(t, fmt.Sprint(i))).String()
					created := first.Add(-time.Duration(i) * time.Microsecond).Format("2006-01-02T15:04:05.000000+00:00")
					uploads = append(uploads, map[string]any{"cid": c, "created": created, "pin": map[string]any{"cid": c, "status": "pinned"}, "parts": slices.Repeat([]string{part}, test.parts)})
				}
				if test.count {
					w.Header().Set("Count", strconv.Itoa(total-from))
				}
				// The client hangs up on replies that are too long.
				_ = json.NewEncoder(w).Encode(map[string]any{"ok": true, "value": uploads})
			}))
			defer srv.Close()
			token, err := nftstorage.NewToken("token")
			if err != nil {
				t.Fatal(err)
			}
			target, err := nftstorage.New(nftstorage.Options{Endpoint: srv.URL, Token: token})
			if err != nil {
				t.Fatal(err)
			}
			defer target.Close()
			seen := map[cid.Cid]bool{}
			for h, err := range target.List(t.Context()) {
				if err != nil || seen[h.Root] || h.State != uploader.StatePinned || len(h.Parts) != test.parts {
					t.Fatalf("after %d: %+v, %v", len(seen), h, err)
				}
				seen[h.Root] = true
			}
			if len(seen) != total || requests > test.requests {
				t.Errorf("%d uploads in %d requests", len(seen), requests)
			}
		})
	}
}

func sum(t *testing.T, s string) multihash.Multihash {
	t.Helper()
	mh, err := multihash.Sum([]byte(s), multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	return mh
}
