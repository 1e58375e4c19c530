package boltledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"time"

	"github.com/ipfs/go-cid"
	"go.etcd.io/bbolt"

	"github.com/carload/carload/uploader"
)

// format is the number of the layout that follows. Keys are of fixed length,
// so that whatever a target or a file is called, it is a key.
const format = "1"

const (
	bucketMeta      = "meta"      // keyFormat: format
	bucketUploads   = "uploads"   // uploadID: uploadRecord
	bucketReceipts  = "receipts"  // uploadID, index: CID of the archive
	bucketSuspects  = "suspects"  // suspectsID: target, root, blocks
	bucketPlans     = "plans"     // planID: sequence, plan
	bucketPlanOrder = "planorder" // sequence: size, planID
	keyFormat       = "format"
)

var buckets = [...]string{bucketMeta, bucketUploads, bucketReceipts, bucketSuspects, bucketPlans, bucketPlanOrder}

const (
	idSize  = 16
	sumSize = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// seal puts the checksum of key and data before the data.
func seal(k, data []byte) []byte {
	v := make([]byte, sumSize, sumSize+len(data))
	binary.BigEndian.PutUint32(v, crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, data))
	return append(v, data...)
}

// unseal checks and removes it. The data is part of v.
func unseal(k, v []byte) ([]byte, error) {
	if len(v) < sumSize {
		return nil, damaged("the value of key %x is cut", k)
	}
	data := v[sumSize:]
	if binary.BigEndian.Uint32(v) != crc32.Update(crc32.Checksum(k, castagnoli), castagnoli, data) {
		return nil, damaged("the value of key %x does not match its checksum", k)
	}
	return data, nil
}

// id makes a key of parts of any length.
func id(kind string, parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range append([][]byte{[]byte(kind)}, parts...) {
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		_, _ = h.Write(p)
	}
	return h.Sum(nil)[:idSize]
}

func uploadID(u uploader.UploadKey) []byte {
	return id("upload", []byte(u.Target), u.Root.Bytes(), binary.BigEndian.AppendUint64(nil, uint64(u.MaxShardBytes)))
}

func suspectsID(u uploader.UploadKey) []byte { return id("suspects", []byte(u.Target), u.Root.Bytes()) }

func planID(key string) []byte { return id("plan", []byte(key)) }

type uploadRecord struct {
	Target        string    `json:"target"`
	Root          string    `json:"root"`
	MaxShardBytes int64     `json:"maxShardBytes"`
	Begun         time.Time `json:"begun"`
	Finished      time.Time `json:"finished,omitzero"`
}

func (r *uploadRecord) key() uploader.UploadKey {
	root, _ := cid.Decode(r.Root) // decodeUpload has seen that it can be
	return uploader.UploadKey{Target: r.Target, Root: root, MaxShardBytes: r.MaxShardBytes}
}

func decodeUpload(k, v []byte) (uploadRecord, error) {
	var r uploadRecord
	data, err := unseal(k, v)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, damaged("upload %x: %v", k, err)
	}
	if _, err := cid.Decode(r.Root); err != nil {
		return r, damaged("root of upload %x: %v", k, err)
	}
	return r, nil
}

func receiptKey(upload []byte, index int) []byte {
	return binary.BigEndian.AppendUint32(bytes.Clone(upload), uint32(index))
}

func decodeReceipt(k, v []byte) (int, cid.Cid, error) {
	if len(k) != idSize+4 {
		return 0, cid.Undef, damaged("key %x in the receipts", k)
	}
	data, err := unseal(k, v)
	if err != nil {
		return 0, cid.Undef, err
	}
	c, err := cid.Cast(data)
	if err != nil {
		return 0, cid.Undef, damaged("receipt %x: %v", k, err)
	}
	return int(binary.BigEndian.Uint32(k[idSize:])), c, nil
}

type suspectsRecord struct {
	target string
	root   cid.Cid
	blocks []cid.Cid
}

func encodeSuspects(u uploader.UploadKey, blocks []cid.Cid) []byte {
	p := appendPart(nil, []byte(u.Target))
	p = appendPart(p, u.Root.Bytes())
	for _, c := range blocks {
		p = appendPart(p, c.Bytes())
	}
	return p
}

func appendPart(p, part []byte) []byte {
	return append(binary.AppendUvarint(p, uint64(len(part))), part...)
}

func decodeSuspects(k, v []byte) (r suspectsRecord, err error) {
	p, err := unseal(k, v)
	if err != nil {
		return r, err
	}
	for i := 0; len(p) > 0; i++ {
		n, used := binary.Uvarint(p)
		if used <= 0 || n > uint64(len(p)-used) {
			return r, damaged("suspects %x", k)
		}
		part := p[used : used+int(n)]
		p = p[used+int(n):]
		if i == 0 {
			r.target = string(part)
			continue
		}
		c, err := cid.Cast(part)
		if err != nil {
			return r, damaged("suspects %x: %v", k, err)
		}
		if i == 1 {
			r.root = c
		} else {
			r.blocks = append(r.blocks, c)
		}
	}
	return r, nil
}

func sequence(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func decodePlan(k, v []byte) (seq, plan []byte, err error) {
	data, err := unseal(k, v)
	if err != nil {
		return nil, nil, err
	}
	if len(data) < 8 {
		return nil, nil, damaged("plan %x is cut", k)
	}
	return data[:8], data[8:], nil
}

type orderRecord struct {
	seq, id []byte
	size    int64
}

func encodeOrder(plan []byte, size int) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(size)), plan...)
}

func decodeOrder(k, v []byte) (orderRecord, error) {
	data, err := unseal(k, v)
	if err != nil {
		return orderRecord{}, err
	}
	if len(k) != 8 || len(data) != 8+idSize {
		return orderRecord{}, damaged("order %x of the plans", k)
	}
	return orderRecord{bytes.Clone(k), bytes.Clone(data[8:]), int64(binary.BigEndian.Uint64(data))}, nil
}

// prefixed visits what has a prefix.
func prefixed(c *bbolt.Cursor, prefix []byte, visit func(k, v []byte) error) error {
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if err := visit(k, v); err != nil {
			return err
		}
	}
	return nil
}
