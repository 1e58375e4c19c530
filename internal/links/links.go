// Package links finds what a block links to. It decodes DAG-PB, DAG-CBOR and
// DAG-JSON without building them in memory, in time and space linear in the
// block, whatever the block claims.
//
// A block carried within a CID (an identity CID) is held by whoever holds the
// CID. Such a CID is never reported; what its block links to is reported in
// its place.
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

// ErrInvalid is wrapped by errors that report a block which does not decode
// with the codec of its CID.
var ErrInvalid = errors.New("block does not decode with its codec")

// ErrMissing is wrapped by errors that report a block that is linked to and is
// nowhere.
var ErrMissing = errors.New("block is missing")

// MaxDepth is how many links deep a DAG can be for all that read it: importing,
// restoring, exporting. One that is deeper is refused before it is sent.
const MaxDepth = 512

// maxInline bounds how deep blocks can be carried within CIDs, maxNesting how
// deep values can be nested within a block.
const (
	maxInline  = 32
	maxNesting = 1024
)

// Possible tells whether blocks of this codec can have links. Blocks of codecs
// that are not known here are leaves.
func Possible(codec uint64) bool {
	return codec == DagPB || codec == DagCBOR || codec == DagJSON
}

// Each calls f for each link of block c, in the order of the block; the same
// CID may come more than once. It stops at the first error of f and returns
// it. A block that does not decode is reported by an error matching
// [ErrInvalid], possibly after some calls of f.
func Each(c cid.Cid, data []byte, f func(cid.Cid) error) error {
	if err := OfCodec(c.Prefix().Codec, data, f); err != nil {
		return fmt.Errorf("links of block %s: %w", c, err)
	}
	return nil
}

// OfCodec is [Each] for a block of which only the codec is known.
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

// Direct is [OfCodec] that does not look into identity CIDs: it calls f for
// them as for all others.
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

// Identity returns the block that c carries within itself, if it does.
func Identity(c cid.Cid) (data []byte, ok bool) {
	// Nearly every CID is one of SHA-256; the prefix tells without decoding.
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
