package store_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
)

// user is another user of the store, with a quota.
func (s *shelf) user(name string, quota int64) *shelf {
	s.t.Helper()
	_, token, err := s.CreateKey(s.t.Context(), store.KeyOptions{Name: name, User: name, QuotaBytes: quota})
	if err != nil {
		s.t.Fatal(err)
	}
	who, err := s.Authenticate(s.t.Context(), token)
	if err != nil {
		s.t.Fatal(err)
	}
	return &shelf{s.Store, s.t, who}
}

func (s *shelf) pin(root cid.Cid, meta string) error {
	up := &store.NewUpload{Caller: s.who, Kind: store.KindPin}
	if meta != "" {
		up.Meta = &meta
	}
	return s.Pin(s.t.Context(), root, up, "", "")
}

// fetch does what the service does for a pin.
func (s *shelf) fetch(body []byte) error {
	in, err := s.Receive(s.t.Context(), bytes.NewReader(body), int64(len(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	return errors.Join(s.Accept(s.t.Context(), in, nil), in.Close())
}

func wantQuota(t *testing.T, what string, err error, is bool) {
	t.Helper()
	var quota *store.QuotaError
	if errors.As(err, &quota) != is || err != nil && !is {
		t.Errorf("%s: %v", what, err)
	}
}

// Everything that a key keeps in the store counts, whoever sent it.
func TestQuotaCountsWhatAKeyKeeps(t *testing.T) {
	t.Parallel()
	s := newShelf(t, store.Options{})
	leaf := raw(strings.Repeat("x", 10_000))
	held := leaf.CID
	s.put(carOf(leaf))
	small, large := s.user("small", 9_000), s.user("large", 25_000)
	wantQuota(t, "pin of what others hold", small.pin(held, ""), true)
	wantQuota(t, "pin of what others hold, with room", large.pin(held, ""), false)
	wantQuota(t, "metadata", small.pin(raw("a").CID, strings.Repeat("m", 9_500)), true)
	wantQuota(t, "little metadata", small.pin(raw("a").CID, strings.Repeat("m", 5_000)), false)
	wantQuota(t, "upload beside it", func() error { _, err := small.tryPut(carOf(raw(strings.Repeat("y", 5_000)))); return err }(), true)
	// Fetched pins.
	far := raw(strings.Repeat("z", 10_000))
	wantQuota(t, "pin to be fetched", small.pin(far.CID, ""), false) // its size is not known yet
	wantQuota(t, "fetch", s.fetch(carOf(far)), true)
	if s.has(far) {
		t.Error("fetched although nobody has room for it")
	}
	wantQuota(t, "pin of another", large.pin(far.CID, ""), false)
	wantQuota(t, "fetch for another", s.fetch(carOf(far)), false)
	if parts := large.upload(far.CID).Parts; len(parts) != 1 {
		t.Errorf("%d parts", len(parts))
	}
	if parts := small.upload(far.CID).Parts; len(parts) != 0 {
		t.Errorf("%d parts for one without room", len(parts))
	}
	wantQuota(t, "more than all", func() error { _, err := large.tryPut(carOf(raw(strings.Repeat("w", 6_000)))); return err }(), true)
}

// Deleted data takes space until it is collected. So it is limited, and a key
// that reaches the limit triggers a collection.
func TestUploadAndDeleteInALoop(t *testing.T) {
	t.Parallel()
	s := newShelf(t, store.Options{})
	u := s.user("u", 10_000)
	n := 0
	put := func() error {
		n++
		root, err := u.tryPut(carOf(raw(strings.Repeat("x", 4_000+n))))
		if err == nil {
			u.drop(root)
		}
		return err
	}
	for i := range 4 {
		wantQuota(t, "upload", put(), false)
		if i == 3 {
			wantQuota(t, "one too many", put(), true)
		}
	}
	// The refusal triggered a collection.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.CollectRegularly(ctx, store.CollectOptions{Every: time.Hour})
	}()
	for put() != nil {
		runtime.Gosched()
	}
	cancel()
	<-done
}

// The size of a root comes from whoever has the root, not from the first who
// names it.
func TestSizeOfWhatWasPinnedBefore(t *testing.T) {
	t.Parallel()
	s := newShelf(t, store.Options{})
	leaf := raw("leaf")
	root := pbNode("root", leaf.CID)
	other := s.user("other", 0)
	if err := other.pin(root.CID, ""); err != nil {
		t.Fatal(err)
	}
	s.put(carOf(root, leaf))
	c, err := s.Content(t.Context(), root.CID)
	if want := int64(len(root.Data) + 100); err != nil || c.Size == nil || *c.Size != want { // as PBNode claims
		t.Errorf("%+v %v, want %d", c, err, want)
	}
	third := raw("third")
	s.put(carOf(pbNode("a", third.CID), third))
	if err := other.pin(third.CID, ""); err != nil { // of content that is held
		t.Fatal(err)
	}
	if c, err = s.Content(t.Context(), third.CID); err != nil || c.Size == nil || *c.Size != int64(len(third.Data)) {
		t.Errorf("%+v %v", c, err)
	}
}

func TestIndexIsPrivate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "index.db")
	s := newShelf(t, store.Options{Dir: dir})
	private := func() {
		t.Helper()
		all, err := filepath.Glob(path + "*")
		if err != nil || len(all) != 3 {
			t.Fatal(all, err)
		}
		for _, p := range all {
			if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", p, info.Mode(), err)
			}
		}
	}
	private()
	s.close()
	if err := os.Chmod(path, 0o644); err != nil { // as older versions left it
		t.Fatal(err)
	}
	newShelf(t, store.Options{Dir: dir})
	private()
}
