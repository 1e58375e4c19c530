package chunker

import (
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"

	rabin "github.com/whyrusleeping/chunker"
)

// cutter is a chunker that cuts by content: where a leaf ends is known only
// after reading it.
type cutter struct {
	spec          string // in Kubo's notation
	min, avg, max int    // leaf sizes in bytes; a shorter file is one leaf
}

// cutMax is the largest leaf: with its framing it has to fit into a block.
const cutMax = 2<<20 - 256

// rabinPolynomial is the polynomial that IPFS uses.
const rabinPolynomial rabin.Pol = 17437180132763653

// parseCutter parses rabin, rabin-AVG, rabin-MIN-AVG-MAX and buzhash.
func parseCutter(spec string) (cutter, error) {
	kind, rest, sized := strings.Cut(spec, "-")
	switch {
	case spec == "buzhash":
		return cutter{spec, buzhashMin, 0, buzhashMax}, nil
	case kind != "rabin":
		return cutter{}, fmt.Errorf("chunker %q: must be size-BYTES, rabin, rabin-AVG, rabin-MIN-AVG-MAX or buzhash", spec)
	case !sized:
		rest = strconv.Itoa(256 << 10)
	}
	var n []int
	for i, field := range strings.Split(rest, "-") {
		if _, value, labelled := strings.Cut(field, ":"); labelled && i < 3 && strings.HasPrefix(field, []string{"min:", "avg:", "max:"}[i]) {
			field = value
		}
		v, err := strconv.Atoi(field)
		if err != nil {
			return cutter{}, fmt.Errorf("chunker %q: %q is not a number of bytes", spec, field)
		}
		n = append(n, v)
	}
	c := cutter{spec: spec}
	switch len(n) {
	case 1:
		c.min, c.avg, c.max = n[0]/3, n[0], n[0]+n[0]/2
	case 3:
		c.min, c.avg, c.max = n[0], n[1], n[2]
		c.spec = fmt.Sprintf("rabin-%d-%d-%d", c.min, c.avg, c.max)
	default:
		return cutter{}, fmt.Errorf("chunker %q: rabin takes one size or three", spec)
	}
	if c.min < 16 || c.min >= c.avg || c.avg >= c.max || c.max > cutMax {
		return cutter{}, fmt.Errorf("chunker %q: needs 16 ≤ min < avg < max ≤ %d bytes, got %d, %d and %d", spec, cutMax, c.min, c.avg, c.max)
	}
	return c, nil
}

// split returns a function that returns the next leaf of the size bytes in r,
// and io.EOF after the last.
func (c cutter) split(r io.Reader, size int64) (next func() ([]byte, error)) {
	if c.avg == 0 {
		return newBuzhash(r, size).next
	}
	cut := rabin.New(r, rabinPolynomial, fnv.New32a(), uint64(c.avg), uint64(c.min), uint64(c.max))
	return func() ([]byte, error) {
		leaf, err := cut.Next()
		if err != nil {
			return nil, err
		}
		return leaf.Data, nil
	}
}
