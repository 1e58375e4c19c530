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

// Writes that are started early and waited for late must not keep those who
// wait from going on, whoever leads.
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
					want.Write(buf[:n]) // others may lead meanwhile
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
