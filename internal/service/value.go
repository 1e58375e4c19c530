package service

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/ipfs/go-cid"
)

// object is a JSON object that keeps the order of its keys, as JavaScript does.
// The digest of the metadata file depends on the order. Values are nil, bool,
// float64, string, []any, *object and, for DAG-CBOR, cid.Cid.
type object struct {
	keys   []string
	values map[string]any
}

func (o *object) set(key string, v any) {
	if _, ok := o.values[key]; !ok {
		o.keys = append(o.keys, key)
	}
	o.values[key] = v
}

const maxJSONDepth = 512

// parseJSON decodes one JSON value.
func parseJSON(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	v, err := decodeValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("unexpected data after the JSON value")
	}
	return v, nil
}

func decodeValue(dec *json.Decoder, depth int) (any, error) {
	t, err := dec.Token()
	if err != nil {
		return nil, err
	}
	if depth > maxJSONDepth {
		return nil, errors.New("JSON is nested too deep")
	}
	switch t {
	case json.Delim('{'):
		o := &object{values: make(map[string]any)}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, err
			}
			v, err := decodeValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			o.set(key.(string), v)
		}
		_, err := dec.Token()
		return o, err
	case json.Delim('['):
		a := []any{}
		for dec.More() {
			v, err := decodeValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			a = append(a, v)
		}
		_, err := dec.Token()
		return a, err
	}
	return t, nil
}

// appendJSON encodes a value as JSON.stringify does.
func appendJSON(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case string:
		return appendJSONString(dst, v)
	case float64:
		b, err := json.Marshal(v) // formats numbers as ECMAScript does
		if err != nil {
			return append(dst, "null"...)
		}
		return append(dst, b...)
	case cid.Cid:
		return appendJSONString(dst, v.String())
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSON(dst, e)
		}
		return append(dst, ']')
	case *object:
		dst = append(dst, '{')
		for i, k := range v.keys {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendJSONString(dst, k), ':')
			dst = appendJSON(dst, v.values[k])
		}
		return append(dst, '}')
	}
	return dst
}

func appendJSONString(dst []byte, s string) []byte {
	const short = "\b\f\n\r\t\"\\"
	const letters = "bfnrt\"\\"
	dst = append(dst, '"')
	for i := range len(s) {
		b := s[i]
		if at := strings.IndexByte(short, b); at >= 0 {
			dst = append(dst, '\\', letters[at])
		} else if b < ' ' {
			dst = fmt.Appendf(dst, `\u%04x`, b)
		} else {
			dst = append(dst, b)
		}
	}
	return append(dst, '"')
}

// MarshalJSON implements json.Marshaler.
func (o *object) MarshalJSON() ([]byte, error) { return appendJSON(nil, o), nil }

// appendCBOR encodes a value as DAG-CBOR.
func appendCBOR(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, 0xf6)
	case bool:
		if v {
			return append(dst, 0xf5)
		}
		return append(dst, 0xf4)
	case string:
		return append(appendCBORHead(dst, 3, uint64(len(v))), v...)
	case float64:
		const safe = 1<<53 - 1
		switch {
		case v != math.Trunc(v) || math.Abs(v) > safe:
			return binary.BigEndian.AppendUint64(append(dst, 0xfb), math.Float64bits(v))
		case v < 0:
			return appendCBORHead(dst, 1, uint64(-v-1))
		}
		return appendCBORHead(dst, 0, uint64(v))
	case cid.Cid:
		dst = append(dst, 0xd8, 42)
		dst = appendCBORHead(dst, 2, uint64(v.ByteLen()+1))
		return append(append(dst, 0), v.Bytes()...)
	case []any:
		dst = appendCBORHead(dst, 4, uint64(len(v)))
		for _, e := range v {
			dst = appendCBOR(dst, e)
		}
		return dst
	case *object:
		keys := slices.Clone(v.keys)
		slices.SortFunc(keys, func(a, b string) int {
			if len(a) != len(b) {
				return len(a) - len(b)
			}
			return strings.Compare(a, b)
		})
		dst = appendCBORHead(dst, 5, uint64(len(keys)))
		for _, k := range keys {
			dst = appendCBOR(dst, k)
			dst = appendCBOR(dst, v.values[k])
		}
		return dst
	}
	return dst
}

func appendCBORHead(dst []byte, major byte, n uint64) []byte {
	m := major << 5
	switch {
	case n < 24:
		return append(dst, m|byte(n))
	case n <= math.MaxUint8:
		return append(dst, m|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, m|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(dst, m|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, m|27), n)
}

// maxPadding limits the empty list elements that field names can create, since
// a few bytes of a form can ask for thousands.
const maxPadding = 1 << 17

// setIn sets a value at a path of keys. It creates what is missing on the way:
// a list if the next key is a number, else an object. Elements that it adds to
// lists are taken from room; when room is used up, it adds no more.
func setIn(v any, path []string, leaf any, room *int) any {
	if len(path) == 0 {
		return leaf
	}
	key := path[0]
	index, err := strconv.Atoi(key)
	numeric := err == nil && index >= 0
	switch c := v.(type) {
	case []any:
		const maxIndex = 1 << 16
		if !numeric || index > maxIndex {
			return c
		}
		if add := index + 1 - len(c); add > 0 {
			if *room -= add; *room < 0 {
				return c
			}
			c = append(c, make([]any, add)...)
		}
		c[index] = setIn(c[index], path[1:], leaf, room)
		return c
	case *object:
		c.set(key, setIn(c.values[key], path[1:], leaf, room))
		return c
	}
	if numeric {
		return setIn([]any{}, path, leaf, room)
	}
	return setIn(&object{values: make(map[string]any)}, path, leaf, room)
}
