package kubo_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"go.uber.org/goleak"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/kubo"
	"github.com/carload/carload/uploader/targettest"
	"github.com/carload/carload/uploader/uploadertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// file makes a file of random bytes.
func file(tb testing.TB, n int) (path string, data []byte) {
	tb.Helper()
	data = make([]byte, n)
	_, _ = rand.Read(data)
	path = filepath.Join(tb.TempDir(), "film.bin")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path, data
}

func open(tb testing.TB, opts kubo.Options) *kubo.Target {
	tb.Helper()
	target, err := kubo.New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = target.Close() })
	return target
}

// upload uploads a file in shards of 1.5 MB.
func upload(ctx context.Context, tb testing.TB, target uploader.Target, path string, opts uploader.Options) (uploader.Result, error) {
	tb.Helper()
	opts.MaxShardBytes = 1_500_000
	u, err := uploader.New(target, opts)
	if err != nil {
		tb.Fatal(err)
	}
	in, err := uploader.File(path, chunker.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	for r, err := range u.Upload(ctx, slices.Values([]uploader.Input{in})) {
		return r, err
	}
	tb.Fatal("no result")
	return uploader.Result{}, nil
}

// TestTarget runs the tests that every target must pass.
func TestTarget(t *testing.T) {
	t.Parallel()
	node := targettest.StartKubo(t, "API.Authorizations", `{"a": {"AuthSecret": "bearer:s3cret", "AllowedPaths": ["/api/v0"]}}`)
	client := func(secret string) func(testing.TB, string) uploader.Target {
		return func(tb testing.TB, url string) uploader.Target {
			return open(tb, kubo.Options{Address: url, Auth: secret})
		}
	}
	targettest.Run(t, targettest.Subject{
		URL: node.URL, Open: client("s3cret"), Stranger: client("another"),
		Kind: kind,
		Read: func(tb testing.TB, root cid.Cid) []byte {
			return node.Run(tb, nil, "--api-auth", "s3cret", "cat", root.String())
		},
	})
}

// TestUpload sends a file to a real node, and reads it back with the node's own
// command.
func TestUpload(t *testing.T) {
	t.Parallel()
	node := targettest.StartKubo(t)
	path, data := file(t, 5_000_000)
	target := open(t, kubo.Options{Address: node.URL, Files: "/from/carload/"})
	r, err := upload(t.Context(), t, target, path, uploader.Options{Verify: uploader.VerifyFull})
	if err != nil {
		t.Fatal(err)
	}
	if got := node.Run(t, nil, "cat", r.Root.String()); !bytes.Equal(got, data) {
		t.Errorf("ipfs cat gives %d other bytes", len(got))
	}
	if got := string(node.Run(t, nil, "pin", "ls", "--names", "--type=recursive", r.Root.String())); !strings.Contains(got, "film.bin") {
		t.Errorf("the pin is %q", got)
	}
	if got := strings.TrimSpace(string(node.Run(t, nil, "files", "stat", "--hash", "/from/carload/film.bin"))); got != r.Root.String() {
		t.Errorf("its files have %s", got)
	}
	// Again, without a ledger: the pin says that everything is there.
	r, err = upload(t.Context(), t, target, path, uploader.Options{})
	if err != nil || r.Sent != 0 || r.Held != r.Shards {
		t.Errorf("again: %+v, %v", r, err)
	}
}

// TestCollectorBetween runs the node's garbage collector between the shards and
// the pin. The blocks are sent again.
func TestCollectorBetween(t *testing.T) {
	t.Parallel()
	node := targettest.StartKubo(t)
	path, data := file(t, 5_000_000)
	target := &collected{Target: open(t, kubo.Options{Address: node.URL}), gc: func() { node.Run(t, nil, "repo", "gc", "--quiet") }}
	r, err := upload(t.Context(), t, target, path, uploader.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if target.finishes < 2 || r.Sent <= int64(len(data)) {
		t.Errorf("the collector did nothing: %d commits, %d bytes sent", target.finishes, r.Sent)
	}
	if got := node.Run(t, nil, "cat", r.Root.String()); !bytes.Equal(got, data) {
		t.Errorf("ipfs cat gives %d other bytes", len(got))
	}
}

// collected runs the garbage collector before the first commit.
type collected struct {
	*kubo.Target
	gc       func()
	finishes int
}

func (c *collected) Finish(ctx context.Context, d uploader.Upload) error {
	if c.finishes++; c.finishes == 1 {
		c.gc()
	}
	return c.Target.Finish(ctx, d)
}

// TestPinOfWhatIsIncomplete commits too soon. The commit must end.
func TestPinOfWhatIsIncomplete(t *testing.T) {
	t.Parallel()
	node := targettest.StartKubo(t)
	path, _ := file(t, 5_000_000)
	target := &early{Target: open(t, kubo.Options{Address: node.URL, Stall: 2 * time.Second})}
	if _, err := upload(t.Context(), t, target, path, uploader.Options{Transfers: 1}); err != nil {
		t.Fatal(err)
	}
	var missing *uploader.MissingError
	if !errors.As(target.err, &missing) || !errors.Is(target.err, uploader.ErrIncomplete) {
		t.Errorf("the commit says %v", target.err)
	}
	if target.status.State != uploader.StatePinning {
		t.Errorf("the state is %q", target.status.State)
	}
}

// early commits after the first shard.
type early struct {
	*kubo.Target
	err    error
	status uploader.Status
}

func (e *early) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	r, err := e.Target.Put(ctx, s)
	if err == nil && e.err == nil {
		e.err = e.Finish(ctx, uploader.Upload{Root: s.Root, Blocks: 6, BlockBytes: 5_000_000})
		if e.status, err = e.Status(ctx, s.Root); err != nil {
			return r, err
		}
	}
	return r, err
}

// kind classifies requests of the RPC.
func kind(r *http.Request) uploadertest.Op {
	switch r.URL.Path {
	case "/api/v0/dag/import":
		return uploadertest.Upload
	case "/api/v0/pin/add":
		return uploadertest.Commit
	}
	return uploadertest.Other
}

// TestRestart kills the node in the middle of a shard, and before the pin. What
// it had accepted is there when it is restarted, or is sent again.
func TestRestart(t *testing.T) {
	t.Parallel()
	node := targettest.StartKubo(t)
	front := uploadertest.NewServer(t, uploadertest.Options{Handler: uploadertest.Forward(t, node.URL), Kind: kind})
	restart := func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.CopyN(io.Discard, r.Body, 300_000)
		node.Kill(t)
		node.Start(t)
		uploadertest.Reset(w)
	}
	front.Script(uploadertest.Upload, uploadertest.Pass, uploadertest.Pass, restart)
	front.Script(uploadertest.Commit, restart)
	path, data := file(t, 5_000_000)
	r, err := upload(t.Context(), t, open(t, kubo.Options{Address: front.URL}), path, uploader.Options{Transfers: 1})
	if err != nil {
		t.Fatal(err)
	}
	if got := node.Run(t, nil, "cat", r.Root.String()); !bytes.Equal(got, data) {
		t.Errorf("ipfs cat gives %d other bytes", len(got))
	}
}

// TestPinStandsStill removes blocks after the node has walked the DAG, when the
// pin is requested. Kubo would wait for them forever.
func TestPinStandsStill(t *testing.T) {
	t.Parallel()
	node := targettest.StartKubo(t)
	front := uploadertest.NewServer(t, uploadertest.Options{Handler: uploadertest.Forward(t, node.URL), Kind: kind})
	front.Script(uploadertest.Commit, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		node.Run(t, nil, "repo", "gc", "--quiet")
		next.ServeHTTP(w, r)
	})
	path, data := file(t, 5_000_000)
	r, err := upload(t.Context(), t, open(t, kubo.Options{Address: front.URL, Stall: 2 * time.Second}), path, uploader.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if got := node.Run(t, nil, "cat", r.Root.String()); !bytes.Equal(got, data) || r.Sent <= int64(len(data)) {
		t.Errorf("ipfs cat gives %d other bytes, %d were sent", len(got), r.Sent)
	}
}

// TestAuthorization uses a node that requires authorization.
func TestAuthorization(t *testing.T) {
	t.Parallel()
	node := targettest.StartKubo(t, "API.Authorizations", `{
		"a": {"AuthSecret": "bearer:s3cret", "AllowedPaths": ["/api/v0"]},
		"b": {"AuthSecret": "basic:bob:pa:ss", "AllowedPaths": ["/api/v0"]}}`)
	path, _ := file(t, 2_000_000)
	for _, auth := range []string{"bearer:s3cret", "s3cret", "basic:bob:pa:ss"} {
		if r, err := upload(t.Context(), t, open(t, kubo.Options{Address: node.URL, Auth: auth}), path, uploader.Options{}); err != nil {
			t.Errorf("%s: %v, %+v", auth, err, r)
		}
	}
	for _, auth := range []string{"", "bearer:wrong-one", "basic:bob:wrong-one"} {
		_, err := upload(t.Context(), t, open(t, kubo.Options{Address: node.URL, Auth: auth}), path, uploader.Options{})
		if !errors.Is(err, uploader.ErrUnauthorized) || strings.Contains(err.Error(), "wrong-one") {
			t.Errorf("%q: %v", auth, err)
		}
	}
}

// TestAddresses tries all forms in which Kubo writes its address.
func TestAddresses(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"http://127.0.0.1:5001":           "kubo:http://127.0.0.1:5001",
		"http://127.0.0.1:5001/api/v0/":   "kubo:http://127.0.0.1:5001",
		"https://example.org/node":        "kubo:https://example.org/node",
		"/ip4/127.0.0.1/tcp/5001":         "kubo:http://127.0.0.1:5001",
		"/ip6/::1/tcp/5001":               "kubo:http://[::1]:5001",
		"/dns4/example.org/tcp/443/https": "kubo:https://example.org:443",
		"/dns/example.org/tcp/80/http":    "kubo:http://example.org:80",
		"/unix/run/ipfs.sock":             "kubo:unix:///run/ipfs.sock",
		"unix:///run/ipfs.sock":           "kubo:unix:///run/ipfs.sock",
	} {
		if got := open(t, kubo.Options{Address: in}).String(); got != want {
			t.Errorf("%s is %s, want %s", in, got, want)
		}
	}
	for _, in := range []string{"", "127.0.0.1:5001", "/ip4/::1/tcp/5001", "/ip4/1.2.3.4/udp/5001/quic", "/ip4/1.2.3.4", "/unix/", "ftp://a", "http://user:pw@a", "http://a?b", "/ip4/1.2.3.4/tcp/5001/p2p/Qm"} {
		if target, err := kubo.New(kubo.Options{Address: in}); err == nil {
			t.Errorf("%q is %s", in, target)
		}
	}
	if _, err := kubo.New(kubo.Options{Address: "http://192.0.2.1:5001", Auth: "secret"}); err == nil || strings.Contains(err.Error(), "secret\"") {
		t.Errorf("a secret over plain HTTP: %v", err)
	}
}

// TestUnixSocket reaches a node over its socket.
func TestUnixSocket(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "kubo") //nolint:usetesting // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	node := targettest.StartKubo(t, "Addresses.API", `["/unix`+socket+`"]`)
	path, data := file(t, 3_000_000)
	r, err := upload(t.Context(), t, open(t, kubo.Options{Address: "/unix" + socket}), path, uploader.Options{Verify: uploader.VerifySample})
	if err != nil {
		t.Fatal(err)
	}
	if got := node.Run(t, nil, "cat", r.Root.String()); !bytes.Equal(got, data) {
		t.Errorf("ipfs cat gives %d other bytes", len(got))
	}
}
