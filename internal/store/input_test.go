package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/internal/store"
)

// A shard passes through the halves of a buffer. Sections of all sizes cross
// the ends of the halves, several shards are hashed together, and a wrong byte
// is found wherever it is.
func TestReceiveHalves(t *testing.T) {
	const mib = 1 << 20
	for name, size := range map[string]func(r *rand.Rand) int{
		"leaves":  func(*rand.Rand) int { return mib },
		"largest": func(*rand.Rand) int { return store.MaxBlockBytes },
		"mixed":   func(r *rand.Rand) int { return r.IntN([]int{100, 70_000, store.MaxBlockBytes}[r.IntN(3)]) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newShelf(t, store.Options{})
			var sent [3]struct {
				root cid.Cid
				car  string
			}
			var g errgroup.Group
			for id := range sent {
				g.Go(func() error {
					r := rand.New(rand.NewPCG(uint64(id), 7))
					noise := rand.NewChaCha8([32]byte{byte(id)})
					var leaves []block
					var links []cid.Cid
					for total := 0; total < 9*mib; {
						data := make([]byte, size(r))
						_, _ = noise.Read(data)
						leaves = append(leaves, blockOf(cid.Raw, data))
						links = append(links, leaves[len(leaves)-1].CID)
						total += len(data)
					}
					root := pbNode(fmt.Sprint(name, id), links...)
					body := carOf(append([]block{root}, leaves...)...)

					for _, at := range []int{len(body) - 1, len(body) / 2} {
						var wrong *store.CARError
						if _, err := s.tryPut(flip(body, at)); !errors.As(err, &wrong) {
							return fmt.Errorf("shard %d with a wrong bit at %d of %d: error %w", id, at, len(body), err)
						}
					}
					var err error
					if sent[id].root, err = s.tryPut(body); err != nil {
						return err
					}
					sent[id].car = carCID(body)
					for _, l := range leaves {
						got, err := s.Block(t.Context(), l.CID)
						if err != nil || !bytes.Equal(got, l.Data) {
							return fmt.Errorf("block %s: %d bytes, error %w", l.CID, len(got), err)
						}
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			for _, c := range sent {
				if u := s.upload(c.root); u.State != complete || strings.Join(u.Parts, " ") != c.car {
					t.Errorf("%+v, want the shard %s, and complete", u, c.car)
				}
			}
		})
	}
}
