package service

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

const (
	codecRaw     = 0x55
	codecDagPB   = 0x70
	codecDagCBOR = 0x71
	codecDagJSON = 0x0129
)

// hasLinks tells the codecs whose blocks are looked into. Blocks of all others
// are leaves.
func hasLinks(codec uint64) bool {
	return codec == codecDagPB || codec == codecDagCBOR || codec == codecDagJSON
}

// nodeKey names a block as a node of a DAG. The codec is part of it because it
// decides what the block links to.
type nodeKey struct {
	mh    string // binary multihash
	codec uint64
}

func keyOf(c cid.Cid) nodeKey { return nodeKey{string(c.Hash()), c.Prefix().Codec} }

func (k nodeKey) cid() cid.Cid { return cid.NewCidV1(k.codec, multihash.Multihash(k.mh)) }

func (k nodeKey) identity() ([]byte, bool) {
	d, err := multihash.Decode([]byte(k.mh))
	if err != nil || d.Code != multihash.IDENTITY {
		return nil, false
	}
	return d.Digest, true
}

var errNotADAGBlock = errors.New("block does not decode with its codec")

// maxInlineDepth bounds how deep blocks may be carried within CIDs.
const maxInlineDepth = 32

// links returns the distinct blocks that a block needs besides itself. Blocks
// carried within a CID are held by whoever holds the CID: instead of them come
// the blocks they link to.
func links(codec uint64, data []byte) ([]nodeKey, error) {
	seen := make(map[nodeKey]struct{})
	var out []nodeKey
	var visit func(codec uint64, data []byte, depth int) error
	visit = func(codec uint64, data []byte, depth int) error {
		if depth > maxInlineDepth {
			return fmt.Errorf("%w: blocks within CIDs nested too deep", errNotADAGBlock)
		}
		return eachLink(codec, data, func(c cid.Cid, _ uint64) error {
			k := keyOf(c)
			if inline, ok := k.identity(); ok {
				if hasLinks(k.codec) {
					return visit(k.codec, inline, depth+1)
				}
				return nil
			}
			if _, ok := seen[k]; !ok {
				seen[k] = struct{}{}
				out = append(out, k)
			}
			return nil
		})
	}
	if err := visit(codec, data, 0); err != nil {
		return nil, err
	}
	return out, nil
}

// eachLink calls f for each link of a block in the order of the block, with the
// Tsize of DAG-PB and zero otherwise.
func eachLink(codec uint64, data []byte, f func(c cid.Cid, tsize uint64) error) error {
	switch codec {
	case codecDagPB:
		return eachPBLink(data, f)
	case codecDagCBOR:
		return eachCBORLink(data, f)
	case codecDagJSON:
		return eachJSONLink(data, f)
	}
	return nil
}

// eachPBLink decodes DAG-PB as its specification says: Links are field 2, Data
// is field 1 and comes at most once; a link has Hash, Name, Tsize in that order.
func eachPBLink(p []byte, f func(c cid.Cid, tsize uint64) error) error {
	haveData, linksDone, haveLinks := false, false, false
	for len(p) > 0 {
		field, value, _, rest, err := pbField(p)
		if err != nil {
			return err
		}
		p = rest
		switch {
		case field == 1 && !haveData:
			haveData = true
			linksDone = haveLinks
		case field == 2 && !linksDone:
			haveLinks = true
			c, tsize, err := pbLink(value)
			if err != nil {
				return err
			}
			if err := f(c, tsize); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%w: DAG-PB field %d out of place", errNotADAGBlock, field)
		}
	}
	return nil
}

func pbLink(p []byte) (c cid.Cid, tsize uint64, err error) {
	last := uint64(0)
	for len(p) > 0 {
		field, value, number, rest, err := pbField(p)
		if err != nil {
			return cid.Undef, 0, err
		}
		if field <= last || field > 3 || (field == 3) != (value == nil) {
			return cid.Undef, 0, fmt.Errorf("%w: field %d of a DAG-PB link out of place", errNotADAGBlock, field)
		}
		last, p = field, rest
		switch field {
		case 1:
			if c, err = cid.Cast(value); err != nil {
				return cid.Undef, 0, fmt.Errorf("%w: CID of a DAG-PB link: %w", errNotADAGBlock, err)
			}
		case 3:
			tsize = number
		}
	}
	if !c.Defined() {
		return cid.Undef, 0, fmt.Errorf("%w: a DAG-PB link without Hash", errNotADAGBlock)
	}
	return c, tsize, nil
}

// pbField splits the first field off p. Of the wire types DAG-PB has two:
// bytes, whose value is never nil, and varints.
func pbField(p []byte) (field uint64, value []byte, number uint64, rest []byte, err error) {
	tag, n := binary.Uvarint(p)
	if n <= 0 {
		return 0, nil, 0, nil, fmt.Errorf("%w: DAG-PB is cut", errNotADAGBlock)
	}
	p = p[n:]
	v, n := binary.Uvarint(p)
	if n <= 0 {
		return 0, nil, 0, nil, fmt.Errorf("%w: DAG-PB is cut", errNotADAGBlock)
	}
	p = p[n:]
	switch tag & 7 {
	case 0:
		return tag >> 3, nil, v, p, nil
	case 2:
		if v > uint64(len(p)) {
			return 0, nil, 0, nil, fmt.Errorf("%w: DAG-PB is cut", errNotADAGBlock)
		}
		return tag >> 3, p[:v:v], 0, p[v:], nil
	}
	return 0, nil, 0, nil, fmt.Errorf("%w: DAG-PB has wire type %d", errNotADAGBlock, tag&7)
}

const maxCBORDepth = 4096

// eachCBORLink walks one DAG-CBOR item without building it.
func eachCBORLink(p []byte, f func(c cid.Cid, tsize uint64) error) error {
	bad := func(what string) error { return fmt.Errorf("%w: DAG-CBOR %s", errNotADAGBlock, what) }
	const tagCID = 42
	type open struct {
		left  uint64 // items to come
		isMap bool   // of which every other one is a key
	}
	stack := []open{{left: 1}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.left == 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		isKey := top.isMap && top.left%2 == 0
		top.left--
		if len(p) == 0 {
			return bad("is cut")
		}
		major, info := p[0]>>5, p[0]&31
		p = p[1:]
		arg := uint64(info)
		if info >= 24 {
			if info > 27 {
				return bad("has an item of indefinite length")
			}
			n := 1 << (info - 24)
			if len(p) < n {
				return bad("is cut")
			}
			arg = 0
			for _, b := range p[:n] {
				arg = arg<<8 | uint64(b)
			}
			p = p[n:]
			if major != 7 && (n == 1 && arg < 24 || n > 1 && arg>>(4*n) == 0) {
				return bad("has a number that is not minimal")
			}
		}
		if isKey && major != 3 {
			return bad("has a key that is not a string")
		}
		switch major {
		case 0, 1:
		case 2, 3:
			if arg > uint64(len(p)) {
				return bad("is cut")
			}
			p = p[arg:]
		case 4, 5:
			if arg > uint64(len(p)) { // each item takes a byte or more
				return bad("is cut")
			}
			if len(stack) > maxCBORDepth {
				return bad("is nested too deep")
			}
			if major == 5 {
				stack = append(stack, open{left: 2 * arg, isMap: true})
			} else {
				stack = append(stack, open{left: arg})
			}
		case 6:
			c, rest, err := cborCID(arg == tagCID, p)
			if err != nil {
				return err
			}
			p = rest
			if err := f(c, 0); err != nil {
				return err
			}
		case 7:
			simple := info == 20 || info == 21 || info == 22
			float := info >= 25 && info <= 27
			if !simple && !float {
				return bad("has a simple value it may not have")
			}
		}
	}
	if len(p) > 0 {
		return bad("has bytes after its end")
	}
	return nil
}

// cborCID decodes what follows a tag: a byte string of a zero and a CID.
func cborCID(tagged bool, p []byte) (cid.Cid, []byte, error) {
	bad := fmt.Errorf("%w: DAG-CBOR has a tag that is no CID", errNotADAGBlock)
	if !tagged || len(p) == 0 || p[0]>>5 != 2 {
		return cid.Undef, nil, bad
	}
	size, n := uint64(p[0]&31), 0
	if size >= 24 {
		if size > 26 {
			return cid.Undef, nil, bad
		}
		n = 1 << (size - 24)
		if len(p) < 1+n {
			return cid.Undef, nil, bad
		}
		size = 0
		for _, b := range p[1 : 1+n] {
			size = size<<8 | uint64(b)
		}
	}
	p = p[1+n:]
	if size == 0 || size > uint64(len(p)) || p[0] != 0 {
		return cid.Undef, nil, bad
	}
	c, err := cid.Cast(p[1:size])
	if err != nil {
		return cid.Undef, nil, bad
	}
	return c, p[size:], nil
}

// eachJSONLink finds the objects {"/": "<CID>"} of a DAG-JSON block.
func eachJSONLink(p []byte, f func(c cid.Cid, tsize uint64) error) error {
	dec := json.NewDecoder(bytes.NewReader(p))
	bad := func(err error) error { return fmt.Errorf("%w: DAG-JSON: %w", errNotADAGBlock, err) }
	// A frame is an open array or object; an object that has had the key "/"
	// with a string, and nothing else, is a link.
	type frame struct {
		object, slash bool
		keys          int
		key           string
		wantValue     bool
	}
	var stack []frame
	var link string
	done := false
	for {
		t, err := dec.Token()
		if errors.Is(err, io.EOF) {
			if !done {
				return bad(io.ErrUnexpectedEOF)
			}
			return nil
		}
		if err != nil {
			return bad(err)
		}
		if done {
			return bad(errors.New("bytes after the end"))
		}
		if len(stack) > maxCBORDepth {
			return bad(errors.New("nested too deep"))
		}
		var top *frame
		if len(stack) > 0 {
			top = &stack[len(stack)-1]
		}
		if top != nil && top.object && !top.wantValue {
			if s, ok := t.(string); ok {
				top.key, top.wantValue = s, true
				top.keys++
				continue
			}
		} else if top != nil {
			top.wantValue = false
		}
		switch t := t.(type) {
		case json.Delim:
			switch t {
			case '{':
				stack = append(stack, frame{object: true})
			case '[':
				stack = append(stack, frame{})
			default:
				if top.slash && top.keys == 1 {
					c, err := cid.Decode(link)
					if err != nil {
						return bad(err)
					}
					if err := f(c, 0); err != nil {
						return err
					}
				}
				stack = stack[:len(stack)-1]
			}
		case string:
			if top != nil && top.object && top.key == "/" {
				top.slash, link = true, t
			}
		}
		done = len(stack) == 0
	}
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
	codec := c.Prefix().Codec
	switch codec {
	case codecRaw:
		facts.size = int64(len(data))
	case codecDagPB, codecDagCBOR:
		sum := uint64(len(data))
		facts.err = eachLink(codec, data, func(_ cid.Cid, tsize uint64) error {
			facts.links++
			if sum += tsize; sum < tsize || sum > math.MaxInt64 {
				sum = math.MaxInt64
			}
			return nil
		})
		if codec == codecDagPB && facts.err == nil {
			facts.size = int64(sum)
		}
	}
	return facts
}
