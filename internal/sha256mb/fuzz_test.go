package sha256mb_test

import (
	"crypto/sha256"
	"testing"

	"github.com/carload/carload/internal/sha256mb"
)

// FuzzSum splits data into messages whose lengths follow from cuts, and hashes
// them in one piece and in two.
func FuzzSum(f *testing.F) {
	f.Add([]byte("abc"), []byte{3})
	f.Add(noise(30, 3000), []byte{0, 1, 55, 56, 63, 64, 65, 119, 120, 255})
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		var msgs, heads, tails [][]byte
		var ds []*sha256mb.Digest
		for i, c := range cuts {
			n := min(int(c)*(i%7+1), len(data))
			m := data[:n]
			msgs = append(msgs, m)
			split := n * i / len(cuts)
			heads, tails = append(heads, m[:split]), append(tails, m[split:])
			ds = append(ds, new(sha256mb.Digest))
			// Overlapping messages at odd addresses.
			data = data[min(len(data), n/3+1):]
		}
		out := make([][sha256mb.Size]byte, len(msgs))
		sha256mb.WithKernels(func(name string) {
			for _, d := range ds {
				*d = sha256mb.Digest{}
			}
			sha256mb.Sum(out, msgs)
			sha256mb.Update(ds, heads)
			sha256mb.Update(ds, tails)
			for i, m := range msgs {
				want := sha256.Sum256(m)
				if out[i] != want {
					t.Errorf("%s: message %d, %d bytes: wrong sum", name, i, len(m))
				}
				if ds[i].Sum256() != want {
					t.Errorf("%s: message %d, %d bytes: wrong digest", name, i, len(m))
				}
			}
		})
	})
}
