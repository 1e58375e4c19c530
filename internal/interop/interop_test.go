package interop_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node runs one of the programs of testdata/npm. It sends stdin as JSON unless
// it is nil, and decodes stdout into result.
func node(t *testing.T, result, stdin any, script string, args ...string) {
	t.Helper()
	dir := npmDir(t)
	cmd := exec.CommandContext(t.Context(), "node", append([]string{filepath.Join(dir, script)}, args...)...)
	if stdin != nil {
		in, err := json.Marshal(stdin)
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = bytes.NewReader(in)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, stderr.Bytes())
	}
	if result == nil {
		return
	}
	if err := json.Unmarshal(out, result); err != nil {
		t.Fatalf("%s printed no JSON: %v\n%s\n%s", script, err, out, stderr.Bytes())
	}
}

// npmDir returns the directory with the foreign packages. Without it, it skips
// the test.
func npmDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("CARLOAD_NPM")
	if dir == "" {
		t.Skip("CARLOAD_NPM is not set: run npm ci --ignore-scripts in testdata/npm and set it to that directory")
	}
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		t.Fatalf("CARLOAD_NPM=%s: %v", dir, err)
	}
	return dir
}

// pool holds random bytes. The files of all cases are ranges of it. A range
// that reaches its end continues at the start.
type pool struct {
	path  string
	bytes []byte
}

func newPool(t *testing.T, size int) *pool {
	t.Helper()
	p := &pool{path: filepath.Join(t.TempDir(), "pool"), bytes: make([]byte, size)}
	_, _ = rand.NewChaCha8([32]byte([]byte("carload interop tests, pool #001"))).Read(p.bytes)
	if err := os.WriteFile(p.path, p.bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// file is a range of the pool. It is a car.Source.
type file struct {
	Path   string `json:"path,omitempty"`
	Offset int64  `json:"offset"`
	Length int64  `json:"size"`

	pool *pool
}

func (p *pool) file(path string, offset, size int64) file { return file{path, offset, size, p} }

func (f file) Name() string                  { return f.Path }
func (f file) Size() int64                   { return f.Length }
func (f file) Open() (car.SourceFile, error) { return f, nil }
func (f file) Close() error                  { return nil }

func (f file) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for n < len(b) && off < f.Length {
		start := (f.Offset + off) % int64(len(f.pool.bytes))
		c := copy(b[n:min(int64(len(b)), int64(n)+f.Length-off)], f.pool.bytes[start:])
		n += c
		off += int64(c)
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// content returns the whole file.
func (f file) content(t *testing.T) []byte {
	t.Helper()
	b := make([]byte, f.Length)
	if _, err := f.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return b
}

func profileNamed(t *testing.T, name string) chunker.Profile {
	t.Helper()
	p, err := chunker.ProfileNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func build(t *testing.T, f file, profile string) *chunker.DAG {
	t.Helper()
	d, err := chunker.Build(t.Context(), f, chunker.Options{Profile: profileNamed(t, profile)})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// writeShards splits the DAG and writes its shards into a directory.
func writeShards(t *testing.T, d *chunker.DAG, limit int64) (paths []string) {
	t.Helper()
	plan, err := splitter.Split(d, splitter.Options{MaxShardBytes: limit})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i := range plan.Shards {
		path := filepath.Join(dir, "shard"+string(rune('a'+i/26))+string(rune('a'+i%26))+".car")
		writeArchive(t, path, plan.Archive(i))
		paths = append(paths, path)
	}
	return paths
}

func writeArchive(t *testing.T, path string, a car.Archive) {
	t.Helper()
	var packer car.Packer
	stream := packer.Open(context.WithoutCancel(t.Context()), a)
	defer stream.Close()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, stream); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, url string) []byte {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %s\n%s", url, resp.Status, b)
	}
	return b
}
