package store

import (
	"encoding/binary"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	dag "github.com/carload/carload/internal/links"
)

// innerCodecs are the codecs whose blocks are looked into, as a list of SQL.
var innerCodecs = fmt.Sprintf("(%d, %d, %d)", dag.DagPB, dag.DagCBOR, dag.DagJSON)

// hasLinks tells the codecs of innerCodecs. Blocks of all others
// are leaves.
func hasLinks(codec uint64) bool { return dag.Possible(codec) }

// States of a node, in the column pending. Above zero it is the number of
// distinct children that are not complete. Queries spell the values out, since
// partial indexes are matched by the text of the condition.
const (
	nodeReady    = 0  // complete, its parents do not know yet
	nodeComplete = -1 // complete
	nodeUnread   = -2 // held and linked to, but its links are not known yet
	nodeBroken   = -3 // does not decode with its codec: never complete
	nodeTelling  = -4 // its parents are being told
)

// nodeKey names a block as a node of a DAG. The codec is part of it because it
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

// keyOf is c without its version. It is asked for each block, so it takes the
// multihash out of the CID's own string, where [cid.Cid.Hash] makes a copy.
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

// freshNode is an inner node whose links were just read.
type freshNode struct {
	key      nodeKey
	links    []nodeKey
	children []int64 // of all links, as the table parents has them
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

// childOf is a multihash in the table parents: its last eight bytes.
func childOf(mh string) int64 {
	var p [8]byte
	copy(p[:], mh[max(len(mh)-len(p), 0):])
	return int64(binary.BigEndian.Uint64(p[:]))
}
