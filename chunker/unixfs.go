package chunker

import (
	"encoding/binary"
	"io/fs"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"
)

// Types of UnixFS nodes; see https://specs.ipfs.tech/unixfs/.
const (
	typeRaw       = 0
	typeDirectory = 1
	typeFile      = 2
	typeSymlink   = 4
	typeHAMTShard = 5
)

const digestSize = 32

// Prefixes of binary CIDs: everything before the digest.
const (
	prefixRaw = "\x01\x55\x12\x20" // version 1, raw, sha2-256, 32 bytes
	prefixV1  = "\x01\x70\x12\x20" // version 1, dag-pb
	prefixV0  = "\x12\x20"
)

// cidPrefix returns the CID prefix of a raw or dag-pb node.
func (p *Profile) cidPrefix(raw bool) string {
	switch {
	case raw:
		return prefixRaw
	case p.CidVersion == 0:
		return prefixV0
	default:
		return prefixV1
	}
}

// makeCID makes a CID from one of the prefixes above.
func makeCID(prefix string, digest []byte) cid.Cid {
	mh := make([]byte, 0, 2+digestSize)
	mh = append(mh, multihash.SHA2_256, digestSize)
	mh = append(mh, digest...)
	switch prefix {
	case prefixV0:
		return cid.NewCidV0(mh)
	case prefixRaw:
		return cid.NewCidV1(cid.Raw, mh)
	default:
		return cid.NewCidV1(cid.DagProtobuf, mh)
	}
}

// Stat is the metadata of a UnixFS node. As in Kubo, a zero mode or time is not
// stored.
type Stat struct {
	Mode    fs.FileMode // permissions, setuid, setgid and sticky bits; the type is ignored
	ModTime time.Time
}

func infoStat(info fs.FileInfo) Stat { return Stat{info.Mode(), info.ModTime()} }

// zero reports whether there is nothing to store.
func (s Stat) zero() bool { return unixPerm(s.Mode) == 0 && s.ModTime.IsZero() }

// append appends the fields of s to a UnixFS message.
func (s Stat) append(dst []byte) []byte {
	if perm := unixPerm(s.Mode); perm != 0 {
		dst = appendField(dst, 7, uint64(perm))
	}
	if s.ModTime.IsZero() {
		return dst
	}
	msg := appendField(make([]byte, 0, 16), 1, uint64(s.ModTime.Unix()))
	if nanos := uint32(s.ModTime.Nanosecond()); nanos > 0 {
		msg = append(msg, 2<<3|5, byte(nanos), byte(nanos>>8), byte(nanos>>16), byte(nanos>>24))
	}
	return appendBytes(dst, 8, string(msg))
}

// unixPerm converts a mode to the form of chmod(2).
func unixPerm(m fs.FileMode) uint16 {
	perm := uint16(m.Perm())
	if m&fs.ModeSetuid != 0 {
		perm |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		perm |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		perm |= 0o1000
	}
	return perm
}

// appendLink appends a link of a dag-pb node.
func appendLink(dst []byte, prefix string, digest []byte, hex, name string, tsize int64) []byte {
	dst = append(dst, 0x12)
	dst = binary.AppendUvarint(dst, uint64(linkBody(prefix, len(hex)+len(name), tsize)))
	dst = append(dst, 0x0a, byte(len(prefix)+digestSize))
	dst = append(dst, prefix...)
	dst = append(dst, digest...)
	dst = append(dst, 0x12)
	dst = binary.AppendUvarint(dst, uint64(len(hex)+len(name)))
	dst = append(dst, hex...)
	dst = append(dst, name...)
	return appendField(dst, 3, uint64(tsize))
}

// linkSize is the number of bytes that appendLink appends.
func linkSize(prefix string, name int, tsize int64) int {
	n := linkBody(prefix, name, tsize)
	return 1 + varint.UvarintSize(uint64(n)) + n
}

func linkBody(prefix string, name int, tsize int64) int {
	return 2 + len(prefix) + digestSize + 1 + varint.UvarintSize(uint64(name)) + name + 1 + varint.UvarintSize(uint64(tsize))
}

// appendField appends a varint field of a protobuf message.
func appendField(dst []byte, field byte, v uint64) []byte {
	return binary.AppendUvarint(append(dst, field<<3), v)
}

// appendBytes appends a bytes field to a protobuf message.
func appendBytes(dst []byte, field byte, p string) []byte {
	dst = binary.AppendUvarint(append(dst, field<<3|2), uint64(len(p)))
	return append(dst, p...)
}
