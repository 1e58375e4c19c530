package service

import (
	"math"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	dag "github.com/carload/carload/internal/links"
)

const (
	codecRaw     = dag.Raw
	codecDagPB   = dag.DagPB
	codecDagCBOR = dag.DagCBOR
)

// hasLinks tells the codecs whose blocks are looked into. Blocks of all others
// are leaves.
func hasLinks(codec uint64) bool { return dag.Possible(codec) }

// nodeKey names a block as a node of a DAG. The codec is part of it because it
// decides what the block links to.
type nodeKey struct {
	mh    string // binary multihash
	codec uint64
}

func keyOf(c cid.Cid) nodeKey { return nodeKey{string(c.Hash()), c.Prefix().Codec} }

func (k nodeKey) cid() cid.Cid { return cid.NewCidV1(k.codec, multihash.Multihash(k.mh)) }

func (k nodeKey) identity() ([]byte, bool) { return dag.Identity(k.cid()) }

// links returns the distinct blocks that a block needs besides itself. Blocks
// carried within a CID are held by whoever holds the CID: instead of them come
// the blocks they link to.
func links(codec uint64, data []byte) ([]nodeKey, error) {
	seen := make(map[nodeKey]struct{})
	var out []nodeKey
	err := dag.OfCodec(codec, data, func(c cid.Cid) error {
		k := keyOf(c)
		if _, ok := seen[k]; !ok {
			seen[k] = struct{}{}
			out = append(out, k)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// rootFacts is what the original works out of a root block.
type rootFacts struct {
	links int
	size  int64 // of the whole DAG, as the root claims; -1 if it does not
	err   error // the block does not decode
}

// inspectRoot decodes the root as the original does, which knows three codecs
// and takes the others as they come.
func inspectRoot(c cid.Cid, data []byte) rootFacts {
	facts := rootFacts{size: -1}
	switch c.Prefix().Codec {
	case dag.Raw:
		facts.size = int64(len(data))
	case dag.DagPB:
		sum := uint64(len(data))
		_, facts.err = dag.DecodePB(data, func(l dag.PBLink) error {
			facts.links++
			if sum += l.Tsize; sum < l.Tsize || sum > math.MaxInt64 {
				sum = math.MaxInt64
			}
			return nil
		})
		if facts.err == nil {
			facts.size = int64(sum)
		}
	case dag.DagCBOR:
		facts.err = dag.Direct(dag.DagCBOR, data, func(cid.Cid) error {
			facts.links++
			return nil
		})
	}
	return facts
}
