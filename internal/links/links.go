// Package links finds the links of a block. It reads DAG-PB, DAG-CBOR and
// DAG-JSON without building them in memory, in time and space linear in the
// size of the block, whatever the block claims.
//
// Whoever has an identity CID has its block, since the CID contains it. So
// identity CIDs are never reported; the links of the block inside are reported
// in their place.
package links

import (
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// Codecs of CIDs.
const (
	Raw     = 0x55
	DagPB   = 0x70
	DagCBOR = 0x71
	DagJSON = 0x0129
)

// ErrInvalid is wrapped by errors about a block that does not decode with the
// codec of its CID.
var ErrInvalid = errors.New("block does not decode with its codec")

// ErrMissing is wrapped by errors about a linked block that cannot be found
// anywhere.
var ErrMissing = errors.New("block is missing")

// MaxDepth is how deep a DAG can be, in links, for everything that walks it:
// import, restore, export. A deeper one is refused before it is sent.
const MaxDepth = 512

// maxInline limits how deep blocks can be nested in identity CIDs, and
// maxNesting how deep values can be nested in a block.
const (
	maxInline  = 32
	maxNesting = 1024
)

// Possible reports whether blocks of this codec can have links. Blocks of
// unknown codecs count as leaves.
func Possible(codec uint64) bool {
	return codec == DagPB || codec == DagCBOR || codec == DagJSON
}

// Each calls f for every link of block c, in the order of the block. The same
// CID may come more than once. It stops at the first error from f and returns
// it. If the block does not decode, the error matches [ErrInvalid]; f may have
// been called before.
func Each(c cid.Cid, data []byte, f func(cid.Cid) error) error {
	if err := OfCodec(c.Prefix().Codec, data, f); err != nil {
		return fmt.Errorf("links of block %s: %w", c, err)
	}
	return nil
}

// OfCodec is [Each] for a block whose CID is not known, only its codec.
func OfCodec(codec uint64, data []byte, f func(cid.Cid) error) error {
	return each(codec, data, f, 0)
}

func each(codec uint64, data []byte, f func(cid.Cid) error, depth int) error {
	return Direct(codec, data, func(c cid.Cid) error {
		inline, ok := Identity(c)
		if !ok {
			return f(c)
		}
		if depth == maxInline {
			return invalid("blocks within CIDs are nested too deep")
		}
		return each(c.Prefix().Codec, inline, f, depth+1)
	})
}

// Direct is [OfCodec] without looking into identity CIDs: it calls f for them
// as for all others.
func Direct(codec uint64, data []byte, f func(cid.Cid) error) error {
	switch codec {
	case DagPB:
		_, err := DecodePB(data, func(l PBLink) error { return f(l.Cid) })
		return err
	case DagCBOR:
		return eachCBOR(data, f)
	case DagJSON:
		return eachJSON(data, f)
	}
	return nil
}

// Identity returns the block that c contains, if c is an identity CID.
func Identity(c cid.Cid) (data []byte, ok bool) {
	// Nearly every CID is SHA-256. The prefix shows that without decoding the
	// CID.
	if !c.Defined() || c.Version() == 0 || c.Prefix().MhType != multihash.IDENTITY {
		return nil, false
	}
	dec, err := multihash.Decode(c.Hash())
	if err != nil {
		return nil, false
	}
	return dec.Digest, true
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}
