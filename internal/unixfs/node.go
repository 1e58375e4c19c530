// Package unixfs decodes the nodes of UnixFS DAGs, and computes the sizes of
// files whose nodes don't state them. Client and service share it, so a file
// has the same bytes wherever it is read.
//
// Nothing that a node says is trusted beyond what its block supports: sizes
// that contradict each other are errors. Sizes that are missing, or don't match
// the links in number, are not errors. Old writers left them out; the content
// is then what the links lead to. See [Sizer].
package unixfs

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"
	"time"

	"github.com/spaolacci/murmur3"

	"github.com/carload/carload/internal/links"
)

// Type is the type of a UnixFS node.
type Type int

// The types of nodes, with their numbers in UnixFS.
const (
	Raw       Type = 0 // part of a file
	Directory Type = 1
	File      Type = 2
	Metadata  Type = 3
	Symlink   Type = 4
	Shard     Type = 5 // part of a directory
)

// String returns the type's name, as listings show it.
func (t Type) String() string {
	switch t {
	case Raw, File:
		return "file"
	case Directory, Shard:
		return "dir"
	case Symlink:
		return "symlink"
	}
	return fmt.Sprintf("type %d", int(t))
}

// ErrInvalid is wrapped by errors about a DAG that is not valid UnixFS.
var ErrInvalid = errors.New("not valid UnixFS")

// ErrForeign is wrapped by errors about a block that is not UnixFS at all. Such
// a block may still be sound. ErrForeign matches [ErrInvalid].
var ErrForeign = fmt.Errorf("%w: the block is of another kind", ErrInvalid)

// MaxFileDepth is the most levels of nodes that a file can have.
const MaxFileDepth = links.MaxDepth

// Invalid makes an error that wraps [ErrInvalid].
func Invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// Node is a decoded block of a UnixFS DAG. Data and the names of links are
// slices of the block.
type Node struct {
	Type  Type
	Data  []byte
	Links []links.PBLink

	// Size is the size of a file's content, and Sizes those of the content
	// under each link. Both are unknown if Sized is false: see [Sizer].
	Size  uint64
	Sizes []uint64
	Sized bool

	Fanout  uint64 // of a Shard
	Mode    uint32
	HasMode bool
	Mtime   time.Time // zero if there is none

	claimed uint64 // the size that the node states, if claims is true
	claims  bool
}

// IsFile reports whether the node stands for bytes of a file.
func (n *Node) IsFile() bool { return n.Type == File || n.Type == Raw }

// Decode decodes a block. A raw block is a file without links. If UnixFS has no
// nodes in this codec, the error matches [ErrForeign].
func Decode(codec uint64, block []byte) (*Node, error) {
	switch codec {
	case links.Raw:
		return &Node{Type: File, Data: block, Size: uint64(len(block)), Sized: true}, nil
	case links.DagPB:
		return decode(block)
	}
	return nil, fmt.Errorf("%w: codec 0x%x", ErrForeign, codec)
}

func decode(block []byte) (*Node, error) {
	n := &Node{}
	pb, err := links.DecodePB(block, func(l links.PBLink) error {
		n.Links = append(n.Links, l)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if !pb.HasData {
		return nil, Invalid("a node without data")
	}
	if err := n.message(pb.Data); err != nil {
		return nil, err
	}
	return n, nil
}

// message decodes the UnixFS part of a node.
func (n *Node) message(p []byte) error {
	var seen [9]bool
	var hash, size uint64
	for d := (links.Proto{Rest: p}); len(d.Rest) > 0; {
		f, err := d.Next()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if f.Number >= len(seen) {
			continue // not ours to interpret
		}
		if seen[f.Number] && f.Number != 4 {
			return Invalid("field %d comes twice", f.Number)
		}
		seen[f.Number] = true
		packed := f.Number == 4 && f.Wire == links.WireBytes
		isBytes := f.Number == 2 || f.Number == 8 || packed
		if isBytes != (f.Wire == links.WireBytes) || !isBytes && f.Wire != links.WireVarint {
			return Invalid("field %d of wire type %d", f.Number, f.Wire)
		}
		switch f.Number {
		case 1:
			n.Type = Type(min(f.Uint, math.MaxInt32))
		case 2:
			n.Data = f.Bytes
		case 3:
			size = f.Uint
		case 4:
			if err := n.blockSize(f, packed); err != nil {
				return err
			}
		case 5:
			hash = f.Uint
		case 6:
			n.Fanout = f.Uint
		case 7:
			n.Mode, n.HasMode = uint32(f.Uint), true
		case 8:
			if n.Mtime, err = decodeTime(f.Bytes); err != nil {
				return err
			}
		}
	}
	if !seen[1] {
		return Invalid("a node without a type")
	}
	switch n.Type {
	case Raw, File:
		return n.checkFile(size, seen[3])
	case Shard:
		if hash != murmur3x64 {
			return Invalid("a directory shard of hash function 0x%x", hash)
		}
		return n.checkShard()
	case Directory, Symlink:
		if n.Type == Symlink && len(n.Links) > 0 {
			return Invalid("a symlink with links")
		}
		return nil
	}
	return Invalid("a node of type %d", n.Type)
}

func (n *Node) blockSize(f links.Field, packed bool) error {
	if !packed {
		n.Sizes = append(n.Sizes, f.Uint)
		return nil
	}
	for d := (links.Proto{Rest: f.Bytes}); len(d.Rest) > 0; {
		v, err := d.Uvarint()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		n.Sizes = append(n.Sizes, v)
	}
	return nil
}

// checkFile checks that the sizes a file's node states agree, provided that
// they match its links in number.
func (n *Node) checkFile(size uint64, hasSize bool) error {
	n.claimed, n.claims = size, hasSize
	if len(n.Sizes) != len(n.Links) {
		n.Sizes = nil
		return nil
	}
	return n.sum()
}

// sum computes the size of a file's content from those of its parts.
func (n *Node) sum() error {
	sum, over := uint64(len(n.Data)), uint64(0)
	for _, s := range n.Sizes {
		var carry uint64
		sum, carry = bits.Add64(sum, s, 0)
		over |= carry
	}
	if over != 0 || sum > math.MaxInt64 {
		return Invalid("block sizes add up to more than a file can have")
	}
	if n.claims && n.claimed != sum {
		return Invalid("a file size of %d, but the parts add up to %d", n.claimed, sum)
	}
	n.Size, n.Sized = sum, true
	return nil
}

// decodeTime decodes an mtime: seconds, and nanoseconds as a fixed 32-bit
// number.
func decodeTime(p []byte) (time.Time, error) {
	var secs, nanos uint64
	for d := (links.Proto{Rest: p}); len(d.Rest) > 0; {
		f, err := d.Next()
		switch {
		case err != nil:
			return time.Time{}, fmt.Errorf("%w: %w", ErrInvalid, err)
		case f.Number == 1 && f.Wire == links.WireVarint:
			secs = f.Uint
		case f.Number == 2 && f.Wire == links.WireFixed32:
			nanos = f.Uint
		case f.Number <= 2:
			return time.Time{}, Invalid("field %d of a time of wire type %d", f.Number, f.Wire)
		}
	}
	if nanos >= 1e9 {
		return time.Time{}, Invalid("a time of %d nanoseconds", nanos)
	}
	return time.Unix(int64(secs), int64(nanos)), nil
}

// murmur3x64 is the multicodec of the hash function of directory shards.
const murmur3x64 = 0x22

// checkShard checks the bitmap of a directory shard against its links.
func (n *Node) checkShard() error {
	if bits.OnesCount64(n.Fanout) != 1 || n.Fanout < 8 || n.Fanout > 1024 {
		return Invalid("a directory shard with a fan-out of %d", n.Fanout)
	}
	if len(n.Data) > int(n.Fanout)/8 {
		return Invalid("a directory shard with a bitmap of %d bytes", len(n.Data))
	}
	set := 0
	for _, b := range n.Data {
		set += bits.OnesCount8(b)
	}
	if set != len(n.Links) {
		return Invalid("a directory shard with %d links and %d bits in its bitmap", len(n.Links), set)
	}
	digits := n.PrefixLen()
	last := -1
	for _, l := range n.Links {
		if len(l.Name) < digits {
			return Invalid("a link name %q in a directory shard", l.Name)
		}
		bucket, err := ParseBucket(l.Name[:digits])
		if err != nil || bucket <= last || !n.bucketUsed(bucket) {
			return Invalid("a link name %q out of place in a directory shard", l.Name)
		}
		last = bucket
	}
	return nil
}

// PrefixLen is the number of hex digits that name the bucket in link names.
func (n *Node) PrefixLen() int { return len(fmt.Sprintf("%X", n.Fanout-1)) }

// ParseBucket reads the bucket number at the start of a directory shard's link
// name.
func ParseBucket(p []byte) (int, error) {
	s := string(p)
	if len(s)%2 == 1 {
		s = "0" + s
	}
	if strings.ToUpper(s) != s {
		return 0, errors.New("lower case")
	}
	b, err := hex.DecodeString(s)
	if err != nil {
		return 0, err
	}
	v := 0
	for _, d := range b {
		v = v<<8 | int(d)
	}
	return v, nil
}

// bucketUsed reports whether the bitmap has the bucket. Bucket 0 is the lowest
// bit of the last byte.
func (n *Node) bucketUsed(bucket int) bool {
	at := len(n.Data) - 1 - bucket/8
	return at >= 0 && n.Data[at]>>(bucket%8)&1 == 1
}

// NameHash is the hash that decides where a name is in a sharded directory. Its
// bits are used from the highest down.
func NameHash(name []byte) uint64 { return murmur3.Sum64(name) }
