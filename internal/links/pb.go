package links

import (
	"encoding/binary"
	"math"

	"github.com/ipfs/go-cid"
)

// PBLink is a link of a DAG-PB node.
type PBLink struct {
	Cid   cid.Cid
	Name  []byte // a slice of the block
	Tsize uint64 // the size of the DAG under the link, as the node claims it
}

// MostTotal is more than any DAG has, and small enough that sums don't
// overflow.
const MostTotal = 1 << 50

// Total is Tsize, limited to MostTotal.
func (l PBLink) Total() int64 { return int64(min(l.Tsize, MostTotal)) }

// PB is what a DAG-PB node has besides its links.
type PB struct {
	Data    []byte // a slice of the block
	HasData bool
}

// DecodePB decodes a DAG-PB block and calls link, if it is not nil, for each of
// its links. It accepts what the specification allows: data at most once,
// before or after all links; a link's fields in order; no other fields. It
// stops at the first error from link and returns it.
func DecodePB(block []byte, link func(PBLink) error) (PB, error) {
	var (
		pb        PB
		links     bool
		linksDone bool
	)
	for d := (Proto{Rest: block}); len(d.Rest) > 0; {
		f, err := d.Next()
		if err != nil {
			return PB{}, err
		}
		switch {
		case f.Wire != WireBytes:
			return PB{}, invalid("DAG-PB field %d of wire type %d", f.Number, f.Wire)
		case f.Number == 1 && !pb.HasData:
			pb = PB{Data: f.Bytes, HasData: true}
			linksDone = links
		case f.Number == 2 && !linksDone:
			links = true
			l, err := decodePBLink(f.Bytes)
			if err != nil {
				return PB{}, err
			}
			if link == nil {
				continue
			}
			if err := link(l); err != nil {
				return PB{}, err
			}
		default:
			return PB{}, invalid("DAG-PB field %d out of place", f.Number)
		}
	}
	return pb, nil
}

func decodePBLink(p []byte) (PBLink, error) {
	var l PBLink
	last := 0
	for d := (Proto{Rest: p}); len(d.Rest) > 0; {
		f, err := d.Next()
		if err != nil {
			return PBLink{}, err
		}
		want := WireBytes
		if f.Number == 3 {
			want = WireVarint
		}
		if f.Number <= last || f.Number > 3 || f.Wire != want {
			return PBLink{}, invalid("field %d of a DAG-PB link out of place", f.Number)
		}
		switch last = f.Number; last {
		case 1:
			if l.Cid, err = cid.Cast(f.Bytes); err != nil {
				return PBLink{}, invalid("CID of a DAG-PB link: %v", err)
			}
		case 2:
			l.Name = f.Bytes
		case 3:
			l.Tsize = f.Uint
		}
	}
	if !l.Cid.Defined() {
		return PBLink{}, invalid("a DAG-PB link without a CID")
	}
	return l, nil
}

// Wire types of a protobuf field.
const (
	WireVarint  = 0
	WireFixed64 = 1
	WireBytes   = 2
	WireFixed32 = 5
)

// Proto is a protobuf message, or the rest of one. Next splits it into fields.
type Proto struct{ Rest []byte }

// Field is a field of a protobuf message: Bytes for WireBytes, Uint for others.
type Field struct {
	Number, Wire int
	Bytes        []byte // a slice of the message
	Uint         uint64
}

// Next takes the first field off the message. If the message is truncated or
// has a group, the error matches [ErrInvalid].
func (d *Proto) Next() (Field, error) {
	tag, err := d.Uvarint()
	if err != nil {
		return Field{}, err
	}
	f := Field{Number: int(min(tag>>3, math.MaxInt32)), Wire: int(tag & 7)}
	if f.Number == 0 {
		return Field{}, invalid("protobuf field 0")
	}
	switch f.Wire {
	case WireVarint:
		f.Uint, err = d.Uvarint()
	case WireBytes:
		var n uint64
		if n, err = d.Uvarint(); err == nil {
			f.Bytes, err = d.take(n)
		}
	case WireFixed32:
		var p []byte
		if p, err = d.take(4); err == nil {
			f.Uint = uint64(binary.LittleEndian.Uint32(p))
		}
	case WireFixed64:
		var p []byte
		if p, err = d.take(8); err == nil {
			f.Uint = binary.LittleEndian.Uint64(p)
		}
	default:
		err = invalid("protobuf field %d of wire type %d", f.Number, f.Wire)
	}
	return f, err
}

// Uvarint takes a varint off the message.
func (d *Proto) Uvarint() (uint64, error) {
	v, n := binary.Uvarint(d.Rest)
	if n <= 0 {
		return 0, invalid("protobuf is truncated")
	}
	d.Rest = d.Rest[n:]
	return v, nil
}

func (d *Proto) take(n uint64) ([]byte, error) {
	if n > uint64(len(d.Rest)) {
		return nil, invalid("protobuf is truncated")
	}
	p := d.Rest[:n:n]
	d.Rest = d.Rest[n:]
	return p, nil
}
