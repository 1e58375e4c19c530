package sha256mb_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/internal/sha256mb"
)

func TestPool(t *testing.T) {
	buf := noise(8, 300<<10)
	sha256mb.EachKernel(t, func(t *testing.T) {
		for _, writers := range []int{1, 2, 4, 5, 8, 33} {
			var pool sha256mb.Pool
			var g errgroup.Group
			for id := range writers {
				g.Go(func() error {
					rng := rand.New(rand.NewPCG(uint64(id), uint64(writers)))
					for range 3 {
						var d sha256mb.Digest
						want := sha256.New()
						for range 10 {
							most := []int{100, 20 << 10, len(buf)}[rng.IntN(3)]
							n := rng.IntN(most)
							off := rng.IntN(len(buf) - n)
							pool.Write(&d, buf[off:off+n])
							want.Write(buf[off : off+n])
						}
						if d.Sum256() != [sha256mb.Size]byte(want.Sum(nil)) {
							return fmt.Errorf("writer %d of %d: wrong digest", id, writers)
						}
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
		}
	})
}

// Writes that are started early and waited for late must not block those that
// are already waiting, whoever leads.
func TestPoolStart(t *testing.T) {
	buf := noise(9, 200<<10)
	sha256mb.EachKernel(t, func(t *testing.T) {
		var pool sha256mb.Pool
		var g errgroup.Group
		for id := range 9 {
			g.Go(func() error {
				rng := rand.New(rand.NewPCG(uint64(id), 3))
				var d sha256mb.Digest
				want := sha256.New()
				for range 40 {
					n := rng.IntN(len(buf))
					w := pool.Start(&d, buf[:n])
					want.Write(buf[:n]) // meanwhile another caller may lead
					w.Wait()
				}
				if d.Sum256() != [sha256mb.Size]byte(want.Sum(nil)) {
					return fmt.Errorf("writer %d: wrong digest", id)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// Sum also runs started writes, whether their owners wait or not, and wakes all
// sleepers.
func TestPoolSum(t *testing.T) {
	buf := noise(10, 200<<10)
	sha256mb.EachKernel(t, func(t *testing.T) {
		for _, workers := range []int{1, 2, 3, 9} {
			var pool sha256mb.Pool
			var g errgroup.Group
			for id := range workers {
				g.Go(func() error {
					rng := rand.New(rand.NewPCG(uint64(id), uint64(workers)))
					var d sha256mb.Digest
					want := sha256.New()
					for range 20 {
						n := rng.IntN(len(buf))
						w := pool.Start(&d, buf[:n])
						want.Write(buf[:n])
						msgs := make([][]byte, rng.IntN(7))
						for i := range msgs {
							msgs[i] = buf[rng.IntN(1000):][:rng.IntN([]int{100, 5000, 199_000}[rng.IntN(3)])]
						}
						out := make([][sha256mb.Size]byte, len(msgs))
						pool.Sum(out, msgs)
						w.Wait()
						for i, m := range msgs {
							if out[i] != sha256.Sum256(m) {
								return fmt.Errorf("message %d of %d, %d bytes: wrong sum", i, len(msgs), len(m))
							}
						}
					}
					if d.Sum256() != [sha256mb.Size]byte(want.Sum(nil)) {
						return fmt.Errorf("writer %d of %d: wrong digest", id, workers)
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
		}
	})
}
