package chunker_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/chacha20"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
)

// vectorFile is testdata/vectors/unixfs.json: roots on which independent
// implementations agree.
type vectorFile struct {
	Profiles map[string]struct {
		CidVersion int
		Chunk      int
		Width      int
		RawLeaves  bool
		Hamt       string
		HamtMax    int
		Fanout     int
		Layout     string
	}
	Vectors []vector
}

type vector struct {
	ID     string `json:"id"`
	P      string `json:"p"`
	Chunk  int
	Width  int
	F      *content        `json:"f"`
	T      json.RawMessage `json:"t"`
	Mode   *uint32
	Secs   *int64  `json:"mtimeSecs"`
	Nsecs  *uint32 `json:"mtimeNsecs"`
	CID    string  `json:"cid"`
	Tsize  int64
	Blocks int
	Bytes  int64
}

type content struct {
	R    string `json:"r"`
	N    int64  `json:"n"`
	Seed string
	S    string
}

func readVectors(t *testing.T) vectorFile {
	t.Helper()
	p, err := os.ReadFile(filepath.Join("..", "testdata", "vectors", "unixfs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v vectorFile
	if err := json.Unmarshal(p, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// source makes the content of a vector readable at any offset.
func (c content) source() car.Source {
	if c.R == "utf8" {
		return &patternSource{"utf8", int64(len(c.S)), func(p []byte, off int64) { copy(p, c.S[off:]) }}
	}
	fill := map[string]func(p []byte, off int64){
		"zero": func(p []byte, _ int64) { clear(p) },
		"mod251": func(p []byte, off int64) {
			n := copy(p, mod251[off%251:])
			for n < len(p) {
				n += copy(p[n:], mod251[(off+int64(n))%251:])
			}
		},
		"chacha20": func(p []byte, off int64) {
			key := sha256.Sum256([]byte(c.Seed))
			s, err := chacha20.NewUnauthenticatedCipher(key[:], make([]byte, chacha20.NonceSize))
			if err != nil {
				panic(err)
			}
			s.SetCounter(uint32(off / 64))
			var skip [64]byte
			s.XORKeyStream(skip[:off%64], skip[:off%64])
			clear(p)
			s.XORKeyStream(p, p)
		},
	}[c.R]
	if fill == nil {
		return nil
	}
	return &patternSource{c.R, c.N, fill}
}

var mod251 = func() []byte {
	p := make([]byte, 251*4096)
	for i := range p {
		p[i] = byte(i % 251)
	}
	return p
}()

// patternSource is a source whose bytes are made when they are read.
type patternSource struct {
	name string
	size int64
	fill func(p []byte, off int64)
}

func (s *patternSource) Name() string                  { return s.name }
func (s *patternSource) Size() int64                   { return s.size }
func (s *patternSource) Open() (car.SourceFile, error) { return s, nil }
func (s *patternSource) Close() error                  { return nil }

func (s *patternSource) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), s.size-off))
	s.fill(p[:n], off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// buildVector builds the DAG of a file vector. The leaves of the biggest files
// repeat, and each is hashed once.
func buildVector(t *testing.T, p chunker.Profile, c content) *chunker.DAG {
	t.Helper()
	src := c.source()
	if c.N < 64<<20 || c.R == "chacha20" {
		d, err := chunker.Build(context.Background(), src, chunker.Options{Profile: p})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	memo := map[string][32]byte{}
	return chunker.BuildFromLeaves(src, p, func(i int, n int64, head, tail []byte) [32]byte {
		phase := int64(i) * int64(p.ChunkBytes) % 251
		key := fmt.Sprint(phase, n, len(head))
		sum, ok := memo[key]
		if !ok {
			f, _ := src.Open()
			buf := make([]byte, n)
			if _, err := f.ReadAt(buf, int64(i)*int64(p.ChunkBytes)); err != nil {
				t.Fatal(err)
			}
			sum = sha256.Sum256(append(append(append([]byte{}, head...), buf...), tail...))
			memo[key] = sum
		}
		return sum
	})
}

func TestFileVectors(t *testing.T) {
	t.Parallel()
	vs := readVectors(t)
	ran := 0
	for _, v := range vs.Vectors {
		if v.F == nil || v.Mode != nil || v.Secs != nil {
			continue
		}
		vp := vs.Profiles[v.P]
		if vp.Layout != "balanced" {
			continue
		}
		if testing.Short() && v.F.R == "chacha20" && v.F.N > 64<<20 {
			continue
		}
		ran++
		p := chunker.Profile{Name: v.P, CidVersion: vp.CidVersion, ChunkBytes: vp.Chunk, Width: vp.Width, RawLeaves: vp.RawLeaves}
		if v.Chunk != 0 {
			p.ChunkBytes = v.Chunk
		}
		if v.Width != 0 {
			p.Width = v.Width
		}
		t.Run(v.ID, func(t *testing.T) {
			t.Parallel()
			d := buildVector(t, p, *v.F)
			if got := d.Root().String(); got != v.CID {
				t.Errorf("root %s, want %s", got, v.CID)
			}
			if d.TotalSize() != v.Tsize {
				t.Errorf("tsize %d, want %d", d.TotalSize(), v.Tsize)
			}
			var bytes int64
			for b := range d.Blocks() {
				bytes += int64(b.Size())
			}
			if d.Len() != v.Blocks || bytes != v.Bytes {
				t.Errorf("%d blocks of %d bytes, want %d of %d", d.Len(), bytes, v.Blocks, v.Bytes)
			}
		})
	}
	if ran < 200 {
		t.Errorf("only %d vectors ran", ran)
	}
}
