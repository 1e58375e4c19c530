package cli

import "testing"

// A job counts as done only if every target that it names holds it: what
// ledgers say of other targets is no proof.
func TestHeldByAll(t *testing.T) {
	t.Parallel()
	asked := held{"home": {"r": true}, "shelf": {"r": true, "s": true}}
	for _, tt := range []struct {
		held held
		to   []string
		root string
		want bool
	}{
		{nil, nil, "r", true}, // according to the ledger
		{nil, []string{"home"}, "r", false},
		{held{"": {"r": true}}, nil, "r", true},
		{held{"": {"r": true}}, nil, "s", false},
		{asked, []string{"home"}, "r", true},
		{asked, []string{"home", "shelf"}, "r", true},
		{asked, []string{"home", "shelf"}, "s", false},
		{asked, []string{"home", "other"}, "r", false},
	} {
		if got := tt.held.all(tt.to, tt.root); got != tt.want {
			t.Errorf("%v holds %s at %q: %v", tt.held, tt.root, tt.to, got)
		}
	}
}
