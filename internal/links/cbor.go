package links

import "github.com/ipfs/go-cid"

// Major types of CBOR.
const (
	cborBytes  = 2
	cborText   = 3
	cborArray  = 4
	cborMap    = 5
	cborTag    = 6
	cborSimple = 7

	tagCID = 42
)

// cborOpen is an array or map that the walk is inside of.
type cborOpen struct {
	left  uint64 // items still to come
	isMap bool   // keys and values alternate
}

// eachCBOR walks the one item that a DAG-CBOR block consists of.
func eachCBOR(block []byte, f func(cid.Cid) error) error {
	d := cborReader{block}
	stack := []cborOpen{{left: 1}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if top.left == 0 {
			stack = stack[:len(stack)-1]
			continue
		}
		isKey := top.isMap && top.left%2 == 0
		top.left--
		major, arg, err := d.head()
		if err != nil {
			return err
		}
		switch {
		case isKey && major == cborTag:
			return invalid("DAG-CBOR has tag %d on a key", arg)
		case isKey && major != cborText:
			return invalid("DAG-CBOR has a key that is not text")
		}
		switch major {
		case cborBytes, cborText:
			if _, err := d.take(arg); err != nil {
				return err
			}
		case cborArray, cborMap:
			items := arg
			if major == cborMap {
				items = 2 * arg
			}
			// Each item takes at least a byte, so no claim costs more than the
			// block is long.
			if arg > uint64(len(d.rest)) || items > uint64(len(d.rest)) {
				return invalid("DAG-CBOR is truncated")
			}
			if len(stack) > maxNesting {
				return invalid("DAG-CBOR is nested too deep")
			}
			stack = append(stack, cborOpen{items, major == cborMap})
		case cborTag:
			c, err := d.cid(arg)
			if err != nil {
				return err
			}
			if err := f(c); err != nil {
				return err
			}
		}
	}
	if len(d.rest) > 0 {
		return invalid("DAG-CBOR has %d bytes after its end", len(d.rest))
	}
	return nil
}

type cborReader struct{ rest []byte }

// head reads the head of an item. DAG-CBOR demands its shortest form.
func (d *cborReader) head() (major byte, arg uint64, err error) {
	if len(d.rest) == 0 {
		return 0, 0, invalid("DAG-CBOR is truncated")
	}
	major, info := d.rest[0]>>5, d.rest[0]&31
	d.rest = d.rest[1:]
	if major == cborSimple {
		return major, 0, d.simple(info)
	}
	if info < 24 {
		return major, uint64(info), nil
	}
	if info > 27 {
		return 0, 0, invalid("DAG-CBOR has an item of indefinite length")
	}
	n := 1 << (info - 24)
	p, err := d.take(uint64(n))
	if err != nil {
		return 0, 0, err
	}
	for _, b := range p {
		arg = arg<<8 | uint64(b)
	}
	if n == 1 && arg < 24 || n > 1 && arg>>(4*n) == 0 {
		return 0, 0, invalid("DAG-CBOR has a number that is not in its shortest form")
	}
	return major, arg, nil
}

// simple reads what follows the head of false, true, null, undefined (found in
// some old data) or a float.
func (d *cborReader) simple(info byte) error {
	if info >= 20 && info <= 23 {
		return nil
	}
	if info < 25 || info > 27 {
		return invalid("DAG-CBOR has simple value %d", info)
	}
	_, err := d.take(1 << (info - 24))
	return err
}

// cid reads what follows the head of a tag: a byte string of a zero and a CID.
func (d *cborReader) cid(tag uint64) (cid.Cid, error) {
	if tag != tagCID {
		return cid.Undef, invalid("DAG-CBOR has tag %d", tag)
	}
	major, n, err := d.head()
	if err != nil {
		return cid.Undef, err
	}
	if major != cborBytes {
		return cid.Undef, invalid("DAG-CBOR has a link that is not bytes")
	}
	p, err := d.take(n)
	if err != nil {
		return cid.Undef, err
	}
	if len(p) == 0 || p[0] != 0 {
		return cid.Undef, invalid("DAG-CBOR has a link without its multibase prefix")
	}
	c, err := cid.Cast(p[1:])
	if err != nil {
		return cid.Undef, invalid("CID of a DAG-CBOR link: %v", err)
	}
	return c, nil
}

func (d *cborReader) take(n uint64) ([]byte, error) {
	if n > uint64(len(d.rest)) {
		return nil, invalid("DAG-CBOR is truncated")
	}
	p := d.rest[:n]
	d.rest = d.rest[n:]
	return p, nil
}
