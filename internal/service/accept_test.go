package service_test

import (
	"bytes"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"
)

// wrapV2 wraps a CARv1 in a CARv2, with padding and the start of an index.
func wrapV2(v1 []byte) []byte {
	out := []byte("\x0a\xa1\x67version\x02")
	h := make([]byte, 40)
	const pad = 7
	binary.LittleEndian.PutUint64(h[16:], 51+pad)
	binary.LittleEndian.PutUint64(h[24:], uint64(len(v1)))
	binary.LittleEndian.PutUint64(h[32:], uint64(51+pad+len(v1)))
	out = append(append(out, h...), make([]byte, pad)...)
	return append(append(out, v1...), "index of some kind"...)
}

func TestUploadCARChecks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	leaf, other := raw("leaf"), raw("other")
	node := pbNode("node", leaf.CID)
	broken := blockOf(cid.DagProtobuf, []byte{0xff})
	brokenCBOR := blockOf(cid.DagCBOR, []byte{0x9f})
	full := blockOf(cid.Raw, make([]byte, 2<<20))
	over := blockOf(cid.Raw, make([]byte, 2<<20+1))
	good := carOf(node, leaf)
	identity := hashedBlock(cid.Raw, multihash.IDENTITY, []byte("inline"))
	badHash := block{CID: node.CID, Data: []byte("not the bytes")}
	v0 := block{CID: cid.NewCidV0(node.CID.Hash()), Data: node.Data}
	json := blockOf(cid.DagJSON, []byte(`{"a":{"/":"`+leaf.CID.String()+`"}}`))
	sha1 := hashedBlock(cid.Raw, multihash.SHA1, []byte("x"))
	blake256, blake512 := hashedBlock(cid.Raw, multihash.BLAKE2B_MIN+31, []byte("b")), hashedBlock(cid.Raw, multihash.BLAKE2B_MIN+63, []byte("b"))
	cut, err := multihash.Sum([]byte("cut"), multihash.SHA2_256, 20)
	if err != nil {
		t.Fatal(err)
	}
	short, err := multihash.Sum([]byte("cut"), multihash.SHA2_256, 19)
	if err != nil {
		t.Fatal(err)
	}
	tooShort := block{CID: cid.NewCidV1(cid.Raw, short), Data: []byte("cut")}
	blake3, md5 := hashedBlock(cid.Raw, multihash.BLAKE3, []byte("x")), hashedBlock(cid.Raw, multihash.MD5, []byte("x"))
	truncated := block{CID: cid.NewCidV1(cid.Raw, cut), Data: []byte("cut")}

	const bad = "Invalid CAR file received: failed hash verification: "
	for _, row := range []struct {
		name    string
		body    []byte
		status  int
		code    string
		message string // the start of the message
	}{
		{"nothing", nil, 500, "Error", "Unexpected end of data"},
		{"not a CAR", []byte("hello, this is not a CAR file"), 500, "Error", ""},
		{"zero header", []byte{0}, 500, "Error", "Invalid CAR header (zero length)"},
		{"cut header", good[:30], 500, "Error", "Unexpected end of data"},
		{"version 3", append([]byte{10, 0xa1, 0x67}, "version\x03"...), 500, "Error", ""},
		{"no roots", carFile(nil, node, leaf), 500, "Error", "missing roots"},
		{"two roots", carFile([]cid.Cid{node.CID, leaf.CID}, node, leaf), 500, "Error", "too many roots"},
		{"two roots beat a bad block", carFile([]cid.Cid{node.CID, leaf.CID}, badHash), 500, "Error", "too many roots"},
		{"no blocks", carFile([]cid.Cid{node.CID}), 500, "Error", "empty CAR"},
		{"root absent", carFile([]cid.Cid{node.CID}, leaf, other), 500, "Error", "missing root block"},
		{"bad hash", carFile([]cid.Cid{node.CID}, badHash), 400, "ERROR_INVALID_CAR", bad + node.CID.String() + ": CID hash does not match bytes"},
		{"bad hash beats absent root", carFile([]cid.Cid{leaf.CID}, badHash), 400, "ERROR_INVALID_CAR", bad},
		{"bad hash beats a later big block", carFile([]cid.Cid{node.CID}, badHash, over), 400, "ERROR_INVALID_CAR", bad},
		{"bad hash beats a later cut", carFile([]cid.Cid{node.CID}, badHash, leaf)[:150], 400, "ERROR_INVALID_CAR", bad},
		{"big block beats a later bad hash", carFile([]cid.Cid{node.CID}, over, badHash), 500, "Error", "block too big: 2097153 > 2097152"},
		{"flipped last byte", flip(good, -1), 400, "ERROR_INVALID_CAR", bad + leaf.CID.String()},
		{"root with links alone", carOf(node), 500, "Error", "CAR must contain at least one non-root block"},
		{"root does not decode", carOf(broken, leaf), 500, "Error", ""},
		{"CBOR root does not decode", carOf(brokenCBOR, leaf), 500, "Error", ""},
		{"header v1, block v0", carFile([]cid.Cid{node.CID}, v0, leaf), 500, "Error", "missing root block"},
		{"bad identity block", carOf(node, block{CID: identity.CID, Data: []byte("other")}), 400, "ERROR_INVALID_CAR", bad + identity.CID.String() + ": CID hash does not match bytes"},
		{"bad sha1", carOf(block{CID: sha1.CID, Data: []byte("y")}), 400, "ERROR_INVALID_CAR", bad + sha1.CID.String() + ": CID hash does not match bytes"},
		{"bad blake3", carOf(block{CID: blake3.CID, Data: []byte("y")}), 400, "ERROR_INVALID_CAR", bad + blake3.CID.String() + ": CID hash does not match bytes"},
		{"md5", carOf(node, md5), 400, "ERROR_INVALID_CAR", bad + md5.CID.String() + ": multihash code 213 is not supported"},
		{"digest cut too short", carOf(tooShort), 400, "ERROR_INVALID_CAR", bad + tooShort.CID.String() + ": multihash code 18 is not supported"},
		{"bad digest that is cut", carOf(block{CID: truncated.CID, Data: []byte("y")}), 400, "ERROR_INVALID_CAR", bad + truncated.CID.String() + ": CID hash does not match bytes"},
		{"cut in a block", good[:len(good)-1], 500, "Error", "Unexpected end of data"},
		{"cut after a length", append(bytes.Clone(good), 40), 500, "Error", "Unexpected end of data"},
		{"padding", append(bytes.Clone(good), 0), 500, "Error", "Invalid CAR section (zero length)"},
		{"length not minimal", append(bytes.Clone(good), 0x80|36, 0), 500, "Error", ""},
		{"endless varint", append(bytes.Clone(good), bytes.Repeat([]byte{0xff}, 64)...), 500, "Error", ""},
		{"huge header", varint.ToUvarint(1 << 40), 500, "Error", ""},
		{"huge section", append(bytes.Clone(good), varint.ToUvarint(1<<40)...), 500, "Error", ""},
		{"v2 cut in the data", wrapV2(good)[:60+len(good)-9], 500, "Error", ""},
		{"v2 with lying offset", append([]byte("\x0a\xa1\x67version\x02"), bytes.Repeat([]byte{0xff}, 40)...), 500, "Error", ""},
		{"v2 in v2", wrapV2(wrapV2(good)), 500, "Error", ""},

		{"good", good, 200, "", ""},
		{"good again", good, 200, "", ""},
		{"v2", wrapV2(good), 200, "", ""},
		{"v0 root", carFile([]cid.Cid{v0.CID}, v0, leaf), 200, "", ""},
		{"largest block", carOf(full), 200, "", ""},
		{"duplicates", carOf(node, node), 200, "", ""},
		{"unrelated block", carOf(node, other), 200, "", ""},
		{"root last", carFile([]cid.Cid{node.CID}, leaf, node), 200, "", ""},
		{"empty block", carOf(raw("")), 200, "", ""},
		{"node without links", carOf(pbNode("alone")), 200, "", ""},
		{"dag-json root", carOf(json), 200, "", ""},
		{"blake2b-256", carOf(blake256), 200, "", ""},
		{"blake2b-512", carOf(blake512), 200, "", ""},
		{"blake3", carOf(blake3), 200, "", ""},
		{"identity block", carOf(node, identity), 200, "", ""},
		{"sha1", carOf(sha1), 200, "", ""},
		{"digest that is cut", carOf(truncated), 200, "", ""},
		{"sha2-512", carOf(hashedBlock(cid.Raw, multihash.SHA2_512, []byte("x"))), 200, "", ""},
		{"sha3-256", carOf(hashedBlock(cid.Raw, multihash.SHA3_256, []byte("x"))), 200, "", ""},
		{"keccak-512", carOf(hashedBlock(cid.Raw, multihash.KECCAK_512, []byte("x"))), 200, "", ""},
		{"shake-128", carOf(hashedBlock(cid.Raw, multihash.SHAKE_128, []byte("x"))), 200, "", ""},
	} {
		before := files(t, dir)
		a := s.putCAR(row.body)
		if a.status != row.status || a.Error.Code != row.code || !strings.HasPrefix(a.Error.Message, row.message) {
			t.Errorf("%s: got %d %s", row.name, a.status, a.raw)
		}
		if after := files(t, dir); row.status != 200 && after != before {
			t.Errorf("%s: left something behind:\n%s\nwas\n%s", row.name, after, before)
		}
	}
	report, err := s.st.Fsck(t.Context())
	if err != nil || len(report.Problems) > 0 {
		t.Errorf("fsck: %v %v", report, err)
	}
}

// files lists the files in the store, without the database.
func files(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(path, "index.db") {
			out = append(out, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return strings.Join(out, "\n")
}

func TestSizeOfCAR(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	leaf := raw("hello world car")
	node := pbNode("node", leaf.CID, raw("absent").CID) // each link claims 100 bytes
	for _, row := range []struct {
		name string
		body []byte
		size int64
	}{
		{"raw", carOf(leaf), 15},
		{"dag-pb", carOf(node, leaf), int64(len(node.Data)) + 200},
		{"dag-cbor", carOf(cborNode("x", leaf.CID), leaf), 0},
		{"raw root among others", carOf(raw("second"), leaf), 0},
	} {
		if u := s.putCAR(row.body).upload(t); u.Size != row.size {
			t.Errorf("%s: size %d, want %d", row.name, u.Size, row.size)
		}
	}
	u := s.do("GET", "/bafkreifeqjorwymdmh77ars6tbrtno74gntsdcvqvcycucidebiri2e7qy", nil).upload(t)
	if u.Pin.Status != "pinned" || u.Type != "application/car" || u.Scope != "test" {
		t.Errorf("%+v", u)
	}
}
