//go:build unix

package cli_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ipfs/boxo/ipld/merkledag"
	ft "github.com/ipfs/boxo/ipld/unixfs"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/carload/carload/car"
)

// bomb is an archive of 1 MiB whose file has 2^60 bytes: forty layers of a node
// that links twice to the one below.
func bomb(t *testing.T) (root string, archive []byte) {
	t.Helper()
	size := uint64(1 << 20)
	nodes := []ipld.Node{merkledag.NewRawNode(make([]byte, size))}
	for range 40 {
		below := nodes[len(nodes)-1]
		n := ft.NewFSNode(ft.TFile)
		p := &merkledag.ProtoNode{}
		if err := p.SetCidBuilder(merkledag.V1CidPrefix()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			n.AddBlockSize(size)
			if err := p.AddRawLink("", &ipld.Link{Size: size, Cid: below.Cid()}); err != nil {
				t.Fatal(err)
			}
		}
		data, err := n.GetBytes()
		if err != nil {
			t.Fatal(err)
		}
		p.SetData(data)
		nodes = append(nodes, p)
		size *= 2
	}
	top := nodes[len(nodes)-1].Cid()
	archive = car.AppendHeader(nil, top)
	for _, n := range slices.Backward(nodes) { // in the order of a walk from the root
		archive = binary.AppendUvarint(archive, uint64(n.Cid().ByteLen()+len(n.RawData())))
		archive = append(append(archive, n.Cid().Bytes()...), n.RawData()...)
	}
	return top.String(), archive
}

// TestBomb checks that carload knows the size of a restore before it writes the
// first byte.
func TestBomb(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	root, archive := bomb(t)
	path := filepath.Join(home, "bomb.car")
	if err := os.WriteFile(path, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := newCommand(t, home, "up", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, row := range []struct {
		args []string
		code int
	}{
		{[]string{"unpack", "-o", "out", path}, 28},
		{[]string{"unpack", "-o", "out", "--max-bytes", "1GB", path}, 8},
		{[]string{"unpack", "-o", "-", "--max-bytes", "1GB", path}, 8},
		{[]string{"get", root, "-o", "out/file"}, 28},
		{[]string{"get", root, "-o", "out/file", "--max-bytes", "1GB"}, 8},
		{[]string{"get", root, "-o", "-", "--max-bytes", "1GB"}, 8},
	} {
		if err := os.MkdirAll(filepath.Join(home, "out"), 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := newCommand(t, home, row.args...)
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		if code := exitCode(cmd.Run()); code != row.code || !bytes.Contains(stderr.Bytes(), []byte("1152921504606846976")) || stdout.Len() > 0 {
			t.Errorf("%q: exit code %d, want %d: %d bytes, %s", row.args, code, row.code, stdout.Len(), stderr.Bytes())
		}
		if left, err := os.ReadDir(filepath.Join(home, "out")); err != nil || len(left) > 0 {
			t.Errorf("%q leaves %v, %v", row.args, left, err)
		}
	}
	// There are only a few blocks.
	if out, err := newCommand(t, home, "get", root, "--car", "-o", "again.car").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if again, err := os.ReadFile(filepath.Join(home, "again.car")); err != nil || !bytes.Equal(again, archive) {
		t.Errorf("the archive comes back with %d bytes of %d, %v", len(again), len(archive), err)
	}
}
