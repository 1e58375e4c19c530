package service_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/internal/store"
)

// wanted is a tree during TestCollectWhileServing. A request without a reply
// may have been carried out or not.
type wanted struct {
	*tree
	whole   bool // all of it was acknowledged
	pinned  bool // another user was told that the pin is complete
	deleted bool // or may be
	unsure  bool // whether it is pinned
}

// must reports whether the tree must be in the store.
func (w *wanted) must() bool { return w.pinned || w.whole && !w.deleted }

// ask sends a request with a small body or none. It reports whether the request
// succeeded.
func ask(ctx context.Context, method, url, token, body string) (string, bool) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return err.Error(), false
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error(), false
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	return string(raw), err == nil && res.StatusCode < 300
}

// live uploads a tree, lets another user pin it, and deletes it. It may leave
// out any of these steps.
func (w *wanted) live(ctx context.Context, base, token, other string) {
	for i, shard := range w.shards {
		part, err := send(ctx, base, token, shard)
		if err != nil {
			return
		}
		w.acked[i] = part
	}
	w.whole = true
	if rand.IntN(2) == 0 {
		w.unsure = true
		raw, ok := ask(ctx, "POST", base+"/pins", other, fmt.Sprintf(`{"cid":%q}`, w.root.CID))
		if ok {
			w.unsure, w.pinned = false, strings.Contains(raw, `"pinned"`)
		}
	}
	if rand.IntN(3) > 0 {
		w.deleted = true
		ask(ctx, "DELETE", base+"/"+w.root.CID.String(), token, "")
	}
}

// A service collects all the time while it is used and killed at random
// moments. It must lose nothing that it acknowledged, and must free the space
// of everything else.
func TestCollectWhileServing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	rounds := 4
	if n, err := strconv.Atoi(os.Getenv("CARLOAD_TEST_CRASH_ROUNDS")); err == nil {
		rounds = n
	}
	dir := t.TempDir()
	setup := newServer(t, options{Dir: dir})
	_, other, err := setup.st.CreateKey(t.Context(), store.KeyOptions{Name: "other", User: "other"})
	if err != nil {
		t.Fatal(err)
	}
	setup.close()
	var all []*wanted
	var kept, gone int
	for round := range rounds {
		cmd, base := startChild(t, dir, crashCollect+"=1")
		ctx, cancel := context.WithCancel(t.Context())
		var g errgroup.Group
		enough := make(chan struct{})
		var ended atomic.Int64
		limit := 1 + rand.Int64N(10)
		for i := range 10 {
			w := &wanted{tree: newTree(10_000 + round*100 + i)}
			all = append(all, w)
			g.Go(func() error {
				w.live(ctx, base, setup.token, other)
				w.shards = nil // not needed any more
				if ended.Add(1) == limit {
					close(enough)
				}
				return nil
			})
		}
		select {
		case <-enough:
		case <-time.After(60 * time.Second):
			t.Error("the service is very slow")
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		cancel()
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		checkWanted(t, dir, setup.token, all)
		for _, w := range all {
			if w.must() {
				kept++
			} else if w.deleted && !w.unsure {
				gone++
			}
		}
		if len(all) > 30 { // keep the disk from filling up
			for _, token := range []string{setup.token, other} {
				forget(t, dir, token, all[:10])
			}
			all = all[10:]
		}
	}
	http.DefaultClient.CloseIdleConnections()
	t.Logf("%d rounds, %d times a tree kept, %d times deleted", rounds, kept, gone)
	if kept == 0 || gone == 0 {
		t.Error("nothing was kept or deleted")
	}
	s := newServer(t, options{Dir: dir})
	for _, token := range []string{setup.token, other} {
		who, err := s.st.Authenticate(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		uploads, _, err := s.st.Uploads(t.Context(), store.Filter{UserID: who.UserID, Limit: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range uploads {
			if err := s.st.Forget(t.Context(), who.UserID, u.SourceCID); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := s.st.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "shards", "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("%d shards are left when nobody has any, %v", len(left), err)
	}
}

// forget deletes trees. They may have been deleted before.
func forget(t *testing.T, dir, token string, trees []*wanted) {
	t.Helper()
	s := newServer(t, options{Dir: dir})
	defer s.close()
	who, err := s.st.Authenticate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range trees {
		if err := s.st.Forget(t.Context(), who.UserID, w.root.CID.String()); err != nil && !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
	}
}

// checkWanted checks that everything that must be there is, and that no other
// shards are left.
func checkWanted(t *testing.T, dir, token string, all []*wanted) {
	t.Helper()
	s := newServer(t, options{Dir: dir})
	defer s.close()
	s.token = token
	if _, err := s.st.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f := fsck(t, s); len(f.Problems) > 0 || f.Orphans > 0 {
		t.Fatalf("%+v", f)
	}
	for _, w := range all {
		if w.must() {
			for _, leaves := range w.leaves {
				for _, leaf := range leaves {
					if data, err := s.st.Block(t.Context(), leaf.CID); err != nil || !bytes.Equal(data, leaf.Data) {
						t.Fatalf("a leaf of %+v: %v", *w, err)
					}
				}
			}
			if done, err := s.st.Complete(t.Context(), w.root.CID); err != nil || !done {
				t.Fatalf("%s is not complete, %v", w.root.CID, err)
			}
			continue
		}
		if _, err := s.st.Content(t.Context(), w.root.CID); err == nil {
			continue // a request without a reply may have been carried out
		}
		for i := range w.leaves {
			for _, leaf := range w.leaves[i] {
				if _, err := s.st.Block(t.Context(), leaf.CID); err == nil {
					t.Fatalf("nobody has %s, and it is there", w.root.CID)
				}
			}
		}
	}
}
