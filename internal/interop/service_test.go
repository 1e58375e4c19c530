package interop_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
)

// server is the service over real HTTP.
type server struct {
	*httptest.Server
	store *store.Store
	token string
}

func newServer(t *testing.T) *server {
	t.Helper()
	st, err := store.Open(t.Context(), store.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	svc, err := service.New(t.Context(), st, service.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, token, err := st.CreateKey(t.Context(), store.KeyOptions{Name: "interop"})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{httptest.NewServer(svc.Handler()), st, token}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		s.Server.Close()
		if err := errors.Join(svc.Close(), st.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// call sends an authorized request and decodes the value of the reply.
func (s *server) call(t *testing.T, method, path, contentType string, body io.Reader, value any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var reply struct {
		OK    bool
		Value json.RawMessage
	}
	if err := json.Unmarshal(text, &reply); err != nil || !reply.OK {
		t.Fatalf("%s %s: %s\n%s", method, path, resp.Status, text)
	}
	if err := json.Unmarshal(reply.Value, value); err != nil {
		t.Fatal(err)
	}
}

// upload is an upload as the API describes it.
type upload struct {
	CID   string
	Size  int64
	Parts []string
	Pin   struct{ CID, Status string }
}

// TestClient uses the service through the NFT.Storage client from npm.
func TestClient(t *testing.T) {
	p := newPool(t, 6<<20+99)
	s := newServer(t)

	blob := p.file("blob", 11, 700_001)
	blobDAG := build(t, blob, "nft.storage")
	blobBytes := int64(0)
	for b := range blobDAG.Blocks() {
		blobBytes += int64(b.Size())
	}

	archived := p.file("archived", 5, 5<<20+17)
	archivedDAG := build(t, archived, "nft.storage")
	archive := filepath.Join(t.TempDir(), "archived.car")
	writeArchive(t, archive, car.NewArchive(archivedDAG.Root(), archivedDAG))

	tree := []file{
		p.file("readme.txt", 100, 1234),
		p.file("images/0.png", 2000, 300_000),
		p.file("images/1.png", 400_000, 262_144),
		p.file("größe/日本語 — 🦊.json", 900_000, 77),
	}
	image, attachment := p.file("fox.png", 50, 400_000), p.file("notes.txt", 60, 99)

	type call map[string]any
	calls := []call{
		{"method": "storeBlob", "file": blob},
		{"method": "storeCar", "car": archive, "maxChunkSize": 1 << 20},
		{"method": "storeDirectory", "tree": tree},
		{"method": "store", "name": "fox", "description": "a fox", "image": image, "attachment": attachment},
		{"method": "status", "cid": blobDAG.Root().String()},
		{"method": "status", "cid": archivedDAG.Root().String()},
		{"method": "check", "cid": archivedDAG.Root().String()},
		{"method": "delete", "cid": blobDAG.Root().String()},
		{"method": "status", "cid": blobDAG.Root().String()},
		{"method": "delete", "cid": blobDAG.Root().String()},
		{"method": "check", "cid": "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"},
		{"method": "status", "cid": "nonsense"},
	}
	var results []struct {
		Value json.RawMessage
		Error string
	}
	node(t, &results, map[string]any{"endpoint": s.URL, "token": s.token, "pool": p.path, "calls": calls}, "client.mjs")
	if len(results) != len(calls) {
		t.Fatalf("%d results of %d calls", len(results), len(calls))
	}
	value := func(i int, v any) {
		t.Helper()
		if results[i].Error != "" {
			t.Fatalf("%s: %s", calls[i]["method"], results[i].Error)
		}
		if err := json.Unmarshal(results[i].Value, v); err != nil {
			t.Fatalf("%s returned %s: %v", calls[i]["method"], results[i].Value, err)
		}
	}

	t.Run("storeBlob", func(t *testing.T) {
		var root string
		value(0, &root)
		if root != blobDAG.Root().String() {
			t.Errorf("stored %s, it is %s", root, blobDAG.Root())
		}
		var u upload
		value(4, &u)
		if u.CID != root || u.Pin.Status != "pinned" || u.Pin.CID != root || u.Size != blobBytes {
			t.Errorf("status is %+v, expected pinned and %d bytes", u, blobBytes)
		}
	})
	t.Run("storeCar", func(t *testing.T) {
		var stored struct {
			CID    string
			Chunks []int64
		}
		value(1, &stored)
		if stored.CID != archivedDAG.Root().String() {
			t.Errorf("stored %s, it is %s", stored.CID, archivedDAG.Root())
		}
		if len(stored.Chunks) < 5 {
			t.Errorf("sent %d shards of %d bytes, expected at least 5", len(stored.Chunks), archived.Length)
		}
		for _, i := range []int{5, 6} {
			var u upload
			value(i, &u)
			if u.CID != stored.CID || u.Pin.Status != "pinned" {
				t.Errorf("%s says %+v, expected pinned", calls[i]["method"], u)
			}
		}
		var u upload
		s.call(t, http.MethodGet, "/"+stored.CID, "", nil, &u)
		if len(u.Parts) != len(stored.Chunks) {
			t.Errorf("%d parts of %d shards", len(u.Parts), len(stored.Chunks))
		}
		if !bytes.Equal(get(t, s.URL+"/ipfs/"+stored.CID), archived.content(t)) {
			t.Error("the gateway gives other bytes")
		}
	})
	t.Run("storeDirectory", func(t *testing.T) {
		var root string
		value(2, &root)
		for _, f := range tree {
			if !bytes.Equal(get(t, s.URL+"/ipfs/"+root+"/"+f.Path), f.content(t)) {
				t.Errorf("the gateway gives other bytes of %s", f.Path)
			}
		}
	})
	t.Run("store", func(t *testing.T) {
		var token struct{ IPNFT, URL string }
		value(3, &token)
		var metadata struct {
			Name, Image string
			Properties  struct{ Attachment string }
		}
		if err := json.Unmarshal(get(t, s.URL+"/ipfs/"+token.IPNFT+"/metadata.json"), &metadata); err != nil {
			t.Fatal(err)
		}
		if token.URL != "ipfs://"+token.IPNFT+"/metadata.json" || metadata.Name != "fox" {
			t.Errorf("token is %+v, metadata %+v", token, metadata)
		}
		for url, f := range map[string]file{metadata.Image: image, metadata.Properties.Attachment: attachment} {
			const scheme = "ipfs://"
			if len(url) < len(scheme) || !bytes.Equal(get(t, s.URL+"/ipfs/"+url[len(scheme):]), f.content(t)) {
				t.Errorf("the gateway gives other bytes of %s, %s", f.Path, url)
			}
		}
	})
	t.Run("delete", func(t *testing.T) {
		if results[7].Error != "" {
			t.Errorf("delete: %s", results[7].Error)
		}
		for _, i := range []int{8, 9, 10} {
			if results[i].Error != "NFT not found" {
				t.Errorf("%s of what is not there: error %q, value %s", calls[i]["method"], results[i].Error, results[i].Value)
			}
		}
		if want := "Invalid CID: nonsense"; results[11].Error != want {
			t.Errorf("status of nonsense: %q, expected %q", results[11].Error, want)
		}
	})
	t.Run("bad token", func(t *testing.T) {
		var results []struct{ Error string }
		node(t, &results, map[string]any{
			"endpoint": s.URL, "token": s.token + "x", "pool": p.path,
			"calls": []call{{"method": "storeBlob", "file": blob}, {"method": "status", "cid": archivedDAG.Root().String()}},
		}, "client.mjs")
		for _, r := range results {
			if want := "API Key is malformed or failed to parse."; r.Error != want {
				t.Errorf("error is %q, expected %q", r.Error, want)
			}
		}
	})
}

// TestTreewalkShards splits one of our archives with carbites and uploads the
// shards in several orders. Each upload becomes complete with its last shard
// and not before.
func TestTreewalkShards(t *testing.T) {
	p := newPool(t, 50<<20+1)
	for i, c := range []struct {
		size   int64
		target int
	}{
		{3 << 20, 500_000},
		{47 << 20, 4_000_000}, // two levels of inner nodes
	} {
		f := p.file("file", int64(i), c.size)
		d := build(t, f, "nft.storage")
		dir := t.TempDir()
		archive := filepath.Join(dir, "whole.car")
		writeArchive(t, archive, car.NewArchive(d.Root(), d))
		var names []string
		node(t, &names, nil, "cars.mjs", "split", archive, fmt.Sprint(c.target), dir)
		if len(names) < 6 {
			t.Fatalf("carbites made %d shards", len(names))
		}
		reversed := slices.Clone(names)
		slices.Reverse(reversed)
		inward := slices.Concat(names[len(names)/2:], names[:len(names)/2])
		for order, names := range map[string][]string{"in order": names, "reversed": reversed, "second half first": inward} {
			t.Run(fmt.Sprint(c.size>>20, " MiB ", order), func(t *testing.T) {
				s := newServer(t)
				for i, name := range names {
					shard, err := os.ReadFile(filepath.Join(dir, name))
					if err != nil {
						t.Fatal(err)
					}
					var u upload
					s.call(t, http.MethodPost, "/upload", "application/car", bytes.NewReader(shard), &u)
					if u.CID != d.Root().String() || len(u.Parts) != i+1 {
						t.Fatalf("shard %s: root %s, %d parts", name, u.CID, len(u.Parts))
					}
					s.call(t, http.MethodGet, "/check/"+u.CID, "", nil, &u)
					if complete := i == len(names)-1; (u.Pin.Status == "pinned") != complete {
						t.Fatalf("after %d of %d shards it is %s", i+1, len(names), u.Pin.Status)
					}
				}
				if !bytes.Equal(get(t, s.URL+"/ipfs/"+d.Root().String()), f.content(t)) {
					t.Error("the gateway gives other bytes")
				}
			})
		}
	}
}

// keyOf makes a key for another user.
func (s *server) keyOf(ctx context.Context, t *testing.T, user string) string {
	t.Helper()
	_, token, err := s.store.CreateKey(ctx, store.KeyOptions{Name: "interop", User: user})
	if err != nil {
		t.Fatal(err)
	}
	return token
}
