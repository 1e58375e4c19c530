package links_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	dagpb "github.com/ipld/go-codec-dagpb"
	"github.com/ipld/go-ipld-prime/codec/dagcbor"
	"github.com/ipld/go-ipld-prime/codec/dagjson"
	"github.com/ipld/go-ipld-prime/datamodel"
	cidlink "github.com/ipld/go-ipld-prime/linking/cid"
	"github.com/ipld/go-ipld-prime/node/basicnode"
	"github.com/ipld/go-ipld-prime/traversal"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/internal/links"
)

var codecs = []uint64{links.DagPB, links.DagCBOR, links.DagJSON}

func sum(t testing.TB, codec, hash uint64, data string) cid.Cid {
	t.Helper()
	mh, err := multihash.Sum([]byte(data), hash, -1)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV1(codec, mh)
}

func each(t testing.TB, codec uint64, data string) ([]cid.Cid, error) {
	t.Helper()
	var got []cid.Cid
	err := links.Each(sum(t, codec, multihash.SHA2_256, data), []byte(data), func(c cid.Cid) error {
		got = append(got, c)
		return nil
	})
	return got, err
}

func pbLink(c cid.Cid, rest string) string {
	body := "\x0a" + string(rune(c.ByteLen())) + c.KeyString() + rest
	return "\x12" + string(rune(len(body))) + body
}

func TestEach(t *testing.T) {
	t.Parallel()
	a := sum(t, links.Raw, multihash.SHA2_256, "a")
	b := cid.NewCidV0(sum(t, links.DagPB, multihash.SHA2_256, "b").Hash())
	cbor := func(c cid.Cid) string {
		return "\xd8\x2a\x58" + string([]byte{byte(c.ByteLen() + 1)}) + "\x00" + c.KeyString()
	}
	inline := func(codec uint64, data string) cid.Cid { return sum(t, codec, multihash.IDENTITY, data) }
	nested := inline(links.DagCBOR, cbor(b))
	deep := a
	for range 40 {
		deep = inline(links.DagPB, pbLong(deep))
	}
	for name, row := range map[string]struct {
		codec uint64
		data  string
		want  []cid.Cid // nil if the block does not decode
	}{
		"raw":                 {links.Raw, cbor(a), []cid.Cid{}},
		"a codec unheard of":  {0x300000, cbor(a), []cid.Cid{}},
		"pb empty":            {links.DagPB, "", []cid.Cid{}},
		"pb data":             {links.DagPB, "\x0a\x02hi", []cid.Cid{}},
		"pb links and data":   {links.DagPB, pbLink(a, "") + pbLink(b, "\x12\x01n\x18\x07") + "\x0a\x02hi", []cid.Cid{a, b}},
		"pb data and links":   {links.DagPB, "\x0a\x02hi" + pbLink(a, "") + pbLink(a, ""), []cid.Cid{a, a}},
		"pb links around":     {links.DagPB, pbLink(a, "") + "\x0a\x02hi" + pbLink(a, ""), nil},
		"pb data twice":       {links.DagPB, "\x0a\x02hi\x0a\x02hi", nil},
		"pb other field":      {links.DagPB, "\x1a\x02hi", nil},
		"pb varint":           {links.DagPB, "\x08\x02", nil},
		"pb cut":              {links.DagPB, "\x0a\x03hi", nil},
		"pb huge":             {links.DagPB, "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", nil},
		"pb link of nothing":  {links.DagPB, "\x12\x00", nil},
		"pb link without CID": {links.DagPB, "\x12\x03\x12\x01n", nil},
		"pb name first":       {links.DagPB, "\x12\x29\x12\x01n\x0a\x24" + a.KeyString(), nil},
		"pb CID twice":        {links.DagPB, pbLink(a, "\x0a\x24"+a.KeyString()), nil},
		"pb CID and more":     {links.DagPB, "\x12\x27\x0a\x25" + a.KeyString() + "!", nil},
		"pb bad CID":          {links.DagPB, "\x12\x04\x0a\x02hi", nil},
		"pb size of bytes":    {links.DagPB, pbLink(a, "\x1a\x01x"), nil},

		"cbor null":           {links.DagCBOR, "\xf6", []cid.Cid{}},
		"cbor link":           {links.DagCBOR, cbor(a), []cid.Cid{a}},
		"cbor list":           {links.DagCBOR, "\x83" + cbor(a) + "\x01" + cbor(b), []cid.Cid{a, b}},
		"cbor map":            {links.DagCBOR, "\xa2\x61a" + cbor(a) + "\x61b\x81" + cbor(b), []cid.Cid{a, b}},
		"cbor floats":         {links.DagCBOR, "\x82\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00\xf4", []cid.Cid{}},
		"cbor nothing":        {links.DagCBOR, "", nil},
		"cbor more":           {links.DagCBOR, "\xf6\xf6", nil},
		"cbor cut":            {links.DagCBOR, "\x82\xf6", nil},
		"cbor huge list":      {links.DagCBOR, "\x9b\xff\xff\xff\xff\xff\xff\xff\xff", nil},
		"cbor huge map":       {links.DagCBOR, "\xbb\x80\x00\x00\x00\x00\x00\x00\x00", nil},
		"cbor huge text":      {links.DagCBOR, "\x7b\xff\xff\xff\xff\xff\xff\xff\xff", nil},
		"cbor indefinite":     {links.DagCBOR, "\x9f\xff", nil},
		"cbor break":          {links.DagCBOR, "\xff", nil},
		"cbor longer number":  {links.DagCBOR, "\x18\x01", nil},
		"cbor other tag":      {links.DagCBOR, "\xc1\x01", nil},
		"cbor key of numbers": {links.DagCBOR, "\xa1\x01\x01", nil},
		"cbor link of text":   {links.DagCBOR, "\xd8\x2a\x61x", nil},
		"cbor link, bare":     {links.DagCBOR, "\xd8\x2a\x58\x24" + a.KeyString(), nil},
		"cbor link, cut":      {links.DagCBOR, "\xd8\x2a\x58\x25\x00" + a.KeyString()[:30], nil},
		"cbor link, empty":    {links.DagCBOR, "\xd8\x2a\x40", nil},
		"cbor tower":          {links.DagCBOR, strings.Repeat("\x81", 100_000) + "\x01", nil},
		"cbor simple":         {links.DagCBOR, "\xe0", nil},

		"json null":        {links.DagJSON, "null", []cid.Cid{}},
		"json link":        {links.DagJSON, fmt.Sprintf(`{"/":"%s"}`, a), []cid.Cid{a}},
		"json links":       {links.DagJSON, fmt.Sprintf(` {"x":[{"/":"%s"},1.5e3,true,"/"], "y":{"z":{"/":"%s"}}} `, a, b), []cid.Cid{a, b}},
		"json bytes":       {links.DagJSON, `{"/":{"bytes":"aGk"}}`, []cid.Cid{}},
		"json text":        {links.DagJSON, fmt.Sprintf(`["/","%s"]`, a), []cid.Cid{}},
		"json nothing":     {links.DagJSON, "", nil},
		"json cut":         {links.DagJSON, `{"a":`, nil},
		"json more":        {links.DagJSON, `1 2`, nil},
		"json bracket":     {links.DagJSON, `]`, nil},
		"json mismatch":    {links.DagJSON, `{"a":1]`, nil},
		"json bad link":    {links.DagJSON, `{"/":"hello"}`, nil},
		"json tower":       {links.DagJSON, strings.Repeat("[", 100_000), nil},
		"json tower, maps": {links.DagJSON, strings.Repeat(`{"":`, 100_000), nil},

		"inline raw":            {links.DagCBOR, cbor(inline(links.Raw, cbor(a))), []cid.Cid{}},
		"inline cbor":           {links.DagCBOR, "\x82" + cborLong(inline(links.DagCBOR, "\x82"+cbor(a)+cbor(nested))) + cbor(a), []cid.Cid{a, b, a}},
		"inline pb":             {links.DagPB, pbLink(inline(links.DagPB, pbLink(a, "")), ""), []cid.Cid{a}},
		"inline of no sense":    {links.DagPB, pbLink(inline(links.DagPB, "!"), ""), nil},
		"inline, like an onion": {links.DagPB, pbLong(deep), nil},
	} {
		got, err := each(t, row.codec, row.data)
		if row.want == nil {
			if !errors.Is(err, links.ErrInvalid) {
				t.Errorf("%s: links %v, %v", name, got, err)
			}
			continue
		}
		if err != nil || !slices.Equal(got, row.want) {
			t.Errorf("%s: links %v, %v, want %v", name, got, err, row.want)
		}
	}
}

// pbLong makes a DAG-PB node with one link, of any length.
func pbLong(c cid.Cid) string {
	body := "\x0a" + uvarint(c.ByteLen()) + c.KeyString()
	return "\x12" + uvarint(len(body)) + body
}

func uvarint(n int) string {
	var b []byte
	for ; n >= 0x80; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return string(append(b, byte(n)))
}

func cborLong(c cid.Cid) string {
	n := c.ByteLen() + 1
	if n < 256 {
		return "\xd8\x2a\x58" + string([]byte{byte(n)}) + "\x00" + c.KeyString()
	}
	return "\xd8\x2a\x59" + string([]byte{byte(n >> 8), byte(n)}) + "\x00" + c.KeyString()
}

func TestEachStops(t *testing.T) {
	t.Parallel()
	stop := errors.New("stop")
	a := sum(t, links.Raw, multihash.SHA2_256, "a")
	for codec, data := range map[uint64]string{
		links.DagPB: pbLong(a) + pbLong(a), links.DagCBOR: "\x82" + cborLong(a) + cborLong(a), links.DagJSON: fmt.Sprintf(`[{"/":"%s"},{"/":"%s"}]`, a, a),
	} {
		calls := 0
		err := links.Each(sum(t, codec, multihash.SHA2_256, data), []byte(data), func(cid.Cid) error { calls++; return stop })
		if !errors.Is(err, stop) || calls != 1 {
			t.Errorf("codec 0x%x: %d calls, %v", codec, calls, err)
		}
	}
}

func TestDirect(t *testing.T) {
	t.Parallel()
	a := sum(t, links.Raw, multihash.SHA2_256, "a")
	for codec, data := range map[uint64]func(cid.Cid) string{
		links.DagPB: pbLong, links.DagCBOR: cborLong, links.DagJSON: func(c cid.Cid) string { return fmt.Sprintf(`{"/":"%s"}`, c) },
	} {
		inline := sum(t, codec, multihash.IDENTITY, data(a))
		find := func(each func(uint64, []byte, func(cid.Cid) error) error) (got []cid.Cid) {
			if err := each(codec, []byte(data(inline)), func(c cid.Cid) error { got = append(got, c); return nil }); err != nil {
				t.Errorf("codec 0x%x: %v", codec, err)
			}
			return got
		}
		if got := find(links.Direct); !slices.Equal(got, []cid.Cid{inline}) {
			t.Errorf("codec 0x%x: direct links %v", codec, got)
		}
		if got := find(links.OfCodec); !slices.Equal(got, []cid.Cid{a}) {
			t.Errorf("codec 0x%x: links %v", codec, got)
		}
		broken := sum(t, codec, multihash.IDENTITY, strings.Repeat("!", 30))
		nop := func(cid.Cid) error { return nil }
		if err := links.Direct(codec, []byte(data(broken)), nop); err != nil {
			t.Errorf("codec 0x%x: direct links: %v", codec, err)
		}
		if err := links.OfCodec(codec, []byte(data(broken)), nop); !errors.Is(err, links.ErrInvalid) {
			t.Errorf("codec 0x%x: links of a broken inline block: %v", codec, err)
		}
	}
}

// theirs finds links with the codecs of go-ipld-prime.
func theirs(codec uint64, data []byte) ([]cid.Cid, error) {
	var b datamodel.NodeBuilder
	var err error
	switch codec {
	case links.DagPB:
		b = dagpb.Type.PBNode.NewBuilder()
		err = dagpb.DecodeBytes(b, data)
	case links.DagCBOR:
		b = basicnode.Prototype.Any.NewBuilder()
		err = dagcbor.Decode(b, bytes.NewReader(data))
	default:
		b = basicnode.Prototype.Any.NewBuilder()
		err = dagjson.Decode(b, bytes.NewReader(data))
	}
	if err != nil {
		return nil, err
	}
	ls, err := traversal.SelectLinks(b.Build())
	var out []cid.Cid
	for _, l := range ls {
		out = append(out, l.(cidlink.Link).Cid)
	}
	return out, err
}

// FuzzEach looks for blocks that crash, or in which go-ipld-prime finds other
// links.
func FuzzEach(f *testing.F) {
	a := sum(f, links.Raw, multihash.SHA2_256, "a")
	f.Add(uint8(0), []byte(pbLong(a)+"\x0a\x02hi"))
	f.Add(uint8(0), []byte("\x0a\x02hi"+pbLink(a, "\x12\x01n\x18\x07")))
	f.Add(uint8(1), []byte("\xa2\x61a"+cborLong(a)+"\x61b\x83\x20\xfb\x3f\xf8\x00\x00\x00\x00\x00\x00\xf6"))
	f.Add(uint8(2), fmt.Appendf(nil, `{"x":[{"/":"%s"},{"/":{"bytes":"aGk"}},1.5,"é\n"],"/":null}`, a))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		codec := codecs[int(which)%len(codecs)]
		var ours []cid.Cid
		err := links.Each(cid.NewCidV1(codec, a.Hash()), data, func(c cid.Cid) error {
			if _, inline := links.Identity(c); inline {
				t.Fatal("an identity CID")
			}
			ours = append(ours, c)
			return nil
		})
		if err != nil && !errors.Is(err, links.ErrInvalid) {
			t.Fatal(err)
		}
		want, theirErr := theirs(codec, data)
		if theirErr != nil || codec == links.DagJSON && !json.Valid(data) { // they accept more than JSON
			return
		}
		for _, c := range want {
			if c.Prefix().MhType == multihash.IDENTITY {
				return // they don't look inside it
			}
		}
		if err != nil {
			for _, lax := range []string{
				"CID of a DAG-PB link",                         // they accept bytes after the CID
				"DAG-CBOR has tag", "a link that is not bytes", // they ignore tags on other things than links
			} {
				if strings.Contains(err.Error(), lax) {
					return
				}
			}
			t.Fatalf("we say %v, they find %v", err, want)
		}
		if codec == links.DagJSON {
			byKey := func(a, b cid.Cid) int { return strings.Compare(a.KeyString(), b.KeyString()) }
			slices.SortFunc(ours, byKey)
			slices.SortFunc(want, byKey)
		}
		if !slices.Equal(ours, want) {
			t.Fatalf("links %v, they find %v", ours, want)
		}
	})
}
