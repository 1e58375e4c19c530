package interop_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
)

// TestLoad sends 64 parallel uploads from 8 keys to a service that runs the
// command in a separate process, for as long as CARLOAD_TEST_LOAD says ("5m").
// Afterwards every upload must be complete, and must come back byte for byte.
func TestLoad(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("CARLOAD_TEST_LOAD"))
	if err != nil {
		t.Skip("CARLOAD_TEST_LOAD is not set")
	}
	dir := t.TempDir()
	exe := filepath.Join(dir, "carload")
	if out, err := exec.Command("go", "build", "-o", exe, "../../cmd/carload").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	store := filepath.Join(dir, "store")
	var targets []*nftstorage.Target
	var tokens []string
	for i := range 8 {
		out, err := exec.Command(exe, "key", "new", "--store", store, fmt.Sprintf("load-%d", i)).Output()
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(string(out))
		tokens = append(tokens, fields[len(fields)-1])
	}
	serve := exec.Command(exe, "serve", "--store", store, "--listen", "127.0.0.1:0")
	stdout, err := serve.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	serve.Stderr = os.Stderr // shows what the service says about a failure
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = serve.Process.Kill()
		_ = serve.Wait()
	})
	line := make([]byte, 256)
	n, err := stdout.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	url := strings.TrimSpace(string(line[:n]))
	for _, s := range tokens {
		token, err := nftstorage.NewToken(s)
		if err != nil {
			t.Fatal(err)
		}
		target, err := nftstorage.New(nftstorage.Options{Endpoint: url, Token: token})
		if err != nil {
			t.Fatal(err)
		}
		defer target.Close()
		targets = append(targets, target)
	}

	type done struct {
		seed, size int64
		root       cid.Cid
	}
	var mu sync.Mutex
	var all []done
	var sent int64
	ctx := context.Background()
	deadline := time.Now().Add(length)
	var g errgroup.Group
	for id := range 64 {
		g.Go(func() error {
			rng := rand.New(rand.NewPCG(uint64(id), 9))
			for time.Now().Before(deadline) {
				d := done{seed: rng.Int64(), size: 1 + rng.Int64N(6<<20)}
				src := noiseSource{d.seed, d.size}
				dag, err := chunker.Build(ctx, src, chunker.Options{Workers: 1})
				if err != nil {
					return err
				}
				plan, err := splitter.Split(dag, splitter.Options{MaxShardBytes: 2_300_000})
				if err != nil {
					return err
				}
				u, err := uploader.New(targets[id%len(targets)], uploader.Options{Transfers: 2, Retries: -1})
				if err != nil {
					return err
				}
				if _, err := u.Send(ctx, fmt.Sprint("load ", d.seed), plan); err != nil {
					return err
				}
				d.root = dag.Root()
				mu.Lock()
				all = append(all, d)
				sent += plan.Size()
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	peak := peakMemory(t, serve.Process.Pid)
	t.Logf("%d uploads, %d bytes in %s; the service's memory was at most %d MiB", len(all), sent, length, peak>>20)
	if peak > 512<<20 {
		t.Errorf("the service took %d MiB", peak>>20)
	}
	for _, d := range all {
		resp, err := http.Get(url + "/ipfs/" + d.root.String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.LimitReader(resp.Body, d.size+1))
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		want := make([]byte, d.size)
		if _, err := (noiseSource{d.seed, d.size}).ReadAt(want, 0); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%s came back wrong: %d bytes of %d, status %s", d.root, len(got), d.size, resp.Status)
		}
	}
}

// noiseSource is a source of random bytes that are generated while reading.
type noiseSource struct{ seed, size int64 }

func (s noiseSource) Name() string                  { return fmt.Sprint("noise ", s.seed) }
func (s noiseSource) Size() int64                   { return s.size }
func (s noiseSource) Open() (car.SourceFile, error) { return s, nil }
func (s noiseSource) Close() error                  { return nil }

func (s noiseSource) ReadAt(p []byte, off int64) (int, error) {
	var key [32]byte
	copy(key[:], strconv.FormatInt(s.seed, 10))
	r := rand.NewChaCha8(key)
	n := int(min(int64(len(p)), s.size-off))
	if _, err := io.CopyN(io.Discard, r, off); err != nil {
		return 0, err
	}
	_, _ = r.Read(p[:n])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// peakMemory returns the largest resident size of a process so far.
func peakMemory(t *testing.T, pid int) int64 {
	t.Helper()
	p, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("peak memory is read from /proc")
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(p)
	if m == nil {
		t.Fatal("no VmHWM")
	}
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
