package car

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	_ "github.com/multiformats/go-multihash/register/all" // archives from elsewhere may use any hash
	"github.com/multiformats/go-varint"
)

// Limits on what a [Reader] allocates because an archive claims a length.
const (
	DefaultMaxHeaderBytes  = 32 << 20
	DefaultMaxSectionBytes = 8 << 20
)

// ReaderOptions configure [NewReader]. The zero value suits untrusted archives.
type ReaderOptions struct {
	MaxHeaderBytes  int  // 0 means DefaultMaxHeaderBytes
	MaxSectionBytes int  // of CID and payload; 0 means DefaultMaxSectionBytes
	Trusted         bool // do not check payloads against CIDs
}

// Section is one block as it appears in an archive.
type Section struct {
	Cid    cid.Cid
	Data   []byte // the payload; a later call of Next overwrites it
	Offset int64  // of the section's length prefix within the CARv1
}

// Reader reads a CAR file of version 1 or 2 as a stream and checks each block
// against its CID. It rejects violations of the format: varints that are not
// minimal, empty sections, truncated sections, sections too short for their
// CID, and bytes after the end. It holds one batch of a few MiB. It does not
// close the underlying reader, and is not safe for concurrent use.
type Reader struct {
	// Roots are the roots listed in the header. There may be none.
	Roots []cid.Cid
	// Version is the version in the outermost header: 1 or 2.
	Version int

	src     source
	opts    ReaderOptions
	base    int64 // of the CARv1 in the stream
	payload int64 // bytes of the CARv1; -1 if it runs to the end of the stream
	offset  int64 // bytes of CARv1 consumed by parsing
	batch   batch
	headers []int64 // offset of each section of the batch
	at      int     // next section of the batch to hand out
	err     error   // what to report after the batch
}

// source is a buffered reader with the two methods that parsing needs.
type source struct {
	r    io.Reader
	buf  []byte
	i, j int
	err  error
}

// bufferBytes is the size of the buffer of a source, unless the whole archive
// is shorter.
const bufferBytes = 64 << 10

func (s *source) fill() error {
	if s.err != nil {
		return s.err
	}
	s.i, s.j = 0, 0
	for range 100 {
		n, err := s.r.Read(s.buf)
		s.j, s.err = n, err
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	s.err = io.ErrNoProgress
	return s.err
}

func (s *source) ReadByte() (byte, error) {
	if s.i == s.j {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	s.i++
	return s.buf[s.i-1], nil
}

// readFull fills p. If the stream ends first, it returns io.ErrUnexpectedEOF.
// What the buffer does not have is read straight into p.
func (s *source) readFull(p []byte) error {
	n := copy(p, s.buf[s.i:s.j])
	s.i += n
	if n == len(p) {
		return nil
	}
	if s.err != nil {
		return unexpected(s.err)
	}
	_, err := io.ReadFull(s.r, p[n:])
	return unexpected(err)
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// NewReader reads the header of an archive. Errors about the archive match
// [ErrMalformed]; errors from r do not.
func NewReader(r io.Reader, opts ReaderOptions) (*Reader, error) {
	if opts.MaxHeaderBytes == 0 {
		opts.MaxHeaderBytes = DefaultMaxHeaderBytes
	}
	if opts.MaxSectionBytes == 0 {
		opts.MaxSectionBytes = DefaultMaxSectionBytes
	}
	rd := &Reader{opts: opts}
	if err := rd.Reset(r); err != nil {
		return nil, err
	}
	return rd, nil
}

// Reset makes r read another archive with the same options, as [NewReader]
// does, and keeps its buffers. It can be called again after an error.
func (r *Reader) Reset(src io.Reader) error {
	n := bufferBytes
	if l, ok := src.(interface{ Len() int }); ok { // in memory
		n = max(1, min(n, l.Len()+1))
	}
	if len(r.src.buf) < n {
		r.src.buf = make([]byte, n)
	}
	r.src = source{r: src, buf: r.src.buf}
	r.base, r.payload, r.offset = 0, -1, 0
	r.batch.reset()
	r.headers, r.at, r.err = r.headers[:0], 0, nil
	version, roots, hasRoots, err := r.header()
	if err != nil {
		return err
	}
	r.Version = version
	if version == 2 {
		if hasRoots {
			return malformed("the version 2 pragma has roots")
		}
		if err := r.enterV2(); err != nil {
			return err
		}
		version, roots, hasRoots, err = r.header()
		if err != nil {
			return err
		}
	}
	if version != 1 {
		return malformed("unknown version %d", version)
	}
	if !hasRoots {
		return malformed("the header has no roots")
	}
	r.Roots = roots
	return nil
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// enterV2 reads the fixed header of a CARv2 after its pragma, and skips to the
// CARv1 inside.
func (r *Reader) enterV2() error {
	var h [40]byte
	if err := r.src.readFull(h[:]); err != nil {
		return r.fail("version 2 header", err)
	}
	at, size := binary.LittleEndian.Uint64(h[16:]), binary.LittleEndian.Uint64(h[24:])
	const fixed = 11 + 40
	if at < fixed || at > 1<<62 || size == 0 || size > 1<<62 {
		return malformed("version 2 header puts %d bytes of data at offset %d", size, at)
	}
	// The index is never used, but other readers reject a file whose index
	// cannot be at this offset.
	if index := binary.LittleEndian.Uint64(h[32:]); index > 1<<62 {
		return malformed("version 2 header puts the index at offset %d", index)
	}
	for skip := int64(at) - fixed; skip > 0; {
		n := min(skip, 32<<10)
		if err := r.src.readFull(make([]byte, n)); err != nil {
			return r.fail("padding of version 2", err)
		}
		skip -= n
	}
	r.base, r.payload, r.offset = int64(at), int64(size), 0
	return nil
}

// fail describes an error that occurred while reading what.
func (r *Reader) fail(what string, err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return malformed("the file ends within the %s at offset %d", what, r.offset)
	case errors.Is(err, varint.ErrNotMinimal), errors.Is(err, varint.ErrOverflow), errors.Is(err, varint.ErrUnderflow):
		return malformed("%s at offset %d: %v", what, r.offset, err)
	}
	return fmt.Errorf("read archive: %w", err)
}

// length reads the varint length of a header or section. A clean end is io.EOF.
func (r *Reader) length(what string, limit int) (int, error) {
	if r.payload >= 0 && r.offset == r.payload {
		return 0, io.EOF
	}
	n, err := varint.ReadUvarint(&r.src)
	if errors.Is(err, io.EOF) && r.payload < 0 {
		return 0, io.EOF // ReadUvarint returns io.ErrUnexpectedEOF for an end after its first byte
	}
	if err != nil {
		return 0, r.fail("length of a "+what, err)
	}
	if n == 0 {
		return 0, malformed("the %s at offset %d is empty", what, r.offset)
	}
	if n > uint64(limit) {
		return 0, malformed("the %s at offset %d claims %d bytes, the limit is %d", what, r.offset, n, limit)
	}
	size := int64(varint.UvarintSize(n)) + int64(n)
	if r.payload >= 0 && r.offset+size > r.payload {
		return 0, malformed("the %s at offset %d goes beyond the end of the data", what, r.offset)
	}
	return int(n), nil
}

// header reads a header section.
func (r *Reader) header() (version int, roots []cid.Cid, hasRoots bool, err error) {
	n, err := r.length("header", r.opts.MaxHeaderBytes)
	if errors.Is(err, io.EOF) {
		err = malformed("the file is empty")
	}
	if err != nil {
		return 0, nil, false, err
	}
	// The length is only a claim: grow the buffer as bytes arrive.
	var buf []byte
	for len(buf) < n {
		from := len(buf)
		buf = append(buf, make([]byte, min(n-from, 64<<10))...)
		if err := r.src.readFull(buf[from:]); err != nil {
			return 0, nil, false, r.fail("header", err)
		}
	}
	version, roots, hasRoots, err = parseHeader(buf)
	if err != nil {
		return 0, nil, false, malformed("header: %v", err)
	}
	r.offset += int64(varint.UvarintSize(uint64(n)) + n)
	return version, roots, hasRoots, nil
}

// Next returns the next block, or io.EOF after the last block of a well-formed
// archive. It returns all blocks before a defect, then the error.
func (r *Reader) Next() (Section, error) {
	if r.at == len(r.batch.blocks) {
		if r.err != nil {
			return Section{}, r.err
		}
		r.fillBatch()
		if len(r.batch.blocks) == 0 {
			return Section{}, r.err
		}
	}
	b := &r.batch.blocks[r.at]
	s := Section{Cid: b.cid, Data: r.batch.buf[b.start:b.end:b.end], Offset: r.headers[r.at]}
	r.at++
	return s, nil
}

// fillBatch reads and checks as many sections as fit a batch, and leaves in
// r.err what comes after them.
func (r *Reader) fillBatch() {
	r.batch.reset()
	r.headers, r.at = r.headers[:0], 0
	for r.err == nil && len(r.batch.buf) < batchBytes-MaxBlockBytes/2 && len(r.batch.blocks) < batchBlocks {
		r.err = r.section()
	}
	if r.opts.Trusted {
		return
	}
	if bad, err := r.batch.firstMismatch(); err != nil {
		r.err = err
		r.batch.blocks = r.batch.blocks[:bad]
	}
}

// section parses one section into the batch.
func (r *Reader) section() error {
	n, err := r.length("section", r.opts.MaxSectionBytes)
	if err != nil {
		return err
	}
	from := len(r.batch.buf)
	if from+n > cap(r.batch.buf) && from+n > bigBatch {
		// Large blocks rarely come alone: allocate a whole batch at once.
		r.batch.buf = append(make([]byte, 0, max(from+n, batchBytes)), r.batch.buf...)
	}
	buf := grow(r.batch.buf, n)
	if err := r.src.readFull(buf[from:]); err != nil {
		return r.fail("section", err)
	}
	size, c, err := parseCID(buf[from:])
	if err != nil {
		return malformed("CID of the section at offset %d: %v", r.offset, err)
	}
	r.batch.buf = buf
	r.batch.blocks = append(r.batch.blocks, batchBlock{cid: c, start: from + size, end: len(buf)})
	r.headers = append(r.headers, r.offset)
	r.offset += int64(varint.UvarintSize(uint64(n)) + n)
	return nil
}

// bigBatch is how many bytes a [Reader] reads before it allocates a whole
// batch.
const bigBatch = 128 << 10

// minDigestBytes is the shortest digest that identifies a block reliably: that
// of SHA-1. Shorter ones are truncated, possibly to nothing.
const minDigestBytes = 20

// parseCID parses the CID that p begins with.
func parseCID(p []byte) (size int, c cid.Cid, err error) {
	size, c, err = cid.CidFromBytes(p)
	if err != nil {
		return 0, cid.Undef, err
	}
	if c.KeyString() != string(p[:size]) {
		return 0, cid.Undef, errors.New("not in its canonical form")
	}
	mh := c.Prefix()
	return size, c, checkDigest(mh.MhType, mh.MhLength)
}

func checkDigest(code uint64, length int) error {
	if code != multihash.IDENTITY && length < minDigestBytes {
		return fmt.Errorf("a digest of %d bytes is too short", length)
	}
	return nil
}

// firstMismatch checks the payloads of the batch. It returns the index of the
// first that does not match its CID, with an error.
func (b *batch) firstMismatch() (int, error) {
	b.sum(nil)
	for i := range b.blocks {
		ok, err := matches(b.blocks[i].cid, b.msgs[i], &b.sums[i])
		if err != nil {
			return i, err
		}
		if !ok {
			return i, fmt.Errorf("%w: %s", ErrCorrupt, b.blocks[i].cid)
		}
	}
	return len(b.blocks), nil
}

// Sections yields the sections of a CARv1 in memory, or of a prefix of one.
// Data is a slice of p and is not checked against the CID. The last pair may be
// an error: it matches [io.ErrUnexpectedEOF] if p ends within a section,
// otherwise [ErrMalformed].
func Sections(p []byte) iter.Seq2[Section, error] {
	return func(yield func(Section, error) bool) {
		header, rest, err := cutSection(p)
		if err == nil {
			version, _, hasRoots, errHeader := parseHeader(header)
			if err = errHeader; err == nil && (version != 1 || !hasRoots) {
				err = fmt.Errorf("version %d, roots %t", version, hasRoots)
			}
			if err != nil {
				err = malformed("header: %v", err)
			}
		}
		for err == nil && len(rest) > 0 {
			s := Section{Offset: int64(len(p) - len(rest))}
			var body []byte
			if body, rest, err = cutSection(rest); err != nil {
				break
			}
			size, c, errCID := parseCID(body)
			if errCID != nil {
				err = malformed("CID of the section at offset %d: %v", s.Offset, errCID)
				break
			}
			s.Cid, s.Data = c, body[size:len(body):len(body)]
			if !yield(s, nil) {
				return
			}
		}
		if err != nil {
			yield(Section{}, err)
		}
	}
}

// cutSection splits a length-prefixed section off p.
func cutSection(p []byte) (section, rest []byte, err error) {
	n, k, err := varint.FromUvarint(p)
	switch {
	case errors.Is(err, varint.ErrUnderflow):
		return nil, nil, io.ErrUnexpectedEOF
	case err != nil:
		return nil, nil, malformed("length of a section: %v", err)
	case n == 0:
		return nil, nil, malformed("an empty section")
	case n > uint64(len(p)-k):
		return nil, nil, io.ErrUnexpectedEOF
	}
	return p[k : k+int(n)], p[k+int(n):], nil
}

// parseHeader decodes a CAR header: a DAG-CBOR map of "version" and "roots",
// in either order.
func parseHeader(p []byte) (version int, roots []cid.Cid, hasRoots bool, err error) {
	d := cborReader{p}
	pairs, err := d.head(majorMap)
	if err != nil {
		return 0, nil, false, err
	}
	if pairs > 2 {
		return 0, nil, false, fmt.Errorf("a map of %d entries", pairs)
	}
	hasVersion := false
	for range pairs {
		key, err := d.bytes(majorText)
		if err != nil {
			return 0, nil, false, err
		}
		switch {
		case bytes.Equal(key, []byte("version")) && !hasVersion:
			hasVersion = true
			v, err := d.head(majorUint)
			if err != nil || v > 1<<30 {
				return 0, nil, false, errors.New("bad version")
			}
			version = int(v)
		case bytes.Equal(key, []byte("roots")) && !hasRoots:
			hasRoots = true
			if roots, err = d.roots(); err != nil {
				return 0, nil, false, err
			}
		default:
			return 0, nil, false, fmt.Errorf("unexpected key %q", key)
		}
	}
	if !hasVersion {
		return 0, nil, false, errors.New("no version")
	}
	if len(d.p) > 0 {
		return 0, nil, false, fmt.Errorf("%d bytes too many", len(d.p))
	}
	return version, roots, hasRoots, nil
}

// cborReader reads the few kinds of CBOR items that a CAR header contains.
type cborReader struct{ p []byte }

const (
	majorUint  = 0
	majorBytes = 2
	majorText  = 3
	majorArray = 4
	majorMap   = 5
	majorTag   = 6
	tagCID     = 42
)

var errCBOR = errors.New("not the CBOR of a CAR header")

// head reads the head of an item of this major type. It must be minimal.
func (d *cborReader) head(major byte) (uint64, error) {
	if len(d.p) == 0 || d.p[0]>>5 != major {
		return 0, errCBOR
	}
	info := d.p[0] & 31
	d.p = d.p[1:]
	if info < 24 {
		return uint64(info), nil
	}
	n := 1 << (info - 24)
	if info > 27 || len(d.p) < n {
		return 0, errCBOR
	}
	var v uint64
	for _, b := range d.p[:n] {
		v = v<<8 | uint64(b)
	}
	d.p = d.p[n:]
	if n == 1 && v < 24 || n > 1 && v>>(8*n/2) == 0 {
		return 0, errCBOR
	}
	return v, nil
}

func (d *cborReader) bytes(major byte) ([]byte, error) {
	n, err := d.head(major)
	if err != nil || n > uint64(len(d.p)) {
		return nil, errCBOR
	}
	b := d.p[:n]
	d.p = d.p[n:]
	return b, nil
}

func (d *cborReader) roots() ([]cid.Cid, error) {
	n, err := d.head(majorArray)
	if err != nil {
		return nil, err
	}
	roots := []cid.Cid{}
	for range n { // each iteration consumes input or returns
		tag, err := d.head(majorTag)
		if err != nil || tag != tagCID {
			return nil, errCBOR
		}
		b, err := d.bytes(majorBytes)
		if err != nil || len(b) < 1 || b[0] != 0 {
			return nil, errCBOR
		}
		c, err := cid.Cast(b[1:])
		if err != nil {
			return nil, fmt.Errorf("root: %w", err)
		}
		roots = append(roots, c)
	}
	return roots, nil
}

// IsIdentity reports whether the CID contains its block. Such blocks never need
// a section of their own.
func IsIdentity(c cid.Cid) bool { return c.Prefix().MhType == multihash.IDENTITY }
