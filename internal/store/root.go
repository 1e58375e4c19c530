package store

import (
	"math"

	"github.com/ipfs/go-cid"

	dag "github.com/carload/carload/internal/links"
)

// rootFacts is what the original service learns from a root block.
type rootFacts struct {
	links bool  // it links to a block that is not inside the CID
	size  int64 // of the whole DAG, as the root claims; -1 if it doesn't, noRoot if there is no root
	err   error // why the block does not decode
}

const noRoot = -2

// inspectRoot decodes the root as the original service does. That knows three
// codecs and accepts all others without decoding them.
func inspectRoot(c cid.Cid, data []byte) rootFacts {
	facts := rootFacts{size: -1}
	switch c.Prefix().Codec {
	case dag.Raw:
		facts.size = int64(len(data))
	case dag.DagPB:
		sum := uint64(len(data))
		_, facts.err = dag.DecodePB(data, func(l dag.PBLink) error {
			facts.links = facts.links || leadsOutside(l.Cid)
			if sum += l.Tsize; sum < l.Tsize || sum > math.MaxInt64 {
				sum = math.MaxInt64
			}
			return nil
		})
		if facts.err == nil {
			facts.size = int64(sum)
		}
	case dag.DagCBOR:
		facts.err = dag.Direct(dag.DagCBOR, data, func(c cid.Cid) error {
			facts.links = facts.links || leadsOutside(c)
			return nil
		})
	}
	return facts
}

// leadsOutside reports whether a link leads to a block that is not inside a
// CID.
func leadsOutside(c cid.Cid) bool {
	data, inline := dag.Identity(c)
	if !inline {
		return true
	}
	outside := false
	// A block that does not decode leads nowhere. Indexing will report it.
	_ = dag.Each(c, data, func(cid.Cid) error { outside = true; return nil })
	return outside
}
