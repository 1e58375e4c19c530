// Package car is the archive format, and the ground that the rest of carload
// stands on: what a block is, how many bytes it takes in an archive, and how
// an archive is written and read.
//
// A [Block] says where its bytes are: in memory, or in a range of a [Source].
// An [Archive] is a recipe: a root and a [List] of blocks. Its length is known
// before its first byte, and [Packer.Open] regenerates its bytes as often as
// they are needed, hashing each block again just before it leaves. Nothing is
// ever sent whose bytes are not those of its CID.
//
// A [Reader] is the other direction. It takes CARv1 and CARv2 from anyone,
// checks every block, and is strict: what it accepts, others can read.
//
// The format is that of https://ipld.io/specs/transport/car/carv1/.
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

// MaxBlockBytes is the largest block that services and peers take (2 MiB).
const MaxBlockBytes = 2 << 20

var (
	// ErrSourceChanged is wrapped by every error that reports a source whose
	// bytes are no longer those that were described. See [SourceChangedError].
	ErrSourceChanged = errors.New("source changed")

	// ErrCorrupt is wrapped by errors that report bytes which do not match
	// their CID although no source could have changed.
	ErrCorrupt = errors.New("block does not match its CID")

	// ErrTooDeep is wrapped by errors that report a DAG which has more links
	// between its root and some block than could be followed back.
	ErrTooDeep = errors.New("the DAG is too deep to be given back")

	// ErrMalformed is wrapped by errors that report an archive which breaks
	// the format.
	ErrMalformed = errors.New("malformed CAR")
)

// SourceChangedError names the source that changed between being described
// and being read again, and where. It matches [ErrSourceChanged].
type SourceChangedError struct {
	Name   string // the source's name
	Offset int64  // first byte of the range found to differ
	Reason string // what was seen
}

func (e *SourceChangedError) Error() string {
	return fmt.Sprintf("source %s changed at offset %d: %s", strconv.Quote(e.Name), e.Offset, e.Reason)
}

// Is reports whether target is [ErrSourceChanged].
func (e *SourceChangedError) Is(target error) bool { return target == ErrSourceChanged }

// HeaderSize is the number of bytes the header of an archive with this one
// root takes, its length prefix included: 59 for a CIDv1 of a SHA-256 digest,
// 57 for a CIDv0.
func HeaderSize(root cid.Cid) int64 { return int64(len(AppendHeader(nil, root))) }

// AppendHeader appends the header section of an archive with one root.
func AppendHeader(dst []byte, root cid.Cid) []byte {
	body := []byte("\xa2\x65roots\x81\xd8\x2a")
	body = appendByteStringHead(body, 1+root.ByteLen())
	body = append(body, 0) // the multibase prefix that DAG-CBOR asks for
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

// SectionSize is the number of bytes a block of n payload bytes takes in an
// archive: length prefix, CID and payload.
func SectionSize(c cid.Cid, n int) int64 {
	body := c.ByteLen() + n
	return int64(varint.UvarintSize(uint64(body)) + body)
}

// CID is the CID of a CAR file whose bytes have this SHA-256 digest.
func CID(digest [32]byte) cid.Cid {
	mh, err := multihash.Encode(digest[:], multihash.SHA2_256)
	if err != nil {
		panic(err) // a 32-byte digest always encodes
	}
	return cid.NewCidV1(Codec, mh)
}
