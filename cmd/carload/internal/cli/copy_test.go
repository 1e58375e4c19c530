//go:build unix

package cli_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/go-cid"
	format "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/uploader/targettest"
	"github.com/carload/carload/uploader/uploadertest"
)

// TestCopyOfLies copies a file whose node has wrong sizes for its leaves.
// carload notices, and the copy is still complete.
func TestCopyOfLies(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	fs := unixfs.NewFSNode(unixfs.TFile)
	node := new(merkledag.ProtoNode)
	var sections [][]byte
	for i := range 12 {
		data := make([]byte, 500_000)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(data)
		name, section := block(t, cid.Raw, multihash.SHA2_256, string(data))
		sections = append(sections, section)
		c, err := cid.Decode(name)
		if err != nil {
			t.Fatal(err)
		}
		size := uint64(len(data) - i)
		fs.AddBlockSize(size)
		if err := node.AddRawLink("", &format.Link{Size: size, Cid: c}); err != nil {
			t.Fatal(err)
		}
	}
	p, err := fs.GetBytes()
	if err != nil {
		t.Fatal(err)
	}
	node.SetData(p)
	root, section := block(t, cid.DagProtobuf, multihash.SHA2_256, string(node.RawData()))
	if err := os.WriteFile(filepath.Join(home, "liar.car"), carOf(t, []string{root}, append(sections, section)...), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		out, err := newCommand(t, home, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("carload %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("up", "liar.car", "--to", "store:one")
	out := run("copy", root, "--from", "store:one", "--to", "store:two", "--to", "dir:shelf", "--max-shard-bytes", "1200000")
	if !strings.Contains(out, "has 500000 bytes, but should have 499") || !strings.Contains(out, "copied: 1 input") {
		t.Errorf("the lie was not found: %s", out)
	}
	run("verify", root, "--full", "--to", "store:two")
	run("verify", root, "shelf")
	// The ledger now knows the right sizes.
	if out := run("copy", root, "--from", "store:one", "--to", "store:two", "--max-shard-bytes", "1200000"); !strings.Contains(out, "6 shards (6 already there)") {
		t.Errorf("again: %s", out)
	}
}

// closing is a service with uploads of many sizes and shapes, and their roots.
func closing(t *testing.T, home string, n int) (url string, roots []string, files map[string]string) {
	t.Helper()
	const most = 26 // sizes up to 2^26 bytes
	rng := rand.New(rand.NewPCG(1, 2))
	var paths []string
	write := func(path string, size int64) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{byte(rng.Uint32()), byte(rng.Uint32()), byte(rng.Uint32())}), size); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		path := filepath.Join(home, "here", fmt.Sprint(i))
		size := int64(1) << (i * most / n)
		size += rng.Int64N(size)
		if i%4 == 3 { // a tree with a file that others have too
			for k := range 1 + rng.IntN(60) {
				write(filepath.Join(path, fmt.Sprint("d", k%5), fmt.Sprint("f", k)), rng.Int64N(1+size/10))
			}
			if err := os.WriteFile(filepath.Join(path, "shared"), bytes.Repeat([]byte("shared"), 300_000), 0o600); err != nil {
				t.Fatal(err)
			}
		} else {
			write(path, size)
		}
		paths = append(paths, path)
	}
	store := filepath.Join(home, "closing")
	files = map[string]string{}
	for i, profile := range []string{"unixfs-v1-2025", "unixfs-v0-2015", "unixfs-v1-2025+hamt-links-count>=10"} {
		var args []string
		for k := i; k < len(paths); k += 3 {
			args = append(args, paths[k])
		}
		name, hamt, _ := strings.Cut(profile, "+hamt-")
		up := append([]string{"up", "--to", "store:" + store, "--ledger", "none", "--profile", name}, args...)
		if hamt != "" {
			up = append(up, "--hamt", hamt)
		}
		out, err := newCommand(t, home, up...).Output()
		if err != nil {
			t.Fatalf("%v: %v", up, err)
		}
		for line := range strings.Lines(string(out)) {
			root, path, _ := strings.Cut(strings.TrimSpace(line), "\t")
			roots = append(roots, root)
			files[root] = path
		}
	}
	slices.Sort(roots)
	return startService(t, home, "serve", "-q", "--store", store, "--listen", "127.0.0.1:0"), slices.Compact(roots), files
}

// TestTargetCopy copies everything from a service to a real Kubo node with one
// command, which is killed twice. In the end every root is pinned there,
// complete and with the same bytes, and only shards in flight were sent again.
func TestTargetCopy(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	node := targettest.StartKubo(t)
	n, transfers, most := 12, 1, 1 // shards in flight
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		n, transfers, most = 200, 3, 3*16 // sixteen small ones in each transfer
	}
	url, roots, files := closing(t, home, n)
	front := uploadertest.NewServer(t, uploadertest.Options{Handler: uploadertest.Forward(t, node.URL), Kind: kuboKind})
	if err := os.WriteFile(filepath.Join(home, "roots"), []byte(strings.Join(roots, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(extra ...string) *exec.Cmd {
		return newCommand(t, home, append([]string{
			"copy", "--files-from", "roots", "--from", url, "--to", "kubo+" + front.URL, "--ledger", "ledger",
			"--max-shard-bytes", "8000000", "--transfers", fmt.Sprint(transfers),
		}, extra...)...)
	}
	for _, after := range []int{n / 4, n / 2} { // counted in shards of this run
		cmd := command("-q")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		killed := make(chan struct{})
		front.Script(uploadertest.Upload, append(uploadertest.Repeat(after, uploadertest.Pass), func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			_ = cmd.Process.Kill() // it can't have ended, because it waits for this reply
			uploadertest.Reset(w)
			close(killed)
		})...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); exitCode(err) != -1 {
			t.Fatalf("it was not killed: %v\n%s", err, stderr.String())
		}
		<-killed
	}
	cmd := command("--json")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended, peaks := make(chan struct{}), make(chan int64, 1)
	go func() { peaks <- peakMemory(cmd.Process.Pid, ended) }()
	err := cmd.Wait()
	close(ended)
	t.Logf("%d roots, the rest of them in %s with %d MiB at most", len(roots), time.Since(began), <-peaks>>20)
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	if got := strings.Count(stdout.String(), `"type":"file"`); got != len(roots) {
		t.Errorf("it told of %d roots", got)
	}
	shards := strings.Count(stdout.String(), `"type":"shard"`)
	if sent := front.Count(uploadertest.Upload).Requests; sent > shards+2*most {
		t.Errorf("%d shards were sent, of %d", sent, shards)
	} else {
		t.Logf("%d shards, sent in %d requests", shards, sent)
	}
	pins := string(node.Run(t, nil, "pin", "ls", "--type=recursive", "--quiet"))
	for _, root := range roots {
		if !strings.Contains(pins, root) {
			t.Errorf("%s is not pinned", root)
		}
		node.Run(t, nil, "dag", "stat", "--offline", "--progress=false", root)
		back := filepath.Join(home, "back")
		node.Run(t, nil, "get", "--offline", "-o", back, root)
		if out, err := exec.CommandContext(t.Context(), "diff", "-r", files[root], back).CombinedOutput(); err != nil {
			t.Errorf("%s came back otherwise: %v %s", root, err, out)
		}
		if err := os.RemoveAll(back); err != nil {
			t.Fatal(err)
		}
	}
}
