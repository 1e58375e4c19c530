// Package car defines the archive format and the blocks that go into it. The
// rest of carload is built on it.
//
// A [Block] says where its bytes are: in memory, or in a range of a [Source].
// An [Archive] is a recipe for a CAR file: a root and a [List] of blocks. Its
// length is known before its first byte is read. [Packer.Open] generates the
// bytes, as often as needed, and hashes each block again just before handing it
// out, so no block leaves whose bytes do not match its CID.
//
// A [Reader] goes the other way. It reads CARv1 and CARv2 files from any
// origin, checks every block, and is strict: other implementations can read
// whatever it accepts. An [Index] finds the blocks of archives without reading
// their payloads, and a [DAG] is a complete DAG found in an Index.
//
// The format is specified at https://ipld.io/specs/transport/car/carv1/.
package car

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"
)

// Codec is the multicodec of a CAR file's own CID.
const Codec = 0x0202

// MaxBlockBytes is the largest block that services and peers accept: 2 MiB.
const MaxBlockBytes = 2 << 20

var (
	// ErrSourceChanged is wrapped by errors about a source whose bytes are no
	// longer the ones that were described. See [SourceChangedError].
	ErrSourceChanged = errors.New("source changed")

	// ErrCorrupt is wrapped by errors about bytes that do not match their CID
	// although no source could have changed.
	ErrCorrupt = errors.New("block does not match its CID")

	// ErrTooDeep is wrapped by errors about a DAG that has more links between
	// its root and some block than can be followed.
	ErrTooDeep = errors.New("the DAG is too deep to be retrieved")

	// ErrMalformed is wrapped by errors about an archive that violates the
	// format.
	ErrMalformed = errors.New("malformed CAR")
)

// SourceChangedError says which source changed after it was described, and
// where. It matches [ErrSourceChanged].
type SourceChangedError struct {
	Name   string // the source's name
	Offset int64  // first byte of the range found to differ
	Reason string // what differs
}

func (e *SourceChangedError) Error() string {
	return fmt.Sprintf("source %s changed at offset %d: %s", strconv.Quote(e.Name), e.Offset, e.Reason)
}

// Is reports whether target is [ErrSourceChanged].
func (e *SourceChangedError) Is(target error) bool { return target == ErrSourceChanged }

// HeaderSize is the number of bytes in the header of an archive with one root,
// including the length prefix: 59 for a CIDv1 with a SHA-256 digest, 57 for a
// CIDv0.
func HeaderSize(root cid.Cid) int64 { return int64(len(AppendHeader(nil, root))) }

// AppendHeader appends the header section of an archive with one root.
func AppendHeader(dst []byte, root cid.Cid) []byte {
	body := []byte("\xa2\x65roots\x81\xd8\x2a")
	body = appendByteStringHead(body, 1+root.ByteLen())
	body = append(body, 0) // the multibase prefix that DAG-CBOR requires
	body = append(body, root.KeyString()...)
	body = append(body, "\x67version\x01"...)
	dst = binary.AppendUvarint(dst, uint64(len(body)))
	return append(dst, body...)
}

// appendByteStringHead appends the head of a CBOR byte string of n bytes.
func appendByteStringHead(dst []byte, n int) []byte {
	switch {
	case n < 24:
		return append(dst, 0x40|byte(n))
	case n < 1<<8:
		return append(dst, 0x58, byte(n))
	default:
		return append(dst, 0x59, byte(n>>8), byte(n))
	}
}

// SectionSize is the number of bytes that a block with an n-byte payload takes
// in an archive: length prefix, CID and payload.
func SectionSize(c cid.Cid, n int) int64 {
	body := c.ByteLen() + n
	return int64(varint.UvarintSize(uint64(body)) + body)
}

// CID returns the CID of a CAR file whose bytes have this SHA-256 digest.
func CID(digest [32]byte) cid.Cid {
	mh, err := multihash.Encode(digest[:], multihash.SHA2_256)
	if err != nil {
		panic(err) // a 32-byte digest always encodes
	}
	return cid.NewCidV1(Codec, mh)
}
