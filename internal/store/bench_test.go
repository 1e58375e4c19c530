package store_test

import (
	"fmt"
	"testing"

	"github.com/carload/carload/internal/store"
)

// BenchmarkOpen opens a store of 10,000 shards in which nothing is wrong: what
// knowing its damage costs each start.
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
