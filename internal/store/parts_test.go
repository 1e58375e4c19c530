package store_test

import (
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
)

// Each upload of a page has its own parts, in the order of their arrival.
func TestPartsOfPage(t *testing.T) {
	t.Parallel()
	s := newShelf(t, store.Options{})
	a, b, c := raw("a"), raw("b"), raw("c")
	root := pbNode("root", a.CID, b.CID)
	s.put(carOf(c))
	s.put(carOf(root, b))
	s.put(carOf(root, a))
	s.put(carOf(a))
	page, count, err := s.Uploads(t.Context(), store.Filter{UserID: s.who.UserID, Limit: 10})
	if err != nil || count != 3 || len(page) != 3 {
		t.Fatalf("%d of %d uploads, %v", len(page), count, err)
	}
	want := map[string][]string{
		root.CID.String(): {carCID(carOf(root, b)), carCID(carOf(root, a))},
		a.CID.String():    {carCID(carOf(a))},
		c.CID.String():    {carCID(carOf(c))},
	}
	for _, u := range page {
		got := make([]string, len(u.Parts))
		for i, p := range u.Parts {
			got[i] = p.String()
		}
		if !slices.Equal(got, want[u.SourceCID]) {
			t.Errorf("%s: %v, want %v", u.SourceCID, got, want[u.SourceCID])
		}
		if one, err := s.Upload(t.Context(), s.who.UserID, u.SourceCID); err != nil || !slices.EqualFunc(one.Parts, u.Parts, cid.Cid.Equals) {
			t.Errorf("%s alone: %v, %v", u.SourceCID, one.Parts, err)
		}
	}
}
