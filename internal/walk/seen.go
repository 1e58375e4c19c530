package walk

import (
	"crypto/sha256"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/internal/links"
)

// seen is the set of blocks that a walk has met. It keeps two things apart:
// nodes, where the codec decides what is below a block, and bytes, which an
// archive includes once whatever the codec is.
type seen struct {
	m     map[[32]byte]met
	other map[string]struct{} // nodes of other codecs, which have no bit
}

type met uint8

const (
	metBytes met = 1 << iota
	metRaw
	metPB
	metCBOR
	metJSON
)

// seenBytes is roughly the memory per block.
const seenBytes = 64

func metAs(codec uint64) met {
	switch codec {
	case links.Raw:
		return metRaw
	case links.DagPB:
		return metPB
	case links.DagCBOR:
		return metCBOR
	case links.DagJSON:
		return metJSON
	}
	return 0
}

func digestOf(c cid.Cid) [32]byte {
	mh := c.Hash()
	if len(mh) == 34 && mh[0] == multihash.SHA2_256 && mh[1] == 32 {
		return [32]byte(mh[2:])
	}
	return sha256.Sum256(mh)
}

func (s *seen) len() int { return len(s.m) + len(s.other) }

// node reports whether c was met as a node of its codec.
func (s *seen) node(c cid.Cid) bool {
	if bit := metAs(c.Prefix().Codec); bit != 0 {
		return s.m[digestOf(c)]&bit != 0
	}
	_, ok := s.other[c.KeyString()]
	return ok
}

// addNode adds c as a node, and reports whether it is new.
func (s *seen) addNode(c cid.Cid) bool {
	bit := metAs(c.Prefix().Codec)
	if bit != 0 {
		return s.add(digestOf(c), bit)
	}
	if s.node(c) {
		return false
	}
	if s.other == nil {
		s.other = make(map[string]struct{})
	}
	s.other[c.KeyString()] = struct{}{}
	return true
}

// addBytes adds the bytes of c, and reports whether they are new.
func (s *seen) addBytes(c cid.Cid) bool { return s.add(digestOf(c), metBytes) }

func (s *seen) add(k [32]byte, bit met) bool {
	if s.m == nil {
		s.m = make(map[[32]byte]met)
	}
	was := s.m[k]
	s.m[k] = was | bit
	return was&bit == 0
}
