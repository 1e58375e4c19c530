package chunker_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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

// patternSource is a source that generates its bytes when they are read.
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
// repeat, and each distinct leaf is hashed once.
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

// profile is the profile of a vector.
func (vs vectorFile) profile(t *testing.T, v vector) chunker.Profile {
	t.Helper()
	vp := vs.Profiles[v.P]
	p := chunker.Profile{Name: v.P, CidVersion: vp.CidVersion, ChunkBytes: vp.Chunk, Width: vp.Width, RawLeaves: vp.RawLeaves, Fanout: vp.Fanout}
	if v.Chunk != 0 {
		p.ChunkBytes = v.Chunk
	}
	if v.Width != 0 {
		p.Width = v.Width
	}
	if err := p.HAMT.UnmarshalText(fmt.Appendf(nil, "%s>%d", vp.Hamt, vp.HamtMax)); err != nil {
		t.Fatal(err)
	}
	if err := p.Layout.UnmarshalText([]byte(vp.Layout)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (v vector) stat() chunker.Stat {
	var s chunker.Stat
	if v.Mode != nil {
		s.Mode = fs.FileMode(*v.Mode)
	}
	if v.Secs != nil {
		var nanos int64
		if v.Nsecs != nil {
			nanos = int64(*v.Nsecs)
		}
		s.ModTime = time.Unix(*v.Secs, nanos)
	}
	return s
}

// check compares a DAG with the vector.
func (v vector) check(t *testing.T, d *chunker.DAG) {
	t.Helper()
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
}

// withInfo is a source that has a mode and a time.
type withInfo struct {
	car.Source
	stat chunker.Stat
}

func (s withInfo) Info() fs.FileInfo { return fileInfo{s.stat} }

type fileInfo struct{ stat chunker.Stat }

func (i fileInfo) Name() string       { return "" }
func (i fileInfo) Size() int64        { return 0 }
func (i fileInfo) Mode() fs.FileMode  { return i.stat.Mode }
func (i fileInfo) ModTime() time.Time { return i.stat.ModTime }
func (i fileInfo) IsDir() bool        { return false }
func (i fileInfo) Sys() any           { return nil }

func TestFileVectors(t *testing.T) {
	t.Parallel()
	vs := readVectors(t)
	ran := 0
	for _, v := range vs.Vectors {
		if v.F == nil || testing.Short() && v.F.R == "chacha20" && v.F.N > 64<<20 {
			continue
		}
		ran++
		t.Run(v.ID, func(t *testing.T) {
			t.Parallel()
			p := vs.profile(t, v)
			if v.Mode == nil && v.Secs == nil {
				v.check(t, buildVector(t, p, *v.F))
				return
			}
			opts := chunker.Options{Profile: p, Mode: v.Mode != nil, ModTime: v.Secs != nil}
			d, err := chunker.Build(t.Context(), withInfo{v.F.source(), v.stat()}, opts)
			if err != nil {
				t.Fatal(err)
			}
			v.check(t, d)
		})
	}
	if ran < 225 {
		t.Errorf("only %d vectors ran", ran)
	}
}

// tree is the rule for the content of a tree vector.
type tree struct {
	D map[string]tree
	E bool
	L string
	F *content
	G *generated
}

type generated struct {
	Kind         string
	Count, Start int
	Fmt, Last    string
	C            content
	Dirs         bool
	Extra        []string
	Seed         string
	Len, LastLen int
}

// addTo adds the tree to t under a path.
func (n tree) addTo(t *testing.T, to *chunker.Tree, path string) {
	t.Helper()
	var err error
	switch {
	case n.F != nil:
		err = to.AddFile(path, n.F.named(path).source(), chunker.Stat{})
	case n.L != "":
		err = to.AddSymlink(path, n.L, chunker.Stat{})
	case n.G != nil:
		for _, name := range n.G.names() {
			name = strings.TrimPrefix(path+"/"+name, "/")
			if n.G.Dirs {
				name += "/f"
			}
			tree{F: &n.G.C}.addTo(t, to, name)
		}
	default:
		if err = to.AddDir(path, chunker.Stat{}); err != nil {
			break
		}
		for name, child := range n.D {
			child.addTo(t, to, strings.TrimPrefix(path+"/"+name, "/"))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// named resolves the rules that depend on the name of the file.
func (c content) named(path string) content {
	name := path[strings.LastIndexByte(path, '/')+1:]
	switch c.R {
	case "self":
		return content{R: "utf8", S: name}
	case "self-n-nl":
		return content{R: "utf8", S: strings.TrimLeft(name, "abcdefghijklmnopqrstuvwxyz") + "\n"}
	}
	return c
}

func (g generated) names() []string {
	var names []string
	if g.Kind == "seq" {
		for i := range g.Count {
			format := g.Fmt
			if i == g.Count-1 && g.Last != "" {
				format = g.Last
			}
			names = append(names, fmt.Sprintf(format, g.Start+i))
		}
		return append(names, g.Extra...)
	}
	const alphabet = "abcdefghijklmnopqrstuvwxyz01234567890-_"
	stream := make([]byte, g.Count*g.Len+g.LastLen)
	content{R: "chacha20", N: int64(len(stream)), Seed: g.Seed}.source().(*patternSource).fill(stream, 0)
	for i := range g.Count {
		n := g.Len
		if i == g.Count-1 {
			n = g.LastLen
		}
		name := stream[:n]
		stream = stream[n:]
		for k, b := range name {
			name[k] = alphabet[b%39]
		}
		names = append(names, string(name))
	}
	return names
}

func TestTreeVectors(t *testing.T) {
	t.Parallel()
	vs := readVectors(t)
	ran := 0
	for _, v := range vs.Vectors {
		if v.T == nil || bytes.Contains(v.T, []byte(`"path"`)) { // this file's content is not in the table
			continue
		}
		ran++
		t.Run(v.ID, func(t *testing.T) {
			t.Parallel()
			var n tree
			if err := json.Unmarshal(v.T, &n); err != nil {
				t.Fatal(err)
			}
			to := chunker.NewTree()
			n.addTo(t, to, "")
			d, err := to.Build(t.Context(), chunker.Options{Profile: vs.profile(t, v)})
			if err != nil {
				t.Fatal(err)
			}
			v.check(t, d)
		})
	}
	if ran < 110 {
		t.Errorf("only %d vectors ran", ran)
	}
}
