package splitter_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
)

// memory is a source that holds its bytes.
type memory []byte

func (memory) Name() string                     { return "memory" }
func (m *memory) Size() int64                   { return int64(len(*m)) }
func (m *memory) Open() (car.SourceFile, error) { return memoryFile{bytes.NewReader(*m)}, nil }

type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }

// A file that fits into one shard becomes, byte for byte, the archive that
// go-car and @ipld/car make of its DAG.
func TestOneShardIsThePublishedArchive(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join("..", "testdata", "vectors", "unixfs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		CarVectors []struct {
			ID, Order string
			Roots     int
			Root      string
			Size      int64
			SHA256    string
			CarCid    string
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	pattern := make([]byte, 5000)
	for i := range pattern {
		pattern[i] = byte(i % 251)
	}
	contents := map[string]memory{
		"c1024-w4/mod251/5000": pattern, "c1024-w4/zero/20000": make(memory, 20000), "hello": memory("hello world"), "empty": nil,
	}
	ran := 0
	for _, v := range file.CarVectors {
		if v.Order != "pre" || v.Roots != 1 {
			continue
		}
		ran++
		version, rest, _ := strings.Cut(v.ID, "/")
		profile := chunker.UnixFSv1()
		if version == "v0" {
			profile = chunker.UnixFSv0()
		}
		if strings.HasPrefix(rest, "c1024-w4/") {
			profile.ChunkBytes, profile.Width = 1024, 4
		}
		content, ok := contents[rest]
		if !ok {
			t.Fatalf("vector %q", v.ID)
		}
		d, err := chunker.Build(context.Background(), &content, chunker.Options{Profile: profile})
		if err != nil {
			t.Fatal(err)
		}
		p := split(t, d, 0)
		if len(p.Shards) != 1 || p.Size() != v.Size || d.Root().String() != v.Root {
			t.Errorf("%s: root %s in %d shards of %d bytes, want %s, 1 and %d", v.ID, d.Root(), len(p.Shards), p.Size(), v.Root, v.Size)
			continue
		}
		var packer car.Packer
		s := packer.Open(context.Background(), p.Archive(0))
		h := sha256.New()
		if _, err := io.Copy(h, s); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != v.SHA256 {
			t.Errorf("%s: SHA-256 %s, want %s", v.ID, got, v.SHA256)
		}
		if c, ok := s.CID(); !ok || c.String() != v.CarCid {
			t.Errorf("%s: CID %s, want %s", v.ID, c, v.CarCid)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if ran != 5 {
		t.Errorf("%d vectors ran, want 5", ran)
	}
}
