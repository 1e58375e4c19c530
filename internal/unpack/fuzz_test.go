package unpack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/unpack"
)

// script makes a DAG from the bytes of a fuzzer. Each step makes a block, which
// may link to earlier ones. Hashes are right, so that the code behind the hash
// check gets tested.
type script struct {
	dag
	rest []byte
}

func (s *script) byte() byte {
	if len(s.rest) == 0 {
		return 0
	}
	b := s.rest[0]
	s.rest = s.rest[1:]
	return b
}

func (s *script) text() string {
	n := min(int(s.byte()%24), len(s.rest))
	t := string(s.rest[:n])
	s.rest = s.rest[n:]
	return t
}

// size is a claimed size: the right one, or another.
func (s *script) size(right uint64) uint64 {
	switch b := s.byte(); {
	case b < 200:
		return right
	case b < 250:
		return uint64(b - 200)
	default:
		return 1 << (b - 250) * 0x0400_0000_0000_0001
	}
}

// contentOf returns what an honest parent would say about a block.
func contentOf(b car.Block, sizes map[cid.Cid]uint64) uint64 {
	if b.Cid.Prefix().Codec == cid.Raw {
		return uint64(len(b.Head))
	}
	return sizes[b.Cid]
}

func (s *script) run() {
	sizes := map[cid.Cid]uint64{}
	s.raw("")
	for step := 0; step < 64 && len(s.rest) > 0; step++ {
		pick := func() car.Block { return s.blocks[len(s.blocks)-1-int(s.byte())%len(s.blocks)] }
		op := s.byte()
		switch op % 8 {
		case 0:
			s.raw(s.text())
		case 1:
			s.symlink(s.text())
		case 2, 3:
			c := crafted{typ: uint64(op%8)*2 - 4 + uint64(op>>7)} // raw and file
			if op%8 == 3 {
				c.typ = 2
			}
			c.data = s.text()
			total := uint64(len(c.data))
			repeat := 1 + int(s.byte())%40
			for range s.byte() % 8 {
				child := pick()
				size := s.size(contentOf(child, sizes))
				for range repeat {
					c.sizes = append(c.sizes, size)
					c.links = append(c.links, link{"", child})
					total += size
				}
			}
			if op&0x40 != 0 {
				total = s.size(total)
			}
			c.size = &total
			sizes[s.node(c).Cid] = total
		case 4:
			var links []link
			for range s.byte() % 8 {
				links = append(links, link{s.text(), pick()})
			}
			s.dir(links...)
		case 5:
			fanout := uint64(8) << (s.byte() % 6)
			var links []link
			for i := range int(s.byte() % 8) {
				digits := len(fmt.Sprintf("%X", fanout-1))
				name := fmt.Sprintf("%0*X", digits, i)
				if s.byte()%2 == 0 {
					name += s.text()
				}
				links = append(links, link{name, pick()})
			}
			s.shard(fanout, links...)
		case 6: // a shard with each name in its proper bucket
			links := map[string]link{}
			for range s.byte() % 8 {
				name := s.text()
				if name == "" {
					name = "x"
				}
				l := link{bucketOf(name), pick()}
				links[l.name[:2]] = l
			}
			var sorted []link
			for _, k := range sortedKeys(links) {
				sorted = append(sorted, links[k])
			}
			s.shard(256, sorted...)
		case 7:
			codec := []uint64{cid.DagProtobuf, cid.DagCBOR, cid.DagJSON, cid.DagProtobuf}[op>>6]
			p := []byte(s.text())
			if op&0x20 != 0 {
				p = field(p, 2, string(field(nil, 1, pick().Cid.KeyString())))
			}
			s.add(codec, p)
		}
	}
}

// FuzzUnpack restores arbitrary DAGs. Nothing may appear outside the directory
// or stay half written, and it must terminate.
func FuzzUnpack(f *testing.F) {
	for _, seed := range []string{
		"\x00\x05hello\x04\x01\x04file\x00",
		"\x00\x05hello\x02\x00\x01\x01\x00\x01\x04\x01\x01f\x00",
		"\x01\x05../..\x04\x02\x01l\x00\x01l\x01",
		"\x00\x05hello\x06\x03\x01a\x00\x01b\x00\x02..\x00\x04\x01\x03dir\x00",
		"\x00\x00\x03\x00\x27\x07\x00\x00\x00\x00\x03\x00\x27\x07\x00\x00\x00\x00\x03\x00\x27\x07\x00\x00",
		"\x05\x01\x07\x01\x00\x05\x01\x07\x01\x00\x01\x00\x01\x00",
		"\x00\x05hello\x43\x00\x01\x01\x00\xff\xff\x04\x01\x01f\x00",
		"\x67\x00\x04\x01\x01x\x00\xa7\x01\xa0\x04\x02\x01x\x00\x01y\x01",
	} {
		f.Add([]byte(seed), uint8(0))
		f.Add([]byte(seed), uint8(7))
	}
	f.Fuzz(func(t *testing.T, data []byte, flags uint8) {
		s := script{rest: data}
		s.run()
		slices.Reverse(s.blocks)
		root := s.blocks[0].Cid
		blocks := s.blocks
		if flags&4 != 0 && len(blocks) > 2 { // leave one out
			blocks = append(slices.Clone(blocks[:len(blocks)/2]), blocks[len(blocks)/2+1:]...)
		}
		limited, cancel := context.WithTimeoutCause(ctx, 20*time.Second, errors.New("it does not end"))
		defer cancel()
		x := indexOf(t, blocks)

		parent := t.TempDir()
		if err := os.WriteFile(filepath.Join(parent, "precious"), []byte("precious"), 0o644); err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(parent, "dir")
		opts := unpack.Options{MaxBytes: 1 << 16, MaxEntries: 300, Force: flags&1 != 0, KeepGoing: flags&2 != 0}
		done, err := unpack.Restore(limited, x, root, dir, opts)
		if limited.Err() != nil {
			t.Fatal(context.Cause(limited))
		}
		got := readTree(t, parent)
		if got["precious"] != "precious" {
			t.Fatal("a file outside was changed")
		}
		files := int64(0)
		for p, c := range got {
			if p != "precious" && p != "dir/" && !strings.HasPrefix(p, "dir/") {
				t.Fatalf("%q appeared outside", p)
			}
			if strings.Contains(p, "/.carload-") {
				t.Fatalf("%q is left behind", p)
			}
			if p != "precious" && !strings.HasSuffix(p, "/") && !strings.HasPrefix(c, "-> ") {
				files += int64(len(c))
			}
		}
		if err != nil {
			return
		}
		if files != done.Bytes {
			t.Fatalf("%d bytes on disk, %d restored", files, done.Bytes)
		}
		compareListing(t, x, root, got)
		if r, _, err := unpack.Inspect(limited, shards(t, blocks, 0)...); err != nil || len(r.Roots) != 1 {
			t.Fatalf("inspect: %+v, %v", r, err)
		}
	})
}

// compareListing compares a listing with what was restored.
func compareListing(t *testing.T, x *car.Index, root cid.Cid, onDisk tree) {
	listed, restored := tree{}, tree{}
	for e, err := range unpack.List(ctx, x, root) {
		if err != nil {
			t.Fatalf("it was restored, but the listing says %v", err)
		}
		path := "dir/" + e.Path
		if e.Path == "" && e.Type != unixfs.Directory {
			path += root.String()
		}
		switch e.Type {
		case unixfs.Directory:
			if e.Path != "" {
				path += "/"
			}
			listed[path] = ""
		case unixfs.Symlink:
			listed[path] = "-> " + e.Target
		default:
			listed[path] = fmt.Sprint(e.Size)
		}
	}
	for p, c := range onDisk {
		if !strings.HasSuffix(p, "/") && !strings.HasPrefix(c, "-> ") {
			c = fmt.Sprint(len(c))
		}
		if p != "precious" {
			restored[p] = c
		}
	}
	if _, ok := listed["dir/"]; !ok {
		delete(restored, "dir/")
	}
	if diff := cmp.Diff(restored, listed); diff != "" {
		t.Fatal(diff)
	}
	var w bytes.Buffer
	for p, c := range onDisk {
		if p == "dir/"+root.String() {
			if _, err := unpack.WriteFile(ctx, x, root, &w, unpack.Options{}); !strings.HasPrefix(c, "-> ") && (err != nil || w.String() != c) {
				t.Fatalf("%q is written as %q, %v", c, w.String(), err)
			}
		}
	}
}
