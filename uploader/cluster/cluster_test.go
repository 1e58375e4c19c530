package cluster_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-car/v2"
	dagpb "github.com/ipld/go-codec-dagpb"
	"go.uber.org/goleak"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/cluster"
	"github.com/carload/carload/uploader/uploadertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake does what the code of IPFS Cluster 1.1.6 does with an archive and a pin,
// as far as a client can see.
type fake struct {
	t *testing.T

	mu     sync.Mutex
	blocks map[cid.Cid][]byte
	pins   map[string]*pin
	adds   []string // queries of /add
}

type pin struct {
	name, query string
	asked       int // number of status requests
	recovered   bool
	broken      bool // its peer fails until it is told to recover
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if user, password, _ := r.BasicAuth(); user != "bob" || password != "s3cret" {
		refuse(w, http.StatusUnauthorized, "Unauthorized")
		return
	}
	root, isPin := strings.CutPrefix(r.URL.Path, "/pins/")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/add":
		f.add(w, r)
	case !isPin:
		http.NotFound(w, r)
	case r.Method == http.MethodPost && strings.HasSuffix(root, "/recover"):
		f.pins[strings.TrimSuffix(root, "/recover")].recovered = true
		writeJSON(w, map[string]any{})
	case r.Method == http.MethodPost:
		f.pins[root] = &pin{name: r.URL.Query().Get("name"), query: r.URL.RawQuery, broken: strings.Contains(r.URL.Query().Get("name"), "broken")}
		writeJSON(w, map[string]any{"cid": root})
	case r.Method == http.MethodDelete && f.pins[root] != nil:
		delete(f.pins, root)
		writeJSON(w, map[string]any{"cid": root})
	case r.Method == http.MethodDelete:
		refuse(w, http.StatusNotFound, "not found")
	default:
		f.status(w, root)
	}
}

func writeJSON(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func refuse(w http.ResponseWriter, status int, message string) {
	w.WriteHeader(status)
	writeJSON(w, map[string]any{"code": status, "message": message})
}

func (f *fake) add(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("format") != "car" || q.Get("stream-channels") != "false" {
		refuse(w, http.StatusBadRequest, "the fake knows nothing else")
		return
	}
	f.adds = append(f.adds, r.URL.RawQuery)
	form, err := r.MultipartReader()
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	part, err := form.NextPart()
	if err != nil {
		refuse(w, http.StatusInternalServerError, err.Error())
		return
	}
	in, err := car.NewBlockReader(part)
	if err != nil || len(in.Roots) != 1 {
		refuse(w, http.StatusInternalServerError, fmt.Sprintf("only CAR files with a single root are supported: %v", err))
		return
	}
	total := 0
	for {
		b, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			refuse(w, http.StatusInternalServerError, err.Error())
			return
		}
		total += len(b.RawData())
		f.blocks[b.Cid()] = b.RawData()
	}
	writeJSON(w, []any{map[string]any{"name": "", "cid": in.Roots[0].String(), "bytes": total, "size": total, "allocations": []string{"peer1"}}})
}

// status reports pinning at first, and later pinned if all blocks are there.
func (f *fake) status(w http.ResponseWriter, root string) {
	p, word := f.pins[root], "unpinned"
	if p != nil {
		p.asked++
		switch {
		case p.broken && !p.recovered:
			word = "pin_error"
		case p.asked < 3 || !f.complete(cid.MustParse(root)):
			word = "pinning"
		default:
			word = "pinned"
		}
	}
	writeJSON(w, map[string]any{
		"cid": root, "name": "", "allocations": []string{"peer1"},
		"peer_map": map[string]any{"peer1": map[string]any{"peername": "one", "status": word, "error": ""}, "peer2": map[string]any{"status": "remote"}},
	})
}

func (f *fake) complete(c cid.Cid) bool {
	data, ok := f.blocks[c]
	if !ok || c.Prefix().Codec == cid.Raw {
		return ok
	}
	nb := dagpb.Type.PBNode.NewBuilder()
	if err := dagpb.DecodeBytes(nb, data); err != nil {
		f.t.Error(err)
		return false
	}
	node, ok := nb.Build().(dagpb.PBNode)
	if !ok {
		return false
	}
	for links := node.Links.Iterator(); !links.Done(); {
		_, l := links.Next()
		if child, err := cid.Decode(l.Hash.Link().String()); err != nil || !f.complete(child) {
			return false
		}
	}
	return true
}

func kind(r *http.Request) uploadertest.Op {
	switch {
	case r.URL.Path == "/add":
		return uploadertest.Upload
	case r.Method == http.MethodPost:
		return uploadertest.Commit
	}
	return uploadertest.Check
}

// hasty is a clock that does not wait.
type hasty struct{}

func (hasty) Now() time.Time { return time.Now() }

func (hasty) Sleep(ctx context.Context, _ time.Duration) error { return context.Cause(ctx) }

func upload(t *testing.T, opts cluster.Options, name string) (uploader.Result, error) {
	t.Helper()
	target, err := cluster.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	data := make([]byte, 5_000_000)
	_, _ = rand.Read(data)
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	// One shard may meet all the faults of a test.
	u, err := uploader.New(target, uploader.Options{MaxShardBytes: 1_500_000, Retries: 3, Clock: hasty{}})
	if err != nil {
		t.Fatal(err)
	}
	in, err := uploader.File(path, chunker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var result uploader.Result
	for r, uerr := range u.Upload(t.Context(), slices.Values([]uploader.Input{in})) {
		result, err = r, uerr
	}
	return result, err
}

func newFake(t *testing.T) (*fake, *uploadertest.Server, cluster.Options) {
	t.Helper()
	f := &fake{t: t, blocks: map[cid.Cid][]byte{}, pins: map[string]*pin{}}
	srv := uploadertest.NewServer(t, uploadertest.Options{Handler: f, Kind: kind})
	return f, srv, cluster.Options{Endpoint: srv.URL, Auth: "bob:s3cret"}
}

// TestUpload: shards are added without pins, and then the root is pinned.
func TestUpload(t *testing.T) {
	t.Parallel()
	f, _, opts := newFake(t)
	r, err := upload(t, opts, "film")
	if err != nil || r.Level != uploader.VerifyPinned {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, q := range f.adds {
		if !strings.Contains(q, "no-pin=true") || !strings.Contains(q, "local=true") {
			t.Errorf("added with %s", q)
		}
	}
	if p := f.pins[r.Root.String()]; len(f.adds) != r.Shards || p == nil || p.name != "film" || !strings.Contains(p.query, "mode=recursive") || p.asked < 3 {
		t.Errorf("%d adds, pin %+v", len(f.adds), p)
	}
	opts.Allocations = []string{"peer1", "peer3"}
	if r, err = upload(t, opts, "other"); err != nil {
		t.Fatal(err)
	}
	if q := f.adds[len(f.adds)-1]; !strings.Contains(q, "user-allocations=peer1%2Cpeer3") || strings.Contains(q, "local=true") || !strings.Contains(f.pins[r.Root.String()].query, "user-allocations=peer1%2Cpeer3") {
		t.Errorf("added with %s, pinned with %s", q, f.pins[r.Root.String()].query)
	}
	target, err := cluster.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := target.Delete(t.Context(), r.Root); err != nil {
		t.Error(err)
	}
	if err := target.Delete(t.Context(), r.Root); !errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("deleted again: %v", err)
	}
	if _, err := target.Status(t.Context(), r.Root); !errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("status: %v", err)
	}
}

// TestFaults: requests that fail are retried, and the next upload tells a
// failed peer to recover.
func TestFaults(t *testing.T) {
	t.Parallel()
	f, srv, opts := newFake(t)
	srv.Script(uploadertest.Upload, uploadertest.Status(503), uploadertest.Flip(200_000), uploadertest.LoseReply)
	srv.Script(uploadertest.Commit, uploadertest.LoseReply)
	if r, err := upload(t, opts, "film"); err != nil {
		t.Errorf("%+v, %v", r, err)
	}
	r, err := upload(t, opts, "broken")
	if !errors.Is(err, uploader.ErrIncomplete) {
		t.Errorf("a peer that fails: %v", err)
	}
	target, err := cluster.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := target.Finish(t.Context(), uploader.Upload{Root: r.Root}); err != nil || !f.pins[r.Root.String()].recovered {
		t.Errorf("recover: %v", err)
	}
	opts.Auth = "bob:wrong-one"
	if _, err := upload(t, opts, "film"); !errors.Is(err, uploader.ErrUnauthorized) || strings.Contains(err.Error(), "wrong-one") {
		t.Errorf("a wrong secret: %v", err)
	}
	for _, reply := range []string{"", "[]", `[{"cid":"x","bytes":1}]`, `{"a":1}`, "<html>", `[{"cid":{"/":"bafkqaaa"},"bytes":5000}]`} {
		opts.Auth = "bob:s3cret"
		srv.Always(uploadertest.Upload, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.Copy(w, bytes.NewReader([]byte(reply)))
		})
		target, err := cluster.New(opts)
		if err != nil {
			t.Fatal(err)
		}
		u, err := uploader.New(target, uploader.Options{Retries: -1})
		if err != nil {
			t.Fatal(err)
		}
		in := uploader.Stream("x", bytes.NewReader(make([]byte, 5000)), uploader.StreamOptions{Dir: t.TempDir()})
		for _, err := range u.Upload(t.Context(), slices.Values([]uploader.Input{in})) {
			if err == nil {
				t.Errorf("%q is taken for a receipt", reply)
			}
		}
		_ = target.Close()
	}
}
