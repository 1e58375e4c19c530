package car

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"math"
	"strconv"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"

	"github.com/carload/carload/internal/links"
)

// Index finds blocks in archives. It holds no payload, takes about 60 bytes of
// memory a block, and hashes nothing: it trusts the CIDs in the archives, and
// blocks are checked when they are read. It finds blocks by multihash. If a
// block occurs several times, the first occurrence counts. Blocks contained in
// their own CID are left out.
//
// The zero value is an empty index. After the last [Index.Add], it is safe for
// concurrent use. It is a [List] of the blocks in the order in which they were
// added.
type Index struct {
	sources []Source
	kinds   kinds
	pages   []*[pageLen]record
	n       int
	table   []uint32           // 1 + number of a record, by the hash of its digest; 0 is a free slot
	seed    maphash.Seed       // of that hash; set with the table
	long    map[uint32]cid.Cid // CIDs of records whose digest is not 32 bytes long
}

// Contents describes an archive.
type Contents struct {
	Version    int // in the outermost header
	Roots      []cid.Cid
	Sections   int
	Duplicates int            // sections whose block was indexed before, from this archive or another
	Inline     int            // sections of blocks contained in their CID
	Codecs     map[uint64]int // number of sections by codec of the CID
	Payload    int64          // bytes of all blocks, duplicates included
	Size       int64          // bytes of the CARv1
	Padding    int64          // zero bytes at the end of the CARv1
}

// record says where a block is. There may be millions, so it is kept small.
type record struct {
	digest [32]byte // or the SHA-256 of the multihash, if its digest is not 32 bytes long
	offset int64    // of the payload in the source
	length uint32
	source uint16
	kind   uint16 // leafFlag is set if the block has no links
}

const (
	pageLen  = 1 << 12
	leafFlag = 1 << 15
)

// kind is the part of a CID that many share: everything but the digest.
type kind struct {
	cidPrefix string
	mhPrefix  string // empty if the digest is not 32 bytes long
	codec     uint64
}

// kinds numbers kinds. An archive has only a few, unless it is crafted.
type kinds struct {
	list   []kind
	number map[string]uint16
}

func (k *kinds) add(cidPrefix []byte, versionLen int, codec uint64, long bool) (uint16, error) {
	if n, ok := k.number[string(cidPrefix)]; ok {
		return n, nil
	}
	if len(k.list) == 1<<12 {
		return 0, malformed("more than %d kinds of CIDs", len(k.list))
	}
	kd := kind{cidPrefix: string(cidPrefix), codec: codec}
	if !long {
		kd.mhPrefix = string(cidPrefix[versionLen:])
	}
	if k.number == nil {
		k.number = make(map[string]uint16)
	}
	n := uint16(len(k.list))
	k.list = append(k.list, kd)
	k.number[kd.cidPrefix] = n
	return n, nil
}

// intern returns the number of the kind of c, and its digest as stored in a
// record.
func (k *kinds) intern(c cid.Cid) (uint16, [32]byte, error) {
	key := c.KeyString()
	mh := c.Hash()
	versionLen := len(key) - len(mh)
	mhPrefix, digest, err := splitMultihash(mh)
	if err != nil {
		return 0, digest, err
	}
	n, err := k.add([]byte(key[:versionLen+len(mhPrefix)]), versionLen, c.Prefix().Codec, len(mh)-len(mhPrefix) != 32)
	return n, digest, err
}

// splitMultihash returns what comes before the digest, and the digest as stored
// in a record.
func splitMultihash(mh multihash.Multihash) (prefix []byte, digest [32]byte, err error) {
	if len(mh) == 34 && mh[0] == multihash.SHA2_256 && mh[1] == 32 {
		return mh[:2], [32]byte(mh[2:]), nil
	}
	dec, err := multihash.Decode(mh)
	if err != nil {
		return nil, digest, err
	}
	prefix = mh[:len(mh)-len(dec.Digest)]
	if len(dec.Digest) == 32 {
		return prefix, [32]byte(dec.Digest), nil
	}
	return prefix, sha256.Sum256(mh), nil
}

// Len is the number of distinct blocks.
func (x *Index) Len() int { return x.n }

// At returns block i, in the order of [Index.Add].
func (x *Index) At(i int) Block {
	r := x.record(uint32(i))
	c, ok := x.long[uint32(i)]
	if !ok {
		c = x.kinds.list[r.kind&^leafFlag].cid(&r.digest)
	}
	return x.block(r, c)
}

// Size is the number of payload bytes of block i.
func (x *Index) Size(i int) int { return int(x.record(uint32(i)).length) }

// Find returns the block of c. The block gets the CID c, whose version or codec
// may differ from the CID in the archive.
func (x *Index) Find(c cid.Cid) (Block, bool) {
	n, ok := x.find(c)
	if !ok {
		return Block{}, false
	}
	return x.block(x.record(n), c), true
}

func (x *Index) find(c cid.Cid) (uint32, bool) {
	if !c.Defined() || x.n == 0 {
		return 0, false
	}
	mh := c.Hash()
	prefix, digest, err := splitMultihash(mh)
	if err != nil {
		return 0, false
	}
	if len(mh)-len(prefix) != 32 {
		prefix = nil
	}
	slot, ok := x.slot(string(prefix), &digest)
	if !ok {
		return 0, false
	}
	return x.table[slot] - 1, true
}

func (x *Index) record(n uint32) *record { return &x.pages[n/pageLen][n%pageLen] }

func (x *Index) block(r *record, c cid.Cid) Block {
	return Block{Cid: c, Source: x.sources[r.source], Offset: r.offset, Length: int(r.length), Claimed: true}
}

func (k *kind) cid(digest *[32]byte) cid.Cid {
	b := make([]byte, 0, 64)
	b = append(append(b, k.cidPrefix...), digest[:]...)
	_, c, err := cid.CidFromBytes(b)
	if err != nil {
		panic(err) // it was parsed before
	}
	return c
}

// slot returns the slot of the table where the block is, or would go.
func (x *Index) slot(mhPrefix string, digest *[32]byte) (slot int, found bool) {
	// The digests come from the archive. Without a random seed, a crafted
	// archive could choose them to collide.
	mask := len(x.table) - 1
	for slot = int(maphash.Bytes(x.seed, digest[:])) & mask; x.table[slot] != 0; slot = (slot + 1) & mask {
		r := x.record(x.table[slot] - 1)
		if r.digest == *digest && x.kinds.list[r.kind&^leafFlag].mhPrefix == mhPrefix {
			return slot, true
		}
	}
	return slot, false
}

// insert adds a record unless there already is one with its multihash.
func (x *Index) insert(r record) (n uint32, added bool, err error) {
	if x.table == nil {
		x.seed = maphash.MakeSeed()
	}
	if 4*(x.n+1) > 3*len(x.table) {
		x.table = make([]uint32, max(64, 2*len(x.table)))
		for i := range x.n {
			r := x.record(uint32(i))
			slot, _ := x.slot(x.kinds.list[r.kind&^leafFlag].mhPrefix, &r.digest)
			x.table[slot] = uint32(i + 1)
		}
	}
	slot, found := x.slot(x.kinds.list[r.kind&^leafFlag].mhPrefix, &r.digest)
	if found {
		return x.table[slot] - 1, false, nil
	}
	if x.n == math.MaxInt32 {
		return 0, false, fmt.Errorf("an index takes %d blocks at most", x.n)
	}
	if x.n == len(x.pages)*pageLen {
		x.pages = append(x.pages, new([pageLen]record))
	}
	n = uint32(x.n)
	x.n++
	*x.record(n) = r
	x.table[slot] = n + 1
	return n, true, nil
}

// Add indexes an archive of version 1 or 2. It is as strict about the format as
// a [Reader], except that it accepts zeros after the last section. (A Reader
// may be reading from a stranger who never stops sending.) It skips the
// payloads of large blocks. Errors about the archive match [ErrMalformed].
// After an error the index must not be used.
func (x *Index) Add(ctx context.Context, src Source) (Contents, error) {
	c, err := x.add(ctx, src)
	if err != nil {
		return Contents{}, fmt.Errorf("index archive %s: %w", strconv.Quote(src.Name()), err)
	}
	return c, nil
}

func (x *Index) add(ctx context.Context, src Source) (Contents, error) {
	if len(x.sources) > math.MaxUint16 {
		return Contents{}, fmt.Errorf("an index takes %d archives at most", len(x.sources))
	}
	f, err := src.Open()
	if err != nil {
		return Contents{}, err
	}
	defer f.Close()
	header, err := NewReader(io.NewSectionReader(f, 0, src.Size()), ReaderOptions{})
	if err != nil {
		return Contents{}, err
	}
	end := src.Size() - header.base
	if header.payload >= 0 {
		if header.payload > end {
			return Contents{}, malformed("the file ends at byte %d, within the data of %d bytes at offset %d", src.Size(), header.payload, header.base)
		}
		end = header.payload
	}
	number := uint16(len(x.sources))
	x.sources = append(x.sources, src)
	s := scan{
		index:    x,
		source:   number,
		window:   window{r: f, base: header.base, end: end},
		contents: Contents{Version: header.Version, Roots: header.Roots, Codecs: map[uint64]int{}, Size: end},
	}
	for i, at := 0, header.offset; at < end; i++ {
		if i%1024 == 0 {
			if err := context.Cause(ctx); err != nil {
				return Contents{}, err
			}
		}
		if at, err = s.section(at); err != nil {
			return Contents{}, err
		}
	}
	return s.contents, nil
}

// scan indexes one archive.
type scan struct {
	index    *Index
	source   uint16
	window   window
	contents Contents
}

// section indexes the section at this offset of the CARv1 and returns the
// offset of the next one.
func (s *scan) section(at int64) (next int64, err error) {
	p, err := s.window.at(at)
	if err != nil {
		return 0, fmt.Errorf("read at offset %d: %w", at, err)
	}
	size, k, err := varint.FromUvarint(p)
	switch {
	case err != nil && len(p) < varint.MaxLenUvarint63:
		return 0, malformed("the file ends within the length of a section at offset %d", at)
	case err != nil:
		return 0, malformed("length of a section at offset %d: %v", at, err)
	case size == 0:
		return s.padding(at)
	case size > DefaultMaxSectionBytes:
		return 0, malformed("the section at offset %d claims %d bytes, the limit is %d", at, size, DefaultMaxSectionBytes)
	}
	next = at + int64(k) + int64(size)
	if next > s.window.end {
		return 0, malformed("the section at offset %d goes beyond the end of the data", at)
	}
	p = p[k:min(len(p), k+int(size))]
	var c cid.Cid
	cidLen, versionLen, codec := usualCID(p)
	if cidLen == 0 {
		if cidLen, c, err = parseCID(p); err != nil {
			return 0, malformed("CID of the section at offset %d: %v", at, err)
		}
		codec = c.Prefix().Codec
	}
	length := int(size) - cidLen
	s.contents.Sections++
	s.contents.Codecs[codec]++
	s.contents.Payload += int64(length)
	if c.Defined() && IsIdentity(c) {
		s.contents.Inline++
		return next, nil
	}
	r := record{offset: s.window.base + at + int64(k+cidLen), length: uint32(length), source: s.source}
	if c.Defined() {
		r.kind, r.digest, err = s.index.kinds.intern(c)
	} else {
		r.digest = [32]byte(p[cidLen-32 : cidLen])
		r.kind, err = s.index.kinds.add(p[:cidLen-32], versionLen, codec, false)
	}
	if err != nil {
		return 0, err
	}
	if !links.Possible(codec) || codec == links.DagPB && onlyData(p[cidLen:], length) {
		r.kind |= leafFlag
	}
	n, added, err := s.index.insert(r)
	switch {
	case err != nil:
		return 0, err
	case !added:
		s.contents.Duplicates++
	case s.index.kinds.list[r.kind&^leafFlag].mhPrefix == "":
		if s.index.long == nil {
			s.index.long = make(map[uint32]cid.Cid)
		}
		s.index.long[n] = c
	}
	return next, nil
}

// padding skips zeros up to the end. They follow an archive that was cut out of
// a Filecoin piece.
func (s *scan) padding(at int64) (end int64, err error) {
	r := io.NewSectionReader(s.window.r, s.window.base+at, s.window.end-at)
	buf := make([]byte, longWindow)
	for {
		n, err := io.ReadFull(r, buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return 0, malformed("the section at offset %d is empty, and not only zeros follow", at)
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			s.contents.Padding = s.window.end - at
			return s.window.end, nil
		case err != nil:
			return 0, fmt.Errorf("read at offset %d: %w", at, err)
		}
	}
}

// usualCID recognises the CIDs of nearly all blocks, SHA-256 with a one-byte
// codec, without allocating. For others it returns zeros.
func usualCID(p []byte) (length, versionLen int, codec uint64) {
	switch {
	case len(p) >= 34 && p[0] == multihash.SHA2_256 && p[1] == 32:
		return 34, 0, links.DagPB
	case len(p) >= 36 && p[0] == 1 && p[1] < 0x80 && p[2] == multihash.SHA2_256 && p[3] == 32:
		return 36, 2, uint64(p[1])
	}
	return 0, 0, 0
}

// onlyData reports whether a DAG-PB block of this length that begins with p
// consists of one Data field, and so has no links.
func onlyData(p []byte, length int) bool {
	if length == 0 {
		return true
	}
	if len(p) < 2 || p[0] != 1<<3|links.WireBytes {
		return false
	}
	n, k := binary.Uvarint(p[1:])
	return k > 0 && n == uint64(length-1-k)
}

// How much a window reads: at least enough for any length and CID, and more
// where sections are small.
const (
	maxCIDBytes = 2 << 10
	peekBytes   = maxCIDBytes + 64
	shortWindow = 4 << 10
	longWindow  = 256 << 10
)

// window is the part of a CARv1 that is in memory.
type window struct {
	r     io.ReaderAt
	base  int64 // of the CARv1 in r
	end   int64 // of the CARv1
	buf   []byte
	start int64 // of buf in the CARv1
	last  int64 // the previous offset asked for
}

// at returns the bytes at this offset: peekBytes, or fewer at the end.
func (w *window) at(off int64) ([]byte, error) {
	defer func() { w.last = off }()
	want := min(peekBytes, w.end-off)
	if off >= w.start && off+want <= w.start+int64(len(w.buf)) {
		return w.buf[off-w.start:][:want], nil
	}
	// The distance from the last offset shows how large sections are. Read
	// through small ones and jump over large ones.
	n := int64(longWindow)
	if off-w.last > longWindow/16 {
		n = shortWindow
	}
	n = min(n, w.end-off)
	if int64(cap(w.buf)) < n {
		w.buf = make([]byte, n)
	}
	w.buf, w.start = w.buf[:n], off
	if k, err := w.r.ReadAt(w.buf, w.base+off); k < len(w.buf) {
		w.buf = w.buf[:0]
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return w.buf[:want], nil
}
