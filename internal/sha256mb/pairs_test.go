package sha256mb_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/carload/carload/internal/sha256mb"
)

// stdPairs is SumPairs with crypto/sha256.
func stdPairs(src []byte) []byte {
	var want []byte
	for ; len(src) > 0; src = src[64:] {
		sum := sha256.Sum256(src[:64])
		want = append(want, sum[:]...)
	}
	return want
}

func TestSumPairs(t *testing.T) {
	buf := noise(8, 40*64+7)
	sha256mb.EachKernel(t, func(t *testing.T) {
		for n := range 40 {
			for off := range 8 {
				src := buf[off:][:n*64]
				// Bytes around dst that must not be written.
				room := bytes.Repeat([]byte{0xee}, n*32+64)
				sha256mb.SumPairs(room[32:32+n*32], src)
				if !bytes.Equal(room[32:32+n*32], stdPairs(src)) {
					t.Fatalf("%d pairs at %d: wrong digests", n, off)
				}
				rim := append(room[:32:32], room[32+n*32:]...)
				if !bytes.Equal(rim, bytes.Repeat([]byte{0xee}, 64)) {
					t.Fatalf("%d pairs: wrote outside dst", n)
				}
			}
		}
	})
}

// Each level replaces the one below it, up to the root.
func TestSumPairsInPlace(t *testing.T) {
	leaves := noise(9, 256*32)
	want := leaves
	for len(want) > 32 {
		want = stdPairs(want)
	}
	sha256mb.EachKernel(t, func(t *testing.T) {
		tree := bytes.Clone(leaves)
		for len(tree) > 32 {
			sha256mb.SumPairs(tree[:len(tree)/2], tree)
			tree = tree[:len(tree)/2]
		}
		if !bytes.Equal(tree, want) {
			t.Error("wrong root")
		}
	})
}

func TestSumPairsRefuses(t *testing.T) {
	for _, c := range []struct{ dst, src int }{{0, 64}, {32, 63}, {32, 65}, {31, 64}, {64, 64}, {32, 0}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("SumPairs of %d bytes to %d: no panic", c.src, c.dst)
				}
			}()
			sha256mb.SumPairs(make([]byte, c.dst), make([]byte, c.src))
		}()
	}
}

func FuzzSumPairs(f *testing.F) {
	f.Add(noise(31, 5*64))
	f.Add(noise(32, 64))
	f.Fuzz(func(t *testing.T, data []byte) {
		src := data[:len(data)/64*64]
		want := stdPairs(src)
		sha256mb.WithKernels(func(name string) {
			dst := make([]byte, len(want))
			sha256mb.SumPairs(dst, src)
			if !bytes.Equal(dst, want) {
				t.Errorf("%s: %d pairs: wrong digests", name, len(src)/64)
			}
		})
	})
}

func BenchmarkSumPairs(b *testing.B) {
	src := noise(23, 1<<20)
	dst := make([]byte, len(src)/2)
	b.Run("std", func(b *testing.B) {
		for loop := meter(b, len(src)); loop(); {
			for i := 0; i < len(src); i += 64 {
				sum := sha256.Sum256(src[i : i+64])
				copy(dst[i/2:], sum[:])
			}
		}
	})
	b.Run("lanes", func(b *testing.B) {
		for loop := meter(b, len(src)); loop(); {
			sha256mb.SumPairs(dst, src)
		}
	})
}
