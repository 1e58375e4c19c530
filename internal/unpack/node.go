package unpack

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

// Type is what a node of a UnixFS DAG is.
type Type int

// Types of nodes, by their numbers in UnixFS.
const (
	Raw       Type = 0 // part of a file
	Directory Type = 1
	File      Type = 2
	Metadata  Type = 3
	Symlink   Type = 4
	Shard     Type = 5 // of a directory
)

// String is the name of the type in listings.
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

// ErrInvalid is wrapped by errors that report a DAG which is not proper
// UnixFS.
var ErrInvalid = errors.New("not proper UnixFS")

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// node is a decoded block of a UnixFS DAG. Only data and names are part of the
// block it was decoded from.
type node struct {
	typ     Type
	data    []byte
	size    uint64   // of the content: what the node says, checked against its parts
	sizes   []uint64 // of the content under each link
	fanout  uint64
	mode    uint32
	hasMode bool
	mtime   time.Time // zero if there is none
	links   []links.PBLink
}

// decode decodes a DAG-PB block.
func decode(block []byte) (*node, error) {
	n := &node{}
	pb, err := links.DecodePB(block, func(l links.PBLink) error {
		n.links = append(n.links, l)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if !pb.HasData {
		return nil, invalid("a node without data")
	}
	if err := n.message(pb.Data); err != nil {
		return nil, err
	}
	return n, nil
}

// message decodes the UnixFS part of a node.
func (n *node) message(p []byte) error {
	var seen [9]bool
	var hash, size uint64
	for d := (links.Proto{Rest: p}); len(d.Rest) > 0; {
		f, err := d.Next()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if f.Number >= len(seen) {
			continue // left to those who know it
		}
		if seen[f.Number] && f.Number != 4 {
			return invalid("field %d comes twice", f.Number)
		}
		seen[f.Number] = true
		packed := f.Number == 4 && f.Wire == links.WireBytes
		isBytes := f.Number == 2 || f.Number == 8 || packed
		if isBytes != (f.Wire == links.WireBytes) || !isBytes && f.Wire != links.WireVarint {
			return invalid("field %d of wire type %d", f.Number, f.Wire)
		}
		switch f.Number {
		case 1:
			n.typ = Type(min(f.Uint, math.MaxInt32))
		case 2:
			n.data = f.Bytes
		case 3:
			size = f.Uint
		case 4:
			if err := n.blockSize(f, packed); err != nil {
				return err
			}
		case 5:
			hash = f.Uint
		case 6:
			n.fanout = f.Uint
		case 7:
			n.mode, n.hasMode = uint32(f.Uint), true
		case 8:
			if n.mtime, err = decodeTime(f.Bytes); err != nil {
				return err
			}
		}
	}
	if !seen[1] {
		return invalid("a node without a type")
	}
	switch n.typ {
	case Raw, File:
		return n.checkFile(size, seen[3])
	case Shard:
		if hash != murmur3x64 {
			return invalid("a directory shard of hash function 0x%x", hash)
		}
		return n.checkShard()
	case Directory, Symlink:
		if n.typ == Symlink && len(n.links) > 0 {
			return invalid("a symlink with links")
		}
		return nil
	}
	return invalid("a node of type %d", n.typ)
}

func (n *node) blockSize(f links.Field, packed bool) error {
	if !packed {
		n.sizes = append(n.sizes, f.Uint)
		return nil
	}
	for d := (links.Proto{Rest: f.Bytes}); len(d.Rest) > 0; {
		v, err := d.Uvarint()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		n.sizes = append(n.sizes, v)
	}
	return nil
}

// checkFile compares the sizes that a file's node claims with one another.
func (n *node) checkFile(size uint64, hasSize bool) error {
	if len(n.sizes) != len(n.links) {
		return invalid("%d block sizes for %d links", len(n.sizes), len(n.links))
	}
	sum, over := uint64(len(n.data)), uint64(0)
	for _, s := range n.sizes {
		var carry uint64
		sum, carry = bits.Add64(sum, s, 0)
		over |= carry
	}
	if over != 0 || sum > math.MaxInt64 {
		return invalid("block sizes add up to more than a file can have")
	}
	if hasSize && size != sum {
		return invalid("a file size of %d, but the parts add up to %d", size, sum)
	}
	n.size = sum
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
			return time.Time{}, invalid("field %d of a time of wire type %d", f.Number, f.Wire)
		}
	}
	if nanos >= 1e9 {
		return time.Time{}, invalid("a time of %d nanoseconds", nanos)
	}
	return time.Unix(int64(secs), int64(nanos)), nil
}

// murmur3x64 is the multicodec of the hash function of directory shards.
const murmur3x64 = 0x22

// checkShard compares the bitmap of a directory shard with its links.
func (n *node) checkShard() error {
	if bits.OnesCount64(n.fanout) != 1 || n.fanout < 8 || n.fanout > 1024 {
		return invalid("a directory shard with a fan-out of %d", n.fanout)
	}
	if len(n.data) > int(n.fanout)/8 {
		return invalid("a directory shard with a bitmap of %d bytes", len(n.data))
	}
	set := 0
	for _, b := range n.data {
		set += bits.OnesCount8(b)
	}
	if set != len(n.links) {
		return invalid("a directory shard with %d links and %d bits in its bitmap", len(n.links), set)
	}
	digits := n.prefixLen()
	last := -1
	for _, l := range n.links {
		if len(l.Name) < digits {
			return invalid("a link name %q in a directory shard", l.Name)
		}
		bucket, err := parseBucket(l.Name[:digits])
		if err != nil || bucket <= last || !n.bucketUsed(bucket) {
			return invalid("a link name %q out of place in a directory shard", l.Name)
		}
		last = bucket
	}
	return nil
}

// prefixLen is the number of digits of a bucket in link names.
func (n *node) prefixLen() int { return len(fmt.Sprintf("%X", n.fanout-1)) }

func parseBucket(p []byte) (int, error) {
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

// bucketUsed looks into the bitmap. Bucket 0 is the lowest bit of its last byte.
func (n *node) bucketUsed(bucket int) bool {
	at := len(n.data) - 1 - bucket/8
	return at >= 0 && n.data[at]>>(bucket%8)&1 == 1
}

// nameHash is the hash that decides where in a sharded directory a name is. Its
// bits are used from the highest on.
func nameHash(name []byte) uint64 { return murmur3.Sum64(name) }
