package store

import (
	"encoding/binary"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	dag "github.com/carload/carload/internal/links"
)

// innerCodecs are the codecs of blocks that can have links, as an SQL list.
var innerCodecs = fmt.Sprintf("(%d, %d, %d)", dag.DagPB, dag.DagCBOR, dag.DagJSON)

// hasLinks reports whether a codec is one of innerCodecs. Blocks of all other
// codecs are leaves.
func hasLinks(codec uint64) bool { return dag.Possible(codec) }

// States of a node, in the column pending. A positive value is the number of
// distinct children that are not complete. Queries contain the numbers
// literally, because SQLite matches partial indexes by the text of the
// condition.
const (
	nodeReady    = 0  // complete, but its parents have not been told
	nodeComplete = -1 // complete, and its parents have been told
	nodeUnread   = -2 // held and linked to, but its links are not known yet
	nodeBroken   = -3 // does not decode with its codec, so it is never complete
	nodeTelling  = -4 // its parents are being told
)

// nodeKey identifies a block as a node of a DAG. It includes the codec, which
// decides what the block links to.
type nodeKey struct {
	mh    string // binary multihash
	codec uint64
}

// scanKey reads a row of mh and codec.
func scanKey(scan scanRow) (k nodeKey, err error) {
	err = scan(&k.mh, &k.codec)
	return k, err
}

// keyOf returns c without its version. It runs for every block, so it takes the
// multihash from the CID's own string; [cid.Cid.Hash] would make a copy.
func keyOf(c cid.Cid) nodeKey {
	all := c.KeyString()
	if c.Version() == 0 {
		return nodeKey{all, cid.DagProtobuf}
	}
	at := 0
	for range 2 { // version and codec
		for at < len(all) && all[at] >= 0x80 {
			at++
		}
		at = min(at+1, len(all))
	}
	return nodeKey{all[at:], c.Type()}
}

func (k nodeKey) cid() cid.Cid { return cid.NewCidV1(k.codec, multihash.Multihash(k.mh)) }

func (k nodeKey) identity() ([]byte, bool) { return dag.Identity(k.cid()) }

// links returns the distinct blocks that a block links to. An identity CID
// contains its block, so it is replaced by what that block links to.
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

// freshNode is an inner node whose links have just been read.
type freshNode struct {
	key      nodeKey
	links    []nodeKey
	children []int64 // childOf each link, as in the table parents
	broken   bool
}

func parse(k nodeKey, data []byte) freshNode {
	ls, err := links(k.codec, data)
	n := freshNode{key: k, links: ls, children: make([]int64, len(ls)), broken: err != nil}
	for i, l := range ls {
		n.children[i] = childOf(l.mh)
	}
	return n
}

// childOf returns the key of a multihash in the table parents: its last eight
// bytes.
func childOf(mh string) int64 {
	var p [8]byte
	copy(p[:], mh[max(len(mh)-len(p), 0):])
	return int64(binary.BigEndian.Uint64(p[:]))
}
