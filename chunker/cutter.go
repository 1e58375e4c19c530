package chunker

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	chunk "github.com/ipfs/boxo/chunker"
)

// cutter is a chunker that looks at the content: the boundaries of leaves are
// known only once the bytes before them were read.
type cutter struct {
	spec          string // as Kubo writes it
	min, avg, max int    // leaf sizes in bytes; a shorter file is one leaf
}

// buzhash has no knobs; these are its bounds.
const (
	buzhashMin = 128 << 10
	buzhashMax = 512 << 10
)

// parseCutter understands rabin, rabin-AVG, rabin-MIN-AVG-MAX and buzhash.
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
			return cutter{}, fmt.Errorf("chunker %q: %q is no number of bytes", spec, field)
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
	if c.min < 16 || c.min >= c.avg || c.avg >= c.max || c.max > chunk.ChunkSizeLimit {
		return cutter{}, fmt.Errorf("chunker %q: needs 16 ≤ min < avg < max ≤ %d bytes, has %d, %d and %d", spec, chunk.ChunkSizeLimit, c.min, c.avg, c.max)
	}
	return c, nil
}

// split cuts what r has.
func (c cutter) split(r io.Reader) chunk.Splitter {
	if c.avg == 0 {
		return chunk.NewBuzhash(r)
	}
	return chunk.NewRabinMinMax(r, uint64(c.min), uint64(c.avg), uint64(c.max))
}
