package bucket

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// A body with a trailer is a single chunk followed by the digest, in the form
// that the AWS SDKs send. Its length is known beforehand.
const (
	trailerPayload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
	trailerName    = "x-amz-checksum-sha256"
)

func chunkHead(size int64) string { return strconv.FormatInt(size, 16) + "\r\n" }

func chunkTail(digest string) string { return "\r\n0\r\n" + trailerName + ":" + digest + "\r\n\r\n" }

var noDigest = base64.StdEncoding.EncodeToString(make([]byte, 32))

// chunkBytes returns the length of a shard's body with its trailer.
func chunkBytes(size int64) int64 {
	return int64(len(chunkHead(size))) + size + int64(len(chunkTail(noDigest)))
}

// scanned is a shard whose blocks are noted as they are read.
type scanned struct {
	uploader.Body
	scan *scanner
}

func (s *scanned) Read(p []byte) (int, error) {
	n, err := s.Body.Read(p)
	s.scan.note(p[:n])
	return n, err
}

// WriteTo implements io.WriterTo.
func (s *scanned) WriteTo(w io.Writer) (int64, error) {
	return s.Body.WriteTo(scanWriter{w, s.scan})
}

type scanWriter struct {
	io.Writer
	scan *scanner
}

func (w scanWriter) Write(p []byte) (int, error) {
	n, err := w.Writer.Write(p)
	w.scan.note(p[:n])
	return n, err
}

// chunk is a shard with a head and a trailer. As with the shard, Close may be
// called by another goroutine than the reader's.
type chunk struct {
	*scanned
	head, tail []byte // what is left to read; tail is nil until the digest is known
	read       bool   // all of the shard was read
}

func newChunk(shard *scanned, size int64) *chunk {
	return &chunk{scanned: shard, head: []byte(chunkHead(size))}
}

// end makes the tail once the shard was read.
func (c *chunk) end() error {
	archive, ok := c.CID()
	digest, _ := digestOf(archive)
	if !ok || digest == "" {
		return errors.New("the shard has no digest after its last byte")
	}
	c.read, c.tail = true, []byte(chunkTail(digest))
	return nil
}

func (c *chunk) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	if !c.read {
		n, err := c.scanned.Read(p)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		if err := c.end(); err != nil {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
	if len(c.tail) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.tail)
	c.tail = c.tail[n:]
	return n, nil
}

// WriteTo implements io.WriterTo, using that of the shard.
func (c *chunk) WriteTo(w io.Writer) (total int64, err error) {
	rest := func(p *[]byte) error {
		n, err := w.Write(*p)
		*p = (*p)[n:]
		total += int64(n)
		return err
	}
	if err := rest(&c.head); err != nil {
		return total, err
	}
	if !c.read {
		n, err := c.scanned.WriteTo(w)
		total += n
		if err != nil {
			return total, err
		}
		if err := c.end(); err != nil {
			return total, err
		}
	}
	return total, rest(&c.tail)
}

// archiveOfSum makes the CID of an archive from its digest.
func archiveOfSum(sum []byte) cid.Cid {
	mh, err := multihash.Encode(sum, multihash.SHA2_256)
	if err != nil {
		panic(fmt.Sprintf("a SHA-256 digest of %d bytes", len(sum)))
	}
	return cid.NewCidV1(car.Codec, mh)
}

var _ bulk.Body = (*chunk)(nil)
