package store_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
)

// BenchmarkOpen opens a sound store of 10,000 shards. It measures what looking
// for damage costs at each start.
func BenchmarkOpen(b *testing.B) {
	opts := store.Options{Dir: b.TempDir()}
	s := newShelf(b, opts)
	for i := range 10_000 {
		s.put(carOf(raw(fmt.Sprint("shard ", i))))
	}
	s.close()
	for b.Loop() {
		st, err := store.Open(b.Context(), opts)
		if err != nil {
			b.Fatal(err)
		}
		if err := st.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTinyBlocks accepts a file of 64 MiB with leaves of 256 bytes.
func BenchmarkTinyBlocks(b *testing.B) {
	blocksPerOp := 0
	for b.Loop() {
		b.StopTimer()
		s := newShelf(b, store.Options{})
		const leaves, width = 1 << 18, 174
		var blocks []block
		level := make([]cid.Cid, 0, leaves)
		payload := make([]byte, 256)
		for i := range leaves {
			binary.BigEndian.PutUint64(payload, uint64(i))
			blocks = append(blocks, blockOf(cid.Raw, bytes.Clone(payload)))
			level = append(level, blocks[i].CID)
		}
		for len(level) > 1 {
			var up []cid.Cid
			for links := range slices.Chunk(level, width) {
				blocks = append(blocks, pbNode("", links...))
				up = append(up, blocks[len(blocks)-1].CID)
			}
			level = up
		}
		slices.Reverse(blocks)
		body := carOf(blocks...)
		b.StartTimer()
		if u := s.put(body); u.State != complete {
			b.Fatal(u)
		}
		blocksPerOp = len(blocks)
		b.StopTimer()
		s.close()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(blocksPerOp*b.N), "ns/block")
}
