package sqliteledger

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"os"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/sqlite"
	"github.com/carload/carload/uploader"
)

// Until 2026 a ledger was a bbolt file, version 2 of its format, in the byte
// order of the machine. This code reads such a file once, and trusts nothing in
// it.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2
	boltFormat  = "1" // of the contents

	boltBranch = 0x01
	boltLeaf   = 0x02

	pageHeader   = 16
	elementSize  = 16
	bucketHeader = 16
	metaSize     = 64
	boltHead     = pageHeader + metaSize
	minBoltPage  = 1 << 10
	maxBoltPage  = 64 << 10
	maxDepth     = 64
)

var (
	native      = binary.NativeEndian
	boltBuckets = []string{"meta", "uploads", "receipts", "suspects", "plans", "planorder"}
)

// isBolt reports whether a file begins like a bbolt file. The first two pages
// are alike, so one of them may be damaged.
func isBolt(p []byte) bool {
	found := func(page int) bool { return len(p) >= page+boltHead && native.Uint32(p[page+pageHeader:]) == boltMagic }
	for page := minBoltPage; page <= maxBoltPage; page *= 2 {
		if found(page) {
			return true
		}
	}
	return found(0)
}

// carryOver replaces an old ledger with a new one, and keeps the old one beside
// it. The caller has the lock. What cannot be read is left out if salvage is
// true, and otherwise an error.
func carryOver(ctx context.Context, path string, salvage bool) (r Report, err error) {
	old, err := os.Open(path)
	if err != nil {
		return r, err
	}
	defer old.Close()
	// An earlier version of carload may have it open and write to it.
	if ok, err := lock(ctx, old, false); err != nil || !ok {
		return r, errors.Join(err, unless(ok))
	}
	info, err := old.Stat()
	if err != nil {
		return r, err
	}
	tmp, err := build(ctx, path, func(tx *sqlite.Writer) error {
		b := &boltFile{r: old, size: info.Size()}
		if err := b.carry(ctx, tx); err != nil {
			return err
		}
		if r.Kept, r.Lost = b.kept, b.lost; !salvage {
			return b.first
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	r.Old, err = setAside(path, "bbolt", tmp)
	return r, err
}

// boltFile reads the pages of a file.
type boltFile struct {
	r     io.ReaderAt
	size  int64
	visit func(bucket string, k, v []byte) (damage, fatal error)

	pageSize int64
	high     uint64 // pages in use
	root     uint64
	seen     map[uint64]bool
	buckets  int // number found

	kept, lost int   // entries copied; places that can't be read
	first      error // damage found
}

// damage notes what cannot be read. Reading goes on.
func (b *boltFile) damage(f string, args ...any) {
	b.lost++
	if b.first == nil {
		b.first = damaged(f, args...)
	}
}

// carry copies the contents of the file into a transaction.
func (b *boltFile) carry(ctx context.Context, tx *sqlite.Writer) error {
	format := ""
	b.visit = func(bucket string, k, v []byte) (damage, fatal error) {
		data, err := boltUnseal(k, v)
		if err != nil {
			return err, nil
		}
		switch bucket {
		case "meta":
			if string(k) == "format" {
				format = string(data)
			}
			return nil, nil
		case "uploads":
			u, err := boltUpload(data)
			if err != nil {
				return err, nil
			}
			fatal = u.put(ctx, tx)
		case "receipts":
			archive, err := cid.Cast(data)
			if err != nil || len(k) != idSize+4 {
				return fmt.Errorf("not a receipt: %w", err), nil
			}
			// Uploads and descriptions had the same ids then.
			fatal = receiptsTable.put(ctx, tx, k[:idSize], int64(binary.BigEndian.Uint32(k[idSize:])), archive.Bytes())
		case "suspects":
			u, blocks, err := boltSuspects(data)
			if err != nil {
				return err, nil
			}
			fatal = suspect(ctx, tx, u, blocks)
		case "plans":
			if len(data) <= 8 || int64(binary.BigEndian.Uint64(data)) < 0 {
				return errors.New("not a description"), nil
			}
			fatal = descriptionsTable.put(ctx, tx, k, int64(binary.BigEndian.Uint64(data)), data[8:])
		default:
			return nil, nil // the descriptions contain their order
		}
		b.kept++
		return nil, fatal
	}
	if err := b.walk(); err != nil {
		return err
	}
	if format == "" {
		b.damage("it has no format number")
	} else if format != boltFormat {
		// What looks wrong here may be right in a later format.
		return fmt.Errorf("it was written by another version of carload (format %q): use that version", format)
	}
	return nil
}

func boltUnseal(k, v []byte) ([]byte, error) {
	const sumSize = 4
	if len(v) < sumSize {
		return nil, errors.New("the value is truncated")
	}
	data := v[sumSize:]
	if binary.BigEndian.Uint32(v) != crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, data) {
		return nil, errors.New("the value does not match its checksum")
	}
	return data, nil
}

func boltUpload(data []byte) (Upload, error) {
	var r struct {
		Target        string    `json:"target"`
		Root          string    `json:"root"`
		MaxShardBytes int64     `json:"maxShardBytes"`
		Begun         time.Time `json:"begun"`
		Finished      time.Time `json:"finished"`
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return Upload{}, err
	}
	root, err := cid.Decode(r.Root)
	return Upload{UploadKey: uploader.UploadKey{Target: r.Target, Root: root, MaxShardBytes: r.MaxShardBytes}, Begun: r.Begun, Finished: r.Finished}, err
}

func boltSuspects(p []byte) (u uploader.UploadKey, blocks []cid.Cid, err error) {
	n, used := binary.Uvarint(p)
	if used <= 0 || n > uint64(len(p)-used) {
		return u, nil, errors.New("not a list of blocks")
	}
	u.Target = string(p[used : used+int(n)])
	list, err := decodeCIDs(p[used+int(n):])
	if err != nil || len(list) == 0 {
		return u, nil, fmt.Errorf("not a list of blocks: %w", err)
	}
	u.Root = list[0]
	return u, list[1:], nil
}

// walk visits every key and value of every bucket. It returns the error of a
// visit.
func (b *boltFile) walk() error {
	if !b.meta() {
		b.damage("its first pages can't be read")
		return nil
	}
	if int64(b.high)*b.pageSize > b.size {
		b.damage("it has %d bytes, but should have %d", b.size, int64(b.high)*b.pageSize)
	}
	b.seen = map[uint64]bool{}
	err := b.page("", b.root, 0)
	if b.buckets < len(boltBuckets) {
		b.damage("it has %d of %d buckets", b.buckets, len(boltBuckets))
	}
	return err
}

// meta finds the newer of the intact meta pages.
func (b *boltFile) meta() (found bool) {
	var newest uint64
	// The place of the second one depends on the page size, which both contain.
	for at := int64(0); at <= maxBoltPage; at = max(2*at, minBoltPage) {
		var p [boltHead]byte
		if _, err := b.r.ReadAt(p[:], at); err != nil {
			break
		}
		m := p[pageHeader:]
		h := fnv.New64a()
		_, _ = h.Write(m[:56])
		if native.Uint32(m) != boltMagic || native.Uint32(m[4:]) != boltVersion || native.Uint64(m[56:]) != h.Sum64() {
			continue
		}
		size, tx := int64(native.Uint32(m[8:])), native.Uint64(m[48:])
		if at != 0 && at != size || found && tx <= newest {
			continue
		}
		if size < minBoltPage || size > maxBoltPage || native.Uint64(m[40:]) > 1<<40 {
			continue
		}
		found, newest = true, tx
		b.pageSize, b.root, b.high = size, native.Uint64(m[16:]), native.Uint64(m[40:])
	}
	return found
}

// page visits a page and those below it.
func (b *boltFile) page(bucket string, id uint64, depth int) error {
	if id < 2 || id >= b.high || b.seen[id] || depth > maxDepth {
		b.damage("invalid reference to page %d", id)
		return nil
	}
	b.seen[id] = true
	var head [pageHeader]byte
	_, err := b.r.ReadAt(head[:], int64(id)*b.pageSize)
	n := int64(native.Uint32(head[12:])) + 1 // including overflow pages
	if err != nil || native.Uint64(head[:]) != id || n > int64(b.high-id) {
		b.damage("page %d is not of the expected kind: %v", id, err)
		return nil
	}
	for i := id + 1; i < id+uint64(n); i++ {
		if b.seen[i] {
			b.damage("page %d is in use twice", i)
			return nil
		}
		b.seen[i] = true
	}
	buf := make([]byte, min(n*b.pageSize, max(b.size-int64(id)*b.pageSize, 0)))
	if _, err := b.r.ReadAt(buf, int64(id)*b.pageSize); err != nil && !errors.Is(err, io.EOF) {
		b.damage("page %d: %v", id, err)
		return nil
	}
	return b.elements(bucket, buf, depth)
}

// elements visits the elements of a page.
func (b *boltFile) elements(bucket string, page []byte, depth int) error {
	if len(page) < pageHeader {
		b.damage("a page of bucket %q is truncated", bucket)
		return nil
	}
	flags, count := native.Uint16(page[8:]), int(native.Uint16(page[10:]))
	if flags != boltLeaf && flags != boltBranch || pageHeader+count*elementSize > len(page) {
		b.damage("a page of bucket %q is not a data page", bucket)
		return nil
	}
	var last []byte
	for i := range count {
		e := page[pageHeader+i*elementSize:]
		var k, v []byte
		var ok bool
		if flags == boltBranch {
			k, ok = slice(e, native.Uint32(e), native.Uint32(e[4:]))
		} else {
			pos, ksize := native.Uint32(e[4:]), native.Uint32(e[8:])
			if k, ok = slice(e, pos, ksize); ok {
				v, ok = slice(e[pos:][ksize:], 0, native.Uint32(e[12:]))
			}
		}
		if !ok || i > 0 && bytes.Compare(last, k) >= 0 {
			b.damage("entry %d on a page of bucket %q", i, bucket)
			continue
		}
		last = k
		var err error
		switch kind := native.Uint32(e); {
		case flags == boltBranch:
			err = b.page(bucket, native.Uint64(e[8:]), depth+1)
		case kind == 1: // a bucket
			err = b.bucket(bucket, string(k), v, depth)
		case kind != 0 || bucket == "":
			b.damage("entry %d on a page of bucket %q", i, bucket)
		default:
			var damage error
			if damage, err = b.visit(bucket, k, v); damage != nil {
				b.damage("key %x of bucket %q: %w", k, bucket, damage)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket visits a bucket, which has its own pages or is inline in the value.
func (b *boltFile) bucket(parent, name string, v []byte, depth int) error {
	if parent != "" || len(v) < bucketHeader || !slices.Contains(boltBuckets, name) {
		b.damage("bucket %q", name)
		return nil
	}
	b.buckets++
	if root := native.Uint64(v); root != 0 {
		return b.page(name, root, depth+1)
	}
	return b.elements(name, v[bucketHeader:], depth+1)
}

func slice(p []byte, from, n uint32) ([]byte, bool) {
	if uint64(from)+uint64(n) > uint64(len(p)) {
		return nil, false
	}
	return p[from : from+n], true
}
