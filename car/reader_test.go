package car_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/ipfs/go-cid"
	carv2 "github.com/ipld/go-car/v2"
	"github.com/multiformats/go-multihash"
	"pgregory.net/rapid"

	"github.com/carload/carload/car"
)

// readAll reads an archive to its end. The blocks are copies.
func readAll(r io.Reader, opts car.ReaderOptions) (*car.Reader, car.Blocks, []int64, error) {
	rd, err := car.NewReader(r, opts)
	if err != nil {
		return nil, nil, nil, err
	}
	var blocks car.Blocks
	var offsets []int64
	for {
		s, err := rd.Next()
		if errors.Is(err, io.EOF) {
			return rd, blocks, offsets, nil
		}
		if err != nil {
			return rd, blocks, offsets, err
		}
		blocks = append(blocks, car.Block{Cid: s.Cid, Head: bytes.Clone(s.Data)})
		offsets = append(offsets, s.Offset)
	}
}

// goCarAll reads an archive with go-car.
func goCarAll(r io.Reader) ([]cid.Cid, car.Blocks, error) {
	rd, err := carv2.NewBlockReader(r)
	if err != nil {
		return nil, nil, err
	}
	var blocks car.Blocks
	for {
		b, err := rd.Next()
		if errors.Is(err, io.EOF) {
			return rd.Roots, blocks, nil
		}
		if err != nil {
			return rd.Roots, blocks, err
		}
		blocks = append(blocks, car.Block{Cid: b.Cid(), Head: b.RawData()})
	}
}

func equalBlocks(a, b car.Blocks) bool {
	return slices.EqualFunc(a, b, func(a, b car.Block) bool { return a.Cid == b.Cid && bytes.Equal(a.Head, b.Head) })
}

func TestReader(t *testing.T) {
	t.Parallel()
	small := boxoFile(t, mod251(30_000), 1024, 4, 0)
	big := boxoFile(t, mod251(6<<20), 1<<20, 4, 1)
	many := boxoFile(t, mod251(100_000), 5, 400, 1)
	for name, blocks := range map[string]car.Blocks{"small": small, "big": big, "many": many, "none": nil} {
		root := small[0].Cid
		v1 := pack(t, root, blocks)
		for version, data := range map[string][]byte{
			"v1": v1, "v2": wrapV2(t, v1, 0, 0), "v2 with padding": wrapV2(t, v1, 70_001, 17),
			"v2 without index": wrapV2(t, v1, 0, 0)[:51+len(v1)],
		} {
			for how, r := range map[string]io.Reader{
				"at once": bytes.NewReader(data), "half": iotest.HalfReader(bytes.NewReader(data)), "EOF with data": iotest.DataErrReader(bytes.NewReader(data)),
			} {
				t.Run(name+"/"+version+"/"+how, func(t *testing.T) {
					t.Parallel()
					rd, got, offsets, err := readAll(r, car.ReaderOptions{})
					if err != nil {
						t.Fatal(err)
					}
					if !equalBlocks(got, blocks) {
						t.Fatal("other blocks")
					}
					if len(rd.Roots) != 1 || rd.Roots[0] != root || rd.Version != int(version[1]-'0') {
						t.Errorf("roots %v of version %d", rd.Roots, rd.Version)
					}
					at := car.HeaderSize(root)
					for i := range got {
						if offsets[i] != at {
							t.Fatalf("section %d is at %d, want %d", i, offsets[i], at)
						}
						at += blocks[i].SectionSize()
					}
					if s, err := rd.Next(); !errors.Is(err, io.EOF) || s.Cid.Defined() {
						t.Errorf("after the end: %v", err)
					}
				})
			}
		}
	}
	if data := pack(t, small[0].Cid, small); true {
		_, got, _, err := readAll(iotest.OneByteReader(bytes.NewReader(data)), car.ReaderOptions{})
		if err != nil || !equalBlocks(got, small) {
			t.Errorf("byte by byte: %v", err)
		}
	}
}

func uv(v uint64) string { return string(binary.AppendUvarint(nil, v)) }

// longUvarint encodes a varint in n bytes, more than it needs.
func longUvarint(v uint64, n int) string {
	var b []byte
	for range n - 1 {
		b = append(b, byte(v)|0x80)
		v >>= 7
	}
	return string(append(b, byte(v)))
}

func section(c cid.Cid, data string) string {
	return uv(uint64(c.ByteLen()+len(data))) + c.KeyString() + data
}

// What other readers accept or fail on is rejected, with a reason.
func TestReaderIsStrict(t *testing.T) {
	t.Parallel()
	noRoots := "\x11\xa2\x65roots\x80\x67version\x01"
	hello := sum(t, cid.Raw, multihash.SHA2_256, []byte("hello"))
	good := section(hello, "hello")
	v0 := cid.NewCidV0(hello.Hash())
	sha512 := sum(t, cid.Raw, multihash.SHA2_512, []byte("hello"))
	header := func(body string) string { return uv(uint64(len(body))) + body }
	root := string(car.AppendHeader(nil, hello))
	v2 := func(at, size uint64, rest string) string {
		h := make([]byte, 40)
		binary.LittleEndian.PutUint64(h[16:], at)
		binary.LittleEndian.PutUint64(h[24:], size)
		return "\x0a\xa1\x67version\x02" + string(h) + rest
	}
	v1 := root + good
	n := uint64(len(v1))

	for name, row := range map[string]struct {
		data   string
		blocks int    // returned before the error
		text   string // part of the error; empty if none is expected
		is     error  // ErrMalformed if nil
	}{
		"no roots":              {noRoots + good, 1, "", nil},
		"one root":              {v1, 1, "", nil},
		"keys the other way":    {header("\xa2\x67version\x01\x65roots\x80") + good, 1, "", nil},
		"empty block":           {noRoots + section(sum(t, cid.Raw, multihash.SHA2_256, nil), ""), 1, "", nil},
		"CIDv0":                 {noRoots + section(v0, "hello"), 1, "", nil},
		"SHA-512":               {noRoots + section(sha512, "hello"), 1, "", nil},
		"identity":              {noRoots + section(sum(t, cid.Raw, multihash.IDENTITY, []byte("hello")), "hello"), 1, "", nil},
		"the same twice":        {v1 + good, 2, "", nil},
		"version 2":             {v2(51, n, v1), 1, "", nil},
		"version 2 and more":    {v2(51, n, v1+"an index"), 1, "", nil},
		"version 2 and padding": {v2(60, n, "123456789"+v1), 1, "", nil},

		"nothing":                     {"", 0, "empty", nil},
		"cut in the header's length":  {"\x80", 0, "ends within", nil},
		"no header":                   {"\x00", 0, "empty", nil},
		"header of 2^63":              {strings.Repeat("\x80", 9) + "\x01", 0, "length of a header", nil},
		"header of 2^70":              {strings.Repeat("\x80", 10) + "\x01", 0, "length of a header", nil},
		"header's length overlong":    {"\x91\x00" + noRoots[1:], 0, "minimal", nil},
		"header of 33 MiB":            {uv(33<<20) + "\xa2", 0, "limit", nil},
		"header cut":                  {noRoots[:10], 0, "ends within the header", nil},
		"header of 30 MiB, cut":       {uv(30<<20) + "\xa2", 0, "ends within the header", nil},
		"not CBOR":                    {header("hello"), 0, "header", nil},
		"header of an array":          {header("\x82\x65roots\x80"), 0, "header", nil},
		"no version":                  {header("\xa1\x65roots\x80"), 0, "no version", nil},
		"no roots key":                {header("\xa1\x67version\x01"), 0, "no roots", nil},
		"roots: null":                 {header("\xa2\x65roots\xf6\x67version\x01"), 0, "header", nil},
		"roots twice":                 {header("\xa2\x65roots\x80\x65roots\x80"), 0, "roots", nil},
		"a third key":                 {header("\xa3\x61x\x01\x65roots\x80\x67version\x01"), 0, "3 entries", nil},
		"another key":                 {header("\xa2\x61x\x01\x67version\x01"), 0, `"x"`, nil},
		"header and more":             {header("\xa2\x65roots\x80\x67version\x01\x00"), 0, "too many", nil},
		"version 0":                   {header("\xa2\x65roots\x80\x67version\x00"), 0, "version 0", nil},
		"version 3":                   {header("\xa2\x65roots\x80\x67version\x03"), 0, "version 3", nil},
		"version 42":                  {header("\xa1\x67version\x18\x2a"), 0, "version 42", nil},
		"version -1":                  {header("\xa2\x65roots\x80\x67version\x20"), 0, "bad version", nil},
		"version overlong":            {header("\xa2\x65roots\x80\x67version\x18\x01"), 0, "bad version", nil},
		"version 2 inside":            {header("\xa2\x65roots\x80\x67version\x02") + strings.Repeat("x", 100), 0, "pragma has roots", nil},
		"root without tag":            {header("\xa2\x65roots\x81\x58\x25\x00" + hello.KeyString() + "\x67version\x01"), 0, "header", nil},
		"root of another tag":         {header("\xa2\x65roots\x81\xd8\x2b\x58\x25\x00" + hello.KeyString() + "\x67version\x01"), 0, "header", nil},
		"root without prefix":         {header("\xa2\x65roots\x81\xd8\x2a\x58\x24" + hello.KeyString() + "\x67version\x01"), 0, "header", nil},
		"root of nothing":             {header("\xa2\x65roots\x81\xd8\x2a\x41\x00\x67version\x01"), 0, "root", nil},
		"root and more":               {header("\xa2\x65roots\x81\xd8\x2a\x58\x26\x00" + hello.KeyString() + "!\x67version\x01"), 0, "root", nil},
		"2^32 roots":                  {header("\xa2\x65roots\x9a\xff\xff\xff\xff\xd8\x2a"), 0, "header", nil},
		"roots of indefinite length":  {header("\xa2\x65roots\x9f\xff\x67version\x01"), 0, "header", nil},
		"a map of indefinite length":  {header("\xbf\x65roots\x80\x67version\x01\xff"), 0, "header", nil},
		"empty section":               {v1 + "\x00", 1, "empty", nil},
		"padding and more":            {v1 + "\x00\x00\x00\x01", 1, "empty", nil},
		"padding":                     {v1 + strings.Repeat("\x00", 100), 1, "empty", nil},
		"garbage":                     {v1 + "garbage", 1, "ends within", nil},
		"a bare length":               {v1 + "\x2b", 1, "ends within", nil},
		"half a length":               {v1 + "\xab", 1, "ends within", nil},
		"a cut section":               {v1 + good[:len(good)-1], 1, "ends within", nil},
		"a cut CID":                   {v1 + good[:20], 1, "ends within", nil},
		"length overlong":             {v1 + longUvarint(41, 2) + good[1:], 1, "minimal", nil},
		"length of 10 bytes":          {v1 + longUvarint(41, 10) + good[1:], 1, "length of a section", nil},
		"length of 2^63":              {v1 + uv(1<<63) + good[1:], 1, "length of a section", nil},
		"length of 2^63 - 1":          {v1 + uv(math.MaxInt64) + good[1:], 1, "limit", nil},
		"a section of 9 MiB":          {v1 + uv(9<<20) + good[1:], 1, "limit", nil},
		"shorter than its CID":        {v1 + "\x03\x01\x55\x12", 1, "CID", nil},
		"a CID in part":               {v1 + uv(35) + hello.KeyString()[:35], 1, "CID", nil},
		"CID of version 2":            {v1 + uv(36) + "\x02" + hello.KeyString()[1:], 1, "CID", nil},
		"CID version overlong":        {v1 + uv(42) + "\x81\x00" + hello.KeyString()[1:] + "hello", 1, "CID", nil},
		"CID codec overlong":          {v1 + uv(42) + "\x01\xd5\x00" + hello.KeyString()[2:] + "hello", 1, "CID", nil},
		"a digest of nothing":         {v1 + section(cid.NewCidV1(cid.Raw, []byte("\x12\x00")), "hello"), 1, "digest of 0 bytes", nil},
		"a digest cut short":          {v1 + section(cid.NewCidV1(cid.Raw, []byte("\x12\x10"+string(hello.Hash()[2:18]))), "hello"), 1, "digest of 16 bytes", nil},
		"CIDv0 of another length":     {v1 + uv(38) + "\x12\x1f" + string(hello.Hash()[2:33]) + "hello", 1, "CID", nil},
		"digest longer than it is":    {v1 + uv(41) + "\x01\x55\x12\x40" + string(hello.Hash()[2:]) + "hello", 1, "CID", nil},
		"other bytes":                 {v1 + section(hello, "hellp"), 1, hello.String(), car.ErrCorrupt},
		"other bytes under a CIDv0":   {v1 + section(v0, "hellp"), 1, v0.String(), car.ErrCorrupt},
		"other bytes under SHA-512":   {v1 + section(sha512, "hellp"), 1, sha512.String(), car.ErrCorrupt},
		"other bytes inline":          {v1 + section(sum(t, cid.Raw, multihash.IDENTITY, []byte("hello")), "hellp"), 1, "", car.ErrCorrupt},
		"other bytes, and then a cut": {section2(noRoots, hello, "hellp") + "\x2b", 0, "", car.ErrCorrupt},

		"version 2, cut in its header":  {v2(51, n, "")[:30], 0, "version 2 header", nil},
		"version 2, cut in its padding": {v2(600, n, "123"), 0, "padding", nil},
		"version 2, cut in the data":    {v2(51, n, v1[:len(v1)-1]), 0, "ends within", nil},
		"version 2 of no data":          {v2(51, 0, v1), 0, "0 bytes of data", nil},
		"version 2 of less data":        {v2(51, n-1, v1), 0, "beyond the end", nil},
		"version 2 of more data":        {v2(51, n+1, v1+"\x00"), 1, "empty", nil},
		"version 2 of a cut header":     {v2(51, 30, v1), 0, "beyond the end", nil},
		"version 2 with data in front":  {v2(50, n, v1), 0, "offset 50", nil},
		"version 2 with data far away":  {v2(1<<63, n, v1), 0, "version 2 header", nil},
		"version 2 with data without end": {
			v2(51, 1<<63, v1), 0, "version 2 header", nil,
		},
		"version 2 in version 2":   {v2(51, n+51, v2(51, n, v1)), 0, "version 2", nil},
		"version 2 with a wrap at": {v2(math.MaxUint64-10, n, v1), 0, "version 2 header", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, r := range []io.Reader{strings.NewReader(row.data), iotest.OneByteReader(strings.NewReader(row.data))} {
				_, blocks, _, err := readAll(r, car.ReaderOptions{})
				if len(blocks) != row.blocks {
					t.Errorf("%d blocks, want %d", len(blocks), row.blocks)
				}
				if row.text == "" && row.is == nil {
					if err != nil {
						t.Error(err)
					}
					continue
				}
				is := row.is
				if is == nil {
					is = car.ErrMalformed
				}
				if !errors.Is(err, is) || !strings.Contains(err.Error(), row.text) {
					t.Errorf("%v, want %v with %q", err, is, row.text)
				}
			}
			// The index finds the same defects, except in payloads.
			x := new(car.Index)
			contents, err := x.Add(ctx, &memory{"x.car", []byte(row.data)})
			malformed := row.text != "" && row.is == nil
			if contents.Padding > 0 {
				malformed = false // zeros at the end are a defect only to the reader
			}
			if errors.Is(err, car.ErrMalformed) != malformed && name != "other bytes, and then a cut" || !malformed && row.is == nil && err != nil {
				t.Errorf("index: %v", err)
			}
		})
	}
}

func section2(header string, c cid.Cid, data string) string { return header + section(c, data) }

func TestMalformedVectors(t *testing.T) {
	t.Parallel()
	rows := readVectors(t).CarMalformed
	if len(rows) < 8 {
		t.Fatalf("%d vectors", len(rows))
	}
	for _, v := range rows {
		data, err := hex.DecodeString(v.Hex)
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, err = readAll(bytes.NewReader(data), car.ReaderOptions{})
		fine := v.Name == "header keys version then roots" || v.Name == "empty CAR"
		if (err == nil) != fine || err != nil && !errors.Is(err, car.ErrMalformed) && !errors.Is(err, car.ErrCorrupt) {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}

// An archive cut anywhere but between two sections is rejected, after its
// complete blocks.
func TestReaderOfTruncated(t *testing.T) {
	t.Parallel()
	blocks := boxoFile(t, mod251(900), 128, 4, 0)
	v1 := pack(t, blocks[0].Cid, blocks)
	ends := map[int64]int{car.HeaderSize(blocks[0].Cid): 0}
	at := car.HeaderSize(blocks[0].Cid)
	for i, b := range blocks {
		at += b.SectionSize()
		ends[at] = i + 1
	}
	for n := range len(v1) {
		_, got, _, err := readAll(bytes.NewReader(v1[:n]), car.ReaderOptions{})
		_, indexErr := new(car.Index).Add(ctx, &memory{"x.car", v1[:n]})
		whole, between := ends[int64(n)]
		if !between {
			if !errors.Is(err, car.ErrMalformed) || !errors.Is(indexErr, car.ErrMalformed) {
				t.Fatalf("cut at %d: %v; index: %v", n, err, indexErr)
			}
			for end, k := range ends {
				if end < int64(n) {
					whole = max(whole, k)
				}
			}
		} else if err != nil || indexErr != nil {
			t.Fatalf("cut between sections at %d: %v; index: %v", n, err, indexErr)
		}
		if len(got) != whole || !equalBlocks(got, blocks[:whole]) {
			t.Fatalf("cut at %d: %d blocks, want %d", n, len(got), whole)
		}
	}
	// A CARv2 contains its length, so every cut is found.
	v2 := wrapV2(t, v1, 9, 0)
	for n := range 11 + 40 + 9 + len(v1) {
		_, _, _, err := readAll(bytes.NewReader(v2[:n]), car.ReaderOptions{})
		_, indexErr := new(car.Index).Add(ctx, &memory{"x.car", v2[:n]})
		if !errors.Is(err, car.ErrMalformed) || !errors.Is(indexErr, car.ErrMalformed) {
			t.Fatalf("version 2 cut at %d: %v; index: %v", n, err, indexErr)
		}
	}
}

// Every flipped bit is noticed: all blocks that are handed out match their
// CIDs, and none is made up.
func TestReaderOfFlipped(t *testing.T) {
	t.Parallel()
	blocks := boxoFile(t, mod251(300), 64, 4, 1)
	v1 := pack(t, blocks[0].Cid, blocks)
	for i := range len(v1) * 8 {
		bad := bytes.Clone(v1)
		bad[i/8] ^= 1 << (i % 8)
		rd, got, _, err := readAll(bytes.NewReader(bad), car.ReaderOptions{})
		inHeader := int64(i/8) < car.HeaderSize(blocks[0].Cid)
		if err == nil && !inHeader {
			// Another codec for the same bytes is the one change nobody can
			// detect.
			for k := range got {
				if !bytes.Equal(got[k].Head, blocks[k].Head) || !bytes.Equal(got[k].Cid.Hash(), blocks[k].Cid.Hash()) {
					t.Fatalf("bit %d: block %d is another", i, k)
				}
			}
		} else if err == nil && rd.Roots[0] == blocks[0].Cid {
			t.Fatalf("bit %d of the header is not noticed", i)
		}
	}
}

func TestReaderLimits(t *testing.T) {
	t.Parallel()
	blocks := boxoFile(t, mod251(5000), 1024, 4, 1)
	data := pack(t, blocks[0].Cid, blocks)
	if _, _, _, err := readAll(bytes.NewReader(data), car.ReaderOptions{MaxSectionBytes: 1024 + 36, MaxHeaderBytes: 58}); err != nil {
		t.Error(err)
	}
	if _, _, _, err := readAll(bytes.NewReader(data), car.ReaderOptions{MaxSectionBytes: 1024 + 35}); !errors.Is(err, car.ErrMalformed) {
		t.Errorf("a section too long: %v", err)
	}
	if _, _, _, err := readAll(bytes.NewReader(data), car.ReaderOptions{MaxHeaderBytes: 57}); !errors.Is(err, car.ErrMalformed) {
		t.Errorf("a header too long: %v", err)
	}
	data[len(data)-1] ^= 1
	if _, got, _, err := readAll(bytes.NewReader(data), car.ReaderOptions{Trusted: true}); err != nil || len(got) != len(blocks) {
		t.Errorf("trusted: %v", err)
	}
}

// Errors of the underlying reader are passed on unchanged.
func TestReaderOfFailingSource(t *testing.T) {
	t.Parallel()
	bad := errors.New("cable pulled")
	blocks := boxoFile(t, mod251(5000), 1024, 4, 1)
	data := pack(t, blocks[0].Cid, blocks)
	for _, n := range []int{0, 1, 30, 59, 60, 100, 400, 3000, len(data)} {
		_, _, _, err := readAll(io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(bad)), car.ReaderOptions{})
		if !errors.Is(err, bad) || errors.Is(err, car.ErrMalformed) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	if _, _, _, err := readAll(stuck{}, car.ReaderOptions{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a source that yields nothing: %v", err)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// go-car reads what we write, and we read what go-car writes.
func TestReaderAgainstGoCar(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var blocks car.Blocks
		for range rapid.IntRange(0, 20).Draw(t, "blocks") {
			data := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data")
			hash := rapid.SampledFrom([]uint64{multihash.SHA2_256, multihash.SHA2_256, multihash.SHA2_512, multihash.BLAKE3, multihash.IDENTITY}).Draw(t, "hash")
			mh, err := multihash.Sum(data, hash, -1)
			if err != nil {
				t.Fatal(err)
			}
			blocks = append(blocks, car.Block{Cid: cid.NewCidV1(rapid.SampledFrom([]uint64{cid.Raw, cid.DagCBOR, 0x300000}).Draw(t, "codec"), mh), Head: data})
		}
		mh, err := multihash.Sum([]byte("root"), multihash.SHA2_256, -1)
		if err != nil {
			t.Fatal(err)
		}
		root := cid.NewCidV1(cid.Raw, mh)
		var p car.Packer
		data, err := io.ReadAll(p.Open(ctx, car.NewArchive(root, blocks)))
		if err != nil {
			t.Fatal(err)
		}
		roots, theirs, err := goCarAll(bytes.NewReader(data))
		if err != nil || len(roots) != 1 || roots[0] != root || !equalBlocks(theirs, blocks) {
			t.Fatalf("go-car reads %d blocks, %v", len(theirs), err)
		}
		_, ours, _, err := readAll(bytes.NewReader(data), car.ReaderOptions{})
		if err != nil || !equalBlocks(ours, blocks) {
			t.Fatalf("we read %d blocks, %v", len(ours), err)
		}
	})
}

// FuzzReader looks for archives that crash the reader or the index, that we
// accept and go-car does not, or in which the two find different blocks.
func FuzzReader(f *testing.F) {
	blocks := boxoFile(f, mod251(900), 128, 4, 0)
	v1 := pack(f, blocks[0].Cid, blocks)
	f.Add(v1)
	f.Add(v1[:len(v1)-3])
	f.Add(wrapV2(f, v1, 5, 3))
	mixed := car.Blocks{block(f, cid.DagCBOR, multihash.SHA2_512, 0, []byte{0xa0}), block(f, 0x300000, multihash.IDENTITY, 0, []byte("inline")), block(f, cid.Raw, multihash.SHA1, 0, nil)}
	f.Add(pack(f, mixed[0].Cid, mixed))
	for _, v := range readVectors(f).CarMalformed {
		data, err := hex.DecodeString(v.Hex)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		rd, ours, _, err := readAll(bytes.NewReader(data), car.ReaderOptions{MaxHeaderBytes: 1 << 20})
		var x car.Index
		contents, indexErr := x.Add(ctx, &memory{"x.car", data})
		if err == nil && indexErr != nil {
			t.Fatalf("the reader takes it, the index says %v", indexErr)
		}
		if indexErr == nil && contents.Padding > 0 && errors.Is(err, car.ErrMalformed) {
			return // zeros at the end are a defect only to the reader
		}
		if indexErr == nil && errors.Is(err, car.ErrMalformed) && !strings.Contains(err.Error(), "limit") {
			t.Fatalf("the index takes it, the reader says %v", err)
		}
		if err != nil {
			return
		}
		if contents.Sections != len(ours) {
			t.Fatalf("the index finds %d sections, the reader %d", contents.Sections, len(ours))
		}
		var l car.Loader
		for _, b := range ours {
			if car.IsIdentity(b.Cid) {
				continue
			}
			at, ok := x.Find(b.Cid)
			if !ok {
				t.Fatalf("the index has no %s", b.Cid)
			}
			got, err := l.Load(ctx, at)
			if err != nil || !bytes.Equal(got, b.Head) {
				t.Fatalf("%s is loaded as %x, %v", b.Cid, got, err)
			}
		}
		roots, theirs, err := goCarAll(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("go-car says %v", err)
		}
		if !slices.Equal(roots, rd.Roots) || !equalBlocks(ours, theirs) {
			t.Fatalf("roots %v and %d blocks, go-car reads %v and %d", rd.Roots, len(ours), roots, len(theirs))
		}
		if len(rd.Roots) == 1 && !car.IsIdentity(rd.Roots[0]) {
			if d, err := x.DAG(ctx, rd.Roots[0]); err == nil {
				if again := pack(t, d.Root(), d); len(again) == 0 {
					t.Fatal("nothing")
				}
			}
		}
	})
}

// A section with only an identity CID takes many times its size in memory while
// it waits in a batch.
func TestReaderOfTinySections(t *testing.T) {
	const count = 1 << 20
	empty := cid.MustParse("bafkqaaa")
	file := car.AppendHeader(nil, empty)
	for range count {
		file = append(binary.AppendUvarint(file, uint64(empty.ByteLen())), empty.Bytes()...)
	}
	live := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := live()
	r, err := car.NewReader(bytes.NewReader(file), car.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if more := live() - before; more > 16<<20 {
		t.Errorf("the reader keeps %d bytes", more)
	}
	n := 1
	for ; err == nil; n++ {
		_, err = r.Next()
	}
	if n-1 != count || !errors.Is(err, io.EOF) {
		t.Errorf("%d of %d sections, %v", n-1, count, err)
	}
}
