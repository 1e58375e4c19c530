package web_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
)

// recipe is a profile for the browser's engine.
type recipe struct {
	ChunkBytes int `json:"chunkBytes"`
	Width      int `json:"width"`
	HAMTBytes  int `json:"hamtBytes"`
}

var (
	standard = recipe{1 << 20, 1024, 256 << 10}
	scaled   = recipe{1 << 10, 4, 1000}
)

// profile returns the same profile for the Go engine. It puts the numbers into
// the default profile, which the browser's engine implements.
func (r recipe) profile() chunker.Profile {
	p := chunker.UnixFSv1()
	p.ChunkBytes, p.Width, p.HAMT.Limit = r.ChunkBytes, r.Width, r.HAMTBytes
	return p
}

// entry is a file in a folder, or an empty directory if it has no data.
type entry struct {
	Path string `json:"path"`
	Data memory `json:"data,omitzero"`
}

// input is what both engines pack.
type input struct {
	name    string
	Recipe  recipe  `json:"recipe"`
	Limit   int64   `json:"limit"`
	File    string  `json:"file,omitempty"` // path on disk
	Entries []entry `json:"entries,omitzero"`
	data    memory
}

// packed is the result.
type packed struct {
	Root    string      `json:"root"`
	Bytes   int64       `json:"bytes"`
	Shards  []shardFile `json:"shards"`
	Error   string      `json:"error"`
	Message string      `json:"message"`
}

type shardFile struct {
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// memory is a source whose bytes are in memory.
type memory []byte

func (memory) Name() string                    { return "memory" }
func (m memory) Size() int64                   { return int64(len(m)) }
func (m memory) Open() (car.SourceFile, error) { return memoryFile{bytes.NewReader(m)}, nil }

type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }

// describe returns what the Go engine makes from an input.
func (in *input) describe(t *testing.T) (*chunker.DAG, error) {
	t.Helper()
	opts := chunker.Options{Profile: in.Recipe.profile()}
	if in.Entries == nil {
		return chunker.Build(t.Context(), in.data, opts)
	}
	tree := chunker.NewTree()
	for _, e := range in.Entries {
		var err error
		if e.Data == nil {
			err = tree.AddDir(e.Path, chunker.Stat{})
		} else {
			err = tree.AddFile(e.Path, e.Data, chunker.Stat{})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return tree.Build(t.Context(), opts)
}

func (in *input) plan(t *testing.T) (*splitter.Plan, error) {
	t.Helper()
	d, err := in.describe(t)
	if err != nil {
		return nil, err
	}
	return splitter.Split(d, splitter.Options{MaxShardBytes: in.Limit})
}

// pack returns what the Go engine sends.
func pack(t *testing.T, p *splitter.Plan) packed {
	t.Helper()
	d, ok := p.Blocks.(*chunker.DAG)
	if !ok {
		t.Fatalf("the plan is of a %T", p.Blocks)
	}
	out := packed{Root: d.Root().String(), Bytes: d.Size()}
	var packer car.Packer
	for i := range p.Shards {
		s := packer.Open(context.Background(), p.Archive(i))
		h := sha256.New()
		n, err := io.Copy(h, s)
		if err := errors.Join(err, s.Close()); err != nil {
			t.Fatal(err)
		}
		out.Shards = append(out.Shards, shardFile{n, hex.EncodeToString(h.Sum(nil))})
	}
	return out
}

// node is the program that runs the browser's engine.
func node(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("node")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("Node 20 is needed: ", err)
		}
		t.Skip("there is no Node: ", err)
	}
	return path
}

// inBrowser packs inputs with the browser's engine, under Node.
func inBrowser(t *testing.T, inputs []*input) []packed {
	t.Helper()
	var stdin bytes.Buffer
	for _, in := range inputs {
		line, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		stdin.Write(append(line, '\n'))
	}
	cmd := exec.CommandContext(t.Context(), node(t), "--no-warnings", filepath.Join("testdata", "pack.mjs"))
	cmd.Stdin = &stdin
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	var out []packed
	lines := bufio.NewScanner(bytes.NewReader(stdout))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var p packed
		if err := json.Unmarshal(lines.Bytes(), &p); err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	if len(out) != len(inputs) {
		t.Fatalf("%d answers to %d inputs", len(out), len(inputs))
	}
	return out
}

// same packs inputs with both engines, and compares roots, sizes and bytes.
func same(t *testing.T, inputs []*input) {
	t.Helper()
	shards := 0
	for i, got := range inBrowser(t, inputs) {
		p, err := inputs[i].plan(t)
		if err != nil {
			t.Fatalf("%s: %v", inputs[i].name, err)
		}
		want := pack(t, p)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", inputs[i].name, diff)
		}
		shards += len(want.Shards)
	}
	t.Logf("%d inputs in %d shards", len(inputs), shards)
}

// content returns bytes that depend only on the seed.
func content(seed string, n int) memory {
	data := make(memory, n)
	rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(data)
	return data
}

// file makes an input of one file.
func file(t *testing.T, name string, r recipe, limit int64, data memory) *input {
	t.Helper()
	in := &input{name: name, Recipe: r, Limit: limit, data: data, File: filepath.Join(t.TempDir(), "file")}
	if err := os.WriteFile(in.File, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return in
}

// folder makes an input of a folder.
func folder(name string, r recipe, limit int64, entries []entry) *input {
	return &input{name: name, Recipe: r, Limit: limit, Entries: entries}
}

// Files with sizes at every boundary: of a chunk, a node, two and three levels
// of nodes, and a shard.
func TestFilesAsTheEngineDoes(t *testing.T) {
	t.Parallel()
	var inputs []*input
	add := func(r recipe, limit int64, kind string, data memory) {
		name := fmt.Sprintf("%s of %d bytes, chunks of %d, width %d, shards of %d", kind, len(data), r.ChunkBytes, r.Width, limit)
		inputs = append(inputs, file(t, name, r, limit, data))
	}
	for _, size := range []int{0, 1, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096, 4097, 5119, 5120, 5121, 16383, 16384, 16385, 17409, 65535, 65536, 65537, 262143, 262144, 262145, 300_000} {
		add(scaled, 10_000, "random", content("files", size))
	}
	for _, size := range []int{0, 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3<<20 + 12345} {
		add(standard, splitter.DefaultMaxShardBytes, "random", content("files", size))
	}
	// One byte more or less, in the limit or in the file, changes the plan.
	for _, size := range []int{1025, 2048, 20_000} {
		whole := file(t, "", scaled, 1<<30, content("limits", size))
		p, err := whole.plan(t)
		if err != nil {
			t.Fatal(err)
		}
		for _, limit := range []int64{p.Size() - 1, p.Size(), p.Size() + 1} {
			add(scaled, limit, "random", whole.data)
		}
		add(scaled, p.Size(), "random", content("limits", size+1))
	}
	// Repeated blocks are sent once.
	for _, size := range []int{4096, 100_000} {
		add(scaled, 5_000, "zeros", make(memory, size))
		add(scaled, 5_000, "twice the same", append(content("twice", size), content("twice", size)...))
	}
	if len(inputs) < 40 {
		t.Fatalf("%d inputs", len(inputs))
	}
	same(t, inputs)
}

// Two shards at the default limit, read from disk.
func TestManyShards(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("210 MB")
	}
	same(t, []*input{file(t, "210 MB", standard, splitter.DefaultMaxShardBytes, content("shards", 210_000_001))})
}

// oddNames are names that trip up programs.
var oddNames = []string{
	"a", "A", "a b", " leading", "trailing ", "tab\there", "line\nend", `back\slash`, `"quotes"`, "'", "%41", "%", "#?&=", "<b>bold</b>", "<script>alert(1)</script>",
	"__proto__", "constructor", "toString", "0", "00", "1e3", "-", "--flag", "~", "ä", "a\u0308", "\uff5e", "\U0001f600", "日本語", "\u202eevil", "\u00a0", "\ufeffbom",
	strings.Repeat("long", 63), "NUL", "con.txt", "..a", "a..", "...", "*", "|",
}

func TestFoldersAsTheEngineDoes(t *testing.T) {
	t.Parallel()
	const limit = 30_000
	var odd []entry
	for i, name := range oddNames {
		odd = append(odd,
			entry{Path: name, Data: content(name, 37*i)},
			entry{Path: "dir/" + name + "/" + name, Data: content("same", i%3)},
			entry{Path: "empty/" + name})
	}
	numbered := func(format string, n int, size func(i int) int) []entry {
		var entries []entry
		for i := range n {
			name := fmt.Sprintf(format, i)
			entries = append(entries, entry{Path: name, Data: content(name, size(i))})
		}
		return entries
	}
	one := func(int) int { return 1 }
	inputs := []*input{
		folder("nothing", scaled, limit, []entry{}),
		folder("an empty directory", scaled, limit, []entry{{Path: "empty"}}),
		folder("empty directories", scaled, limit, []entry{{Path: "a/b/c"}, {Path: "a/d"}, {Path: "e"}}),
		folder("an empty file", scaled, limit, []entry{{Path: "empty", Data: memory{}}}),
		folder("one file", standard, limit, []entry{{Path: "hello.txt", Data: memory("hello world")}}),
		folder("odd names, flat", standard, limit, odd),
		folder("odd names, sharded", scaled, limit, odd),
		folder("names with 40 bits of the hash in common", scaled, limit, append(numbered("n%04d", 30, one),
			entry{Path: "n2103492", Data: memory("a")}, entry{Path: "n2861732", Data: memory("b")})),
		folder("big and small", scaled, limit, numbered("dir%02d/file", 40, func(i int) int { return i * i * 50 })),
		folder("the same file again and again", scaled, limit, []entry{
			{Path: "a/x", Data: content("x", 9000)}, {Path: "b/x", Data: content("x", 9000)}, {Path: "x", Data: content("x", 9000)},
		}),
		folder("deep", scaled, limit, []entry{{Path: strings.Repeat("d/", 100) + "file", Data: memory("x")}}),
		folder("1,000 entries", standard, 10*limit, numbered("file-%05d.txt", 1000, one)),
		folder("5,000 entries", standard, 10*limit, numbered("file-%05d.txt", 5000, one)),
	}
	// A directory of exactly the limit stays plain; one byte more makes it
	// sharded.
	for n := 1; n <= 12; n++ {
		for _, long := range []int{0, 1} {
			entries := numbered("file-%05d.txt", n, one)
			entries = append(entries, entry{Path: strings.Repeat("z", 10+long), Data: memory("x")})
			r := scaled
			r.HAMTBytes = 4 + 55*n + 52
			inputs = append(inputs, folder(fmt.Sprintf("%d entries, and a byte more: %d", n, long), r, limit, entries))
		}
	}
	same(t, inputs)
}

// Trees of any shape.
func TestRandomFolders(t *testing.T) {
	t.Parallel()
	var inputs []*input
	for seed := range uint64(25) {
		rng := rand.New(rand.NewPCG(seed, 1)) // seeded, so that a failure can be reproduced
		var entries []entry
		dirs := []string{""}
		taken := map[string]bool{}
		for range 1 + rng.IntN(60) {
			path := dirs[rng.IntN(len(dirs))] + oddNames[rng.IntN(len(oddNames))]
			if taken[path] {
				continue
			}
			taken[path] = true
			switch rng.IntN(4) {
			case 0:
				entries = append(entries, entry{Path: path})
				dirs = append(dirs, path+"/")
			default:
				entries = append(entries, entry{Path: path, Data: content(path, rng.IntN(1+rng.IntN(9000)))})
			}
		}
		r := recipe{1 + rng.IntN(2000), 2 + rng.IntN(6), 60 + rng.IntN(3000)}
		inputs = append(inputs, folder(fmt.Sprintf("seed %d", seed), r, 10_000+rng.Int64N(50_000), entries))
	}
	same(t, inputs)
}

// Roots from other programs.
func TestPublishedRoots(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join("..", "..", "..", "testdata", "vectors", "unixfs.json"))
	if err != nil {
		t.Fatal(err)
	}
	var vectors struct {
		Vectors []struct{ ID, Cid string }
	}
	if err := json.Unmarshal(data, &vectors); err != nil {
		t.Fatal(err)
	}
	mod251 := func(n int) memory {
		data := make(memory, n)
		for i := range data {
			data[i] = byte(i % 251)
		}
		return data
	}
	contents := map[string]memory{
		"unixfs-v1-2025/file/utf8/empty":     {},
		"unixfs-v1-2025/file/utf8/hello":     memory("hello world"),
		"unixfs-v1-2025/file/zero/1":         make(memory, 1),
		"unixfs-v1-2025/file/mod251/chunk+1": mod251(1<<20 + 1),
	}
	var inputs []*input
	var want []string
	for _, v := range vectors.Vectors {
		if data, ok := contents[v.ID]; ok {
			inputs = append(inputs, file(t, v.ID, standard, splitter.DefaultMaxShardBytes, data))
			want = append(want, v.Cid)
		}
	}
	if len(inputs) != len(contents) {
		t.Fatalf("%d of %d vectors are there", len(inputs), len(contents))
	}
	for i, got := range inBrowser(t, inputs) {
		if got.Root != want[i] {
			t.Errorf("%s: %s, want %s", inputs[i].name, got.Root, want[i])
		}
	}
}

// What the Go engine refuses, the browser's refuses too, and says why.
func TestRefusedInBrowser(t *testing.T) {
	t.Parallel()
	big := numberedPath(513)
	inputs := []*input{
		folder("name", scaled, 1<<20, []entry{{Path: "a/../b", Data: memory("x")}}),
		folder("name", scaled, 1<<20, []entry{{Path: "/a", Data: memory("x")}}),
		folder("name", scaled, 1<<20, []entry{{Path: "a//b", Data: memory("x")}}),
		folder("name", scaled, 1<<20, []entry{{Path: "a\x00b", Data: memory("x")}}),
		folder("name", scaled, 1<<20, []entry{{Path: "a", Data: memory("x")}, {Path: "a", Data: memory("y")}}),
		folder("name", scaled, 1<<20, []entry{{Path: "a", Data: memory("x")}, {Path: "a/b", Data: memory("y")}}),
		folder("deep", scaled, 1<<20, []entry{{Path: big, Data: memory("x")}}),
		folder("collision", recipe{1024, 4, 10}, 1<<20, []entry{
			{Path: "ipfs-hamt-collision-name-0000001", Data: memory("x")}, {Path: "ipfs-00006562330ZZx-7-'FZd4YEQ];", Data: memory("y")},
		}),
		file(t, "block-too-large", scaled, 1_100, content("x", 5000)),
	}
	for i, got := range inBrowser(t, inputs) {
		if got.Error != inputs[i].name || got.Message == "" {
			t.Errorf("number %d: %+v, want %s", i, got, inputs[i].name)
		}
	}
}

func numberedPath(n int) string { return strings.Repeat("d/", n-1) + "d" }
