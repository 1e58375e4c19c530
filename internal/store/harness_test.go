package store_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/internal/store/storetest"
)

type block = storetest.Block

var (
	blockOf, raw     = storetest.BlockOf, storetest.Raw
	pbNode, cborNode = storetest.PBNode, storetest.CBORNode
	carFile, carOf   = storetest.CARFile, storetest.CAROf
	flip             = storetest.Flip
)

const (
	incomplete = store.StateIncomplete
	complete   = store.StateComplete
)

// shelf is an open store and its user.
type shelf struct {
	*store.Store
	t   testing.TB
	who *store.Caller
}

func newShelf(t testing.TB, opts store.Options) *shelf {
	t.Helper()
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	st, err := store.Open(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	_, token, err := st.CreateKey(t.Context(), store.KeyOptions{Name: rand.Text()})
	if err != nil {
		t.Fatal(err)
	}
	who, err := st.Authenticate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	s := &shelf{st, t, who}
	t.Cleanup(s.close)
	return s
}

// close may be called more than once.
func (s *shelf) close() {
	if err := s.Store.Close(); err != nil {
		s.t.Error(err)
	}
}

// upload is the state of an upload after one of its shards was accepted.
type upload struct {
	Root  cid.Cid
	State store.State
	Parts []string
}

// tryPut uploads a shard.
func (s *shelf) tryPut(body []byte) (cid.Cid, error) {
	in, err := s.Receive(s.t.Context(), bytes.NewReader(body), int64(len(body)))
	if err != nil {
		return cid.Undef, err
	}
	name := "an upload"
	err = s.Accept(s.t.Context(), in, &store.NewUpload{Caller: s.who, Kind: store.KindCAR, Mime: "application/car", Name: &name})
	return in.Root, errors.Join(err, in.Close())
}

// carCID returns the CID of a CAR file.
func carCID(body []byte) string {
	return cid.NewCidV1(0x0202, blockOf(cid.Raw, body).CID.Hash()).String()
}

// put uploads a shard and returns the upload that it belongs to.
func (s *shelf) put(body []byte) upload {
	s.t.Helper()
	root, err := s.tryPut(body)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.upload(root)
}

func (s *shelf) upload(root cid.Cid) upload {
	s.t.Helper()
	u, err := s.Upload(s.t.Context(), s.who.UserID, root.String())
	if err != nil {
		s.t.Fatal(err)
	}
	out := upload{Root: root, State: u.Content.State}
	for _, p := range u.Parts {
		out.Parts = append(out.Parts, p.String())
	}
	return out
}

func (s *shelf) state(root cid.Cid) store.State {
	s.t.Helper()
	c, err := s.Content(s.t.Context(), root)
	if err != nil {
		s.t.Fatal(err)
	}
	return c.State
}

// drop deletes an upload.
func (s *shelf) drop(root cid.Cid) {
	s.t.Helper()
	if err := s.Forget(s.t.Context(), s.who.UserID, root.String()); err != nil {
		s.t.Fatal(err)
	}
}

// has reports whether the store serves a block. If it serves wrong bytes, the
// test fails.
func (s *shelf) has(b block) bool {
	s.t.Helper()
	data, err := s.Block(s.t.Context(), b.CID)
	switch {
	case err == nil && bytes.Equal(data, b.Data):
		return true
	case err == nil:
		s.t.Fatalf("block %s: other bytes", b.CID)
	case !errors.Is(err, store.ErrNotHeld) && !errors.Is(err, store.ErrDamaged):
		s.t.Fatal(err)
	}
	return false
}
