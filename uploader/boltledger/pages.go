package boltledger

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"io"
	"os"
	"slices"
)

// bbolt maps its file and believes it: a page that lies is a crash. So the
// pages are read here first, with nothing taken on trust. The format is that
// of bbolt version 2, in the byte order of the machine.
const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	flagBranch = 0x01
	flagLeaf   = 0x02

	leafBucket = 0x01

	pageHeader   = 16
	elementSize  = 16
	bucketHeader = 16
	maxDepth     = 64
)

var native = binary.NativeEndian

// pages reads the pages of a file.
type pages struct {
	r        io.ReaderAt
	size     int64
	pageSize int64
	high     uint64 // pages in use
	root     uint64
	seen     map[uint64]bool
	found    int // buckets
	visit    func(bucket string, k, v []byte) error
	lost     func(error) error // what to do about damage: report it, or go on
}

// walkPages visits every key and value of every bucket of a file that may be
// damaged: lost is told what can't be read, and decides whether to go on.
func walkPages(f *os.File, visit func(bucket string, k, v []byte) error, lost func(error) error) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	p := &pages{r: f, size: info.Size(), seen: map[uint64]bool{}, visit: visit, lost: lost}
	if err := p.meta(); err != nil {
		return err
	}
	if int64(p.high)*p.pageSize > p.size {
		if err := lost(damaged("it has %d bytes and should have %d", p.size, int64(p.high)*p.pageSize)); err != nil {
			return err
		}
	}
	if err := p.page("", p.root, 0); err != nil {
		return err
	}
	if p.found < len(buckets) {
		return lost(damaged("it has %d of %d buckets", p.found, len(buckets)))
	}
	return nil
}

// meta finds the newer of the two meta pages that are whole.
func (p *pages) meta() error {
	var found bool
	var newest uint64
	// Where the second one is depends on the page size, which both tell.
	for at := int64(0); at <= 64<<10; at = max(2*at, 1<<10) {
		var b [80]byte
		if _, err := p.r.ReadAt(b[:], at); err != nil {
			break
		}
		m := b[pageHeader:]
		h := fnv.New64a()
		_, _ = h.Write(m[:56])
		if native.Uint32(m) != boltMagic || native.Uint32(m[4:]) != boltVersion || native.Uint64(m[56:]) != h.Sum64() {
			continue
		}
		size, tx := int64(native.Uint32(m[8:])), native.Uint64(m[48:])
		if at != 0 && at != size || found && tx <= newest {
			continue
		}
		if size < 1<<10 || size > 64<<10 || native.Uint64(m[40:]) > 1<<40 {
			continue
		}
		found, newest = true, tx
		p.pageSize, p.root, p.high = size, native.Uint64(m[16:]), native.Uint64(m[40:])
	}
	if !found {
		return damaged("its first pages can't be read")
	}
	return nil
}

// page visits a page, and those below.
func (p *pages) page(bucket string, id uint64, depth int) error {
	if id < 2 || id >= p.high || p.seen[id] || depth > maxDepth {
		return p.lost(damaged("page %d is referred to wrongly", id))
	}
	p.seen[id] = true
	var head [pageHeader]byte
	if _, err := p.r.ReadAt(head[:], int64(id)*p.pageSize); err != nil {
		return p.lost(damaged("page %d: %v", id, err))
	}
	n := int64(native.Uint32(head[12:])) + 1 // with what it overflows to
	if native.Uint64(head[:]) != id || n > int64(p.high-id) {
		return p.lost(damaged("page %d is not what it should be", id))
	}
	for i := id + 1; i < id+uint64(n); i++ {
		if p.seen[i] {
			return p.lost(damaged("page %d is in use twice", i))
		}
		p.seen[i] = true
	}
	buf := make([]byte, min(n*p.pageSize, max(p.size-int64(id)*p.pageSize, 0)))
	if _, err := io.ReadFull(io.NewSectionReader(p.r, int64(id)*p.pageSize, int64(len(buf))), buf); err != nil {
		return p.lost(damaged("page %d: %v", id, err))
	}
	return p.elements(bucket, buf, depth)
}

// elements visits what is on a page.
func (p *pages) elements(bucket string, page []byte, depth int) error {
	if len(page) < pageHeader {
		return p.lost(damaged("a page of bucket %q is cut", bucket))
	}
	flags, count := native.Uint16(page[8:]), int(native.Uint16(page[10:]))
	if flags != flagLeaf && flags != flagBranch || pageHeader+count*elementSize > len(page) {
		return p.lost(damaged("a page of bucket %q is not one of data", bucket))
	}
	var last []byte
	for i := range count {
		at := pageHeader + i*elementSize
		e := page[at:]
		var k, v []byte
		var ok bool
		if flags == flagBranch {
			k, ok = slice(e, native.Uint32(e), native.Uint32(e[4:]))
		} else {
			pos, ksize := native.Uint32(e[4:]), native.Uint32(e[8:])
			k, ok = slice(e, pos, ksize)
			if ok {
				v, ok = slice(e[pos:][ksize:], 0, native.Uint32(e[12:]))
			}
		}
		if !ok || i > 0 && bytes.Compare(last, k) >= 0 {
			if err := p.lost(damaged("entry %d on a page of bucket %q", i, bucket)); err != nil {
				return err
			}
			continue
		}
		last = k
		var err error
		switch {
		case flags == flagBranch:
			err = p.page(bucket, native.Uint64(e[8:]), depth+1)
		case native.Uint32(e)&leafBucket != 0:
			err = p.bucket(bucket, string(k), v, depth)
		case native.Uint32(e) != 0 || bucket == "":
			err = p.lost(damaged("entry %d on a page of bucket %q", i, bucket))
		default:
			if err = p.visit(bucket, k, v); err != nil {
				err = p.lost(err)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket visits a bucket: pages of its own, or one within the value.
func (p *pages) bucket(parent, name string, v []byte, depth int) error {
	if parent != "" || len(v) < bucketHeader || !slices.Contains(buckets[:], name) {
		return p.lost(damaged("bucket %q", name))
	}
	p.found++
	if root := native.Uint64(v); root != 0 {
		return p.page(name, root, depth+1)
	}
	return p.elements(name, v[bucketHeader:], depth+1)
}

func slice(p []byte, from, n uint32) ([]byte, bool) {
	if uint64(from)+uint64(n) > uint64(len(p)) {
		return nil, false
	}
	return p[from : from+n], true
}
