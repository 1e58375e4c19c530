package interop_test

import (
	"bytes"
	"testing"

	"github.com/carload/carload/car/piece"
)

// TestPieces compares piece CIDs with those of the JavaScript implementation.
func TestPieces(t *testing.T) {
	type byteRange struct {
		Offset int `json:"offset"`
		Length int `json:"length"`
	}
	var ranges []byteRange
	for n := range 300 {
		ranges = append(ranges, byteRange{n, n})
	}
	for k := 3; 127<<k < 1<<20; k++ {
		for _, n := range []int{127<<k - 1, 127 << k, 127<<k + 1, 1 << (k + 7)} {
			ranges = append(ranges, byteRange{k, n})
		}
	}
	p := newPool(t, 8<<20)
	var want []struct {
		CID  string
		Size int64
	}
	node(t, &want, map[string]any{"pool": p.path, "ranges": ranges}, "pieces.mjs")
	if len(want) != len(ranges) {
		t.Fatalf("%d pieces of %d ranges", len(want), len(ranges))
	}
	var pool piece.Pool
	for i, r := range ranges {
		got, err := pool.Read(bytes.NewReader(p.bytes[r.Offset:][:r.Length]))
		if err != nil || got.V2().String() != want[i].CID || got.PaddedSize() != want[i].Size {
			t.Errorf("%d bytes: %s in %d, %v; want %s in %d", r.Length, got.V2(), got.PaddedSize(), err, want[i].CID, want[i].Size)
		}
	}
}
