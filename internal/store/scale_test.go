package store_test

import (
	"encoding/binary"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
)

// An upload with the shape of 31 GiB in leaves of 1 MiB: 31,744 leaves under 31
// nodes, 95 leaves per shard. The leaves are small here, as their size makes no
// difference to the index.
func TestLateShardsCostWhatEarlyOnesDo(t *testing.T) {
	if testing.Short() || underRace {
		t.Skip("takes a while")
	}
	s := newShelf(t, store.Options{})
	const leaves, width, perShard = 31 << 10, 1 << 10, 95
	all := make([]block, leaves)
	for i := range all {
		all[i] = blockOf(cid.Raw, binary.BigEndian.AppendUint32(nil, uint32(i)))
	}
	var inner []block
	var top []cid.Cid
	for i := 0; i < leaves; i += width {
		links := make([]cid.Cid, width)
		for j := range links {
			links[j] = all[i+j].CID
		}
		inner = append(inner, pbNode("inner", links...))
		top = append(top, inner[len(inner)-1].CID)
	}
	root := pbNode("root", top...)

	var took []time.Duration
	for from := 0; from < leaves; from += perShard {
		shard := []block{root, inner[from/width]}
		to := min(from+perShard, leaves)
		for i := from; i < to; i++ {
			if i%width == 0 && i > from {
				shard = append(shard, inner[i/width])
			}
			shard = append(shard, all[i])
		}
		body := carOf(shard...)
		start := time.Now()
		u := s.put(body)
		took = append(took, time.Since(start))
		if want := map[bool]store.State{true: complete, false: incomplete}[to == leaves]; u.State != want {
			t.Fatalf("shard %d: %d, want %d", len(took), u.State, want)
		}
		if len(u.Parts) != len(took) {
			t.Fatalf("%d parts after %d shards", len(u.Parts), len(took))
		}
	}
	median := func(d []time.Duration) time.Duration {
		d = slices.Clone(d)
		slices.Sort(d)
		return d[len(d)/2]
	}
	early, late := median(took[:60]), median(took[len(took)-60:])
	t.Logf("%d shards; median of the first 60: %v, of the last 60: %v; the last: %v", len(took), early, late, took[len(took)-1])
	// This does not test speed. If the cost grew with what is held already, the
	// factor would be in the hundreds.
	if late > 10*early {
		t.Errorf("a late shard took %v, an early one %v", late, early)
	}
}
