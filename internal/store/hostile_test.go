package store_test

import (
	"encoding/binary"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
)

// peakHeap runs f and returns the largest growth of the heap, as sampled.
func peakHeap(f func()) (peak uint64, took time.Duration) {
	// Otherwise the test's own archives would let garbage pile up.
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				runtime.ReadMemStats(&now)
				if now.HeapInuse > before.HeapInuse {
					peak = max(peak, now.HeapInuse-before.HeapInuse)
				}
			case <-stop:
				return
			}
		}
	}()
	start := time.Now()
	f()
	took = time.Since(start)
	close(stop)
	<-done
	return peak, took
}

// Archives that are valid, but made to cost as much as possible.
func TestHostileCARs(t *testing.T) {
	if testing.Short() || underRace {
		t.Skip("takes a while")
	}
	s := newShelf(t, store.Options{})
	digest := make([]byte, 32)
	n := uint64(0)
	absent := func() cid.Cid {
		n++
		binary.BigEndian.PutUint64(digest, n)
		return cid.NewCidV1(cid.Raw, append([]byte{0x12, 0x20}, digest...))
	}
	const maxHeap = 64 << 20

	wide := func() []block { // links to blocks that don't exist
		var nodes []block
		for range 5 {
			links := make([]cid.Cid, 40_000)
			for i := range links {
				links[i] = absent()
			}
			nodes = append(nodes, pbNode("wide", links...))
		}
		return nodes
	}
	chain := func(parentsFirst bool) []block { // each node links to the one before
		nodes := []block{raw("end")}
		for range 10_000 {
			nodes = append(nodes, cborNode("chain", nodes[len(nodes)-1].CID))
		}
		if parentsFirst {
			slices.Reverse(nodes)
		}
		return nodes
	}
	ladder := func() []block { // 2^60 paths through 60 nodes
		nodes := []block{raw("a"), raw("b")}
		for range 60 {
			last := nodes[len(nodes)-2:]
			nodes = append(nodes, pbNode("left", last[0].CID, last[1].CID), pbNode("right", last[0].CID, last[1].CID))
		}
		slices.Reverse(nodes)
		return nodes
	}
	tiny := func() []block { // as many blocks as fit
		nodes := []block{raw("")}
		for i := range 50_000 {
			nodes = append(nodes, blockOf(cid.Raw, binary.BigEndian.AppendUint32(nil, uint32(i))))
		}
		return nodes
	}
	for _, row := range []struct {
		name   string
		blocks []block
		state  store.State
	}{
		{"200,000 absent links", wide(), incomplete},
		{"deep, parents first", chain(true), complete},
		{"many paths", ladder(), complete},
		{"tiny blocks", tiny(), complete},
		{"one block, many times", slices.Repeat([]block{raw("again")}, 100_000), complete},
	} {
		body := carOf(row.blocks...)
		var u upload
		peak, took := peakHeap(func() { u = s.put(body) })
		t.Logf("%s: %d bytes, %v, heap %d MiB", row.name, len(body), took, peak>>20)
		if u.State != row.state {
			t.Errorf("%s: %d", row.name, u.State)
		}
		if peak > maxHeap {
			t.Errorf("%s: the heap grew by %d MiB", row.name, peak>>20)
		}
	}
	nodes := chain(false)
	root := nodes[len(nodes)-1]
	start := time.Now()
	if u := s.put(carFile([]cid.Cid{root.CID}, nodes...)); u.State != complete {
		t.Errorf("deep, children first: %d", u.State)
	}
	t.Logf("deep, children first: %v", time.Since(start))
	if f := fsck(t, s); len(f.Problems) > 0 {
		t.Errorf("%+v", f.Problems)
	}
}
