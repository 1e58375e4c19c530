package sha256mb_test

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/internal/sha256mb"
)

// stdSum is the baseline: the same messages one after another.
func stdSum(out [][sha256mb.Size]byte, msgs [][]byte) {
	for i, m := range msgs {
		out[i] = sha256.Sum256(m)
	}
}

func BenchmarkSum(b *testing.B) {
	for _, c := range []struct{ count, size int }{
		{1, 1 << 20}, {2, 1 << 20}, {3, 1 << 20}, {4, 1 << 20}, {16, 1 << 20}, {4, 256 << 10}, {1000, 4 << 10}, {1000, 300},
	} {
		buf := noise(20, c.count*c.size)
		msgs := make([][]byte, c.count)
		for i := range msgs {
			msgs[i] = buf[i*c.size:][:c.size]
		}
		want := make([][sha256mb.Size]byte, c.count)
		stdSum(want, msgs)
		for _, by := range []struct {
			name string
			sum  func(out [][sha256mb.Size]byte, msgs [][]byte)
		}{{"std", stdSum}, {"lanes", sha256mb.Sum}} {
			b.Run(fmt.Sprintf("%dx%d/%s", c.count, c.size, by.name), func(b *testing.B) {
				out := make([][sha256mb.Size]byte, c.count)
				for loop := meter(b, len(buf)); loop(); {
					by.sum(out, msgs)
				}
				for i := range out {
					if out[i] != want[i] {
						b.Fatalf("message %d: wrong digest", i)
					}
				}
			})
		}
	}
}

// BenchmarkUpdate feeds four digests with slices that are in the cache.
func BenchmarkUpdate(b *testing.B) {
	const total = 1 << 20
	buf := noise(21, 4*total)
	var want [4][sha256mb.Size]byte
	for i := range want {
		want[i] = sha256.Sum256(buf[i*total:][:total])
	}
	for _, size := range []int{16 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("4x%d/std", size), func(b *testing.B) {
			hs := [4]hash.Hash{sha256.New(), sha256.New(), sha256.New(), sha256.New()}
			for loop := meter(b, len(buf)); loop(); {
				for _, h := range hs {
					h.Reset()
				}
				for at := 0; at < total; at += size {
					for i, h := range hs {
						h.Write(buf[i*total+at:][:size])
					}
				}
				for i, h := range hs {
					if [sha256mb.Size]byte(h.Sum(nil)) != want[i] {
						b.Fatalf("digest %d: wrong", i)
					}
				}
			}
		})
		b.Run(fmt.Sprintf("4x%d/lanes", size), func(b *testing.B) {
			var ds [4]sha256mb.Digest
			refs := [4]*sha256mb.Digest{&ds[0], &ds[1], &ds[2], &ds[3]}
			for loop := meter(b, len(buf)); loop(); {
				for i := range ds {
					ds[i].Reset()
				}
				for at := 0; at < total; at += size {
					var data [4][]byte
					for i := range data {
						data[i] = buf[i*total+at:][:size]
					}
					sha256mb.Update(refs[:], data[:])
				}
				for i := range ds {
					if ds[i].Sum256() != want[i] {
						b.Fatalf("digest %d: wrong", i)
					}
				}
			}
		})
	}
}

// BenchmarkPool runs goroutines that each feed a stream, 1 MiB at a time.
func BenchmarkPool(b *testing.B) {
	const total, size = 4 << 20, 1 << 20
	for _, writers := range []int{1, 4, 8} {
		buf := noise(22, writers*total)
		want := make([][sha256mb.Size]byte, writers)
		for i := range want {
			want[i] = sha256.Sum256(buf[i*total:][:total])
		}
		var pool sha256mb.Pool
		for _, by := range []struct {
			name string
			hash func(msg []byte) [sha256mb.Size]byte
		}{
			{"std", func(msg []byte) [sha256mb.Size]byte {
				h := sha256.New()
				for len(msg) > 0 {
					h.Write(msg[:size])
					msg = msg[size:]
				}
				return [sha256mb.Size]byte(h.Sum(nil))
			}},
			{"lanes", func(msg []byte) [sha256mb.Size]byte {
				var d sha256mb.Digest
				for len(msg) > 0 {
					pool.Write(&d, msg[:size])
					msg = msg[size:]
				}
				return d.Sum256()
			}},
		} {
			b.Run(fmt.Sprintf("%d/%s", writers, by.name), func(b *testing.B) {
				for loop := meter(b, len(buf)); loop(); {
					var g errgroup.Group
					for i := range writers {
						g.Go(func() error {
							if by.hash(buf[i*total:][:total]) != want[i] {
								return fmt.Errorf("stream %d: wrong digest", i)
							}
							return nil
						})
					}
					if err := g.Wait(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// meter returns b.Loop, and reports bytes per time and per CPU time. Other work
// on the machine distorts the former.
func meter(b *testing.B, bytes int) func() bool {
	b.SetBytes(int64(bytes))
	b.ReportAllocs()
	rounds, before := 0, cpuTime()
	return func() bool {
		if b.Loop() {
			rounds++
			return true
		}
		if spent := cpuTime() - before; spent > 0 {
			b.ReportMetric(float64(rounds)*float64(bytes)/spent.Seconds()/(1<<30), "GiB/cpu-s")
		}
		return false
	}
}
