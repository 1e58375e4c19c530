package interop_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/carload/carload/car"
)

// TestShardsJoined splits files into our shards. @ipld/car reads them, carbites
// joins them, and ipfs-car unpacks the result.
func TestShardsJoined(t *testing.T) {
	dir := npmDir(t)
	p := newPool(t, 9<<20+77)
	for _, c := range []struct {
		name, profile string
		size, limit   int64
		shards        int
	}{
		{"one block", "ipfs-car", 1000, 100_000, 1},
		{"one shard", "nft.storage", 5 << 20, 100_000_000, 1},
		{"several shards", "nft.storage", 9 << 20, 1 << 20, 12},
		{"of one leaf each", "ipfs-car", 5<<20 + 1, 1<<20 + 1000, 5},
		{"CIDv0", "unixfs-v0-2015", 3 << 20, 700_000, 6},
		{"two levels", "nft.storage", 60 << 20, 10_000_000, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := p.file("file", 0, c.size)
			d := build(t, f, c.profile)
			shards := writeShards(t, d, c.limit)
			if len(shards) != c.shards {
				t.Errorf("%d shards, expected %d", len(shards), c.shards)
			}
			joined := filepath.Join(t.TempDir(), "joined.car")
			var read []struct {
				Name        string
				Roots, CIDs []string
			}
			node(t, &read, nil, "cars.mjs", append([]string{"join", joined}, shards...)...)
			for _, shard := range read {
				if len(shard.Roots) != 1 || shard.Roots[0] != d.Root().String() {
					t.Errorf("%s: roots are %v, not %v", shard.Name, shard.Roots, d.Root())
				}
				if len(shard.CIDs) == 0 || shard.CIDs[0] != d.Root().String() {
					t.Errorf("%s does not begin with the root block", shard.Name)
				}
			}
			missing := map[string]bool{}
			for b := range d.Blocks() {
				missing[b.Cid.String()] = true
			}
			for _, c := range carCIDs(t, joined) {
				if !missing[c] {
					t.Errorf("the joined archive has %s once too often", c)
				}
				delete(missing, c)
			}
			if len(missing) > 0 {
				t.Errorf("the joined archive lacks %v", missing)
			}

			out := filepath.Join(t.TempDir(), "unpacked")
			cmd := exec.CommandContext(t.Context(), "node", filepath.Join(dir, "node_modules/ipfs-car/bin.js"), "unpack", joined, "--output", out)
			if text, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("ipfs-car unpack: %v\n%s", err, text)
			}
			got, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, f.content(t)) {
				t.Error("ipfs-car unpacked other bytes")
			}
		})
	}
}

func carCIDs(t *testing.T, path string) (cids []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := car.NewReader(f, car.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		s, err := r.Next()
		if errors.Is(err, io.EOF) {
			return cids
		}
		if err != nil {
			t.Fatal(err)
		}
		cids = append(cids, s.Cid.String())
	}
}
