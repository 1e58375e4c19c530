package service_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/internal/store"
)

// crashDir names the store for the child process that will be killed: this test
// binary, started again.
const crashDir = "CARLOAD_TEST_CRASH_DIR"

// crashCollect makes the child collect all the time.
const crashCollect = "CARLOAD_TEST_CRASH_COLLECT"

// TestCrashChild serves until it is killed.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv(crashDir)
	if dir == "" {
		t.Skip("is started by TestCrash")
	}
	s, err := openServer(t, options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(crashCollect) != "" {
		go s.st.CollectRegularly(t.Context(), store.CollectOptions{Every: 5 * time.Millisecond})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(os.Stderr, "listening %s\n", l.Addr())
	if err := http.Serve(l, s.svc.Handler()); err != nil {
		t.Fatal(err)
	}
}

// startChild starts a service in a child process.
func startChild(t *testing.T, dir string, env ...string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestCrashChild$")
	cmd.Env = append(append(os.Environ(), crashDir+"="+dir), env...)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening ")
	if err != nil || !ok {
		t.Fatalf("child says %q, %v", line, err)
	}
	return cmd, "http://" + addr
}

// tree is an upload of a few shards, some of which were acknowledged.
type tree struct {
	root   block
	shards [][]byte
	leaves [][]block // by shard
	acked  []string  // CAR CIDs of the acknowledged shards
}

func newTree(n int) *tree {
	v := new(tree)
	var links []cid.Cid
	for i := range 4 {
		var leaves []block
		for j := range 3 + rand.IntN(5) {
			leaves = append(leaves, raw(fmt.Sprintf("tree %d shard %d leaf %d %s", n, i, j, strings.Repeat("x", rand.IntN(200_000)))))
			links = append(links, leaves[j].CID)
		}
		v.leaves = append(v.leaves, leaves)
	}
	v.root = pbNode(fmt.Sprintf("tree %d", n), links...)
	for _, leaves := range v.leaves {
		v.shards = append(v.shards, carOf(append([]block{v.root}, leaves...)...))
	}
	v.acked = make([]string, len(v.shards))
	return v
}

// send uploads one shard. An error means that it was not acknowledged.
func send(ctx context.Context, base, token string, body []byte) (part string, err error) {
	req, err := http.NewRequestWithContext(ctx, "POST", base+"/upload", bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/car")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	raw, err := io.ReadAll(res.Body)
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return "", err
	}
	var a answer
	if err := json.Unmarshal(raw, &a); err != nil || !a.OK {
		return "", fmt.Errorf("%s %w", raw, err)
	}
	var u upload
	err = json.Unmarshal(a.Value, &u)
	return u.Parts[len(u.Parts)-1], err
}

// After a service was killed at any moment, it has every shard that it
// acknowledged, and nothing that is incomplete.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	rounds := 6
	if n, err := strconv.Atoi(os.Getenv("CARLOAD_TEST_CRASH_ROUNDS")); err == nil {
		rounds = n
	}
	dir := t.TempDir()
	setup := newServer(t, options{Dir: dir})
	setup.close()
	var trees []*tree
	for round := range rounds {
		cmd, base := startChild(t, dir)
		var mu sync.Mutex
		var wave []*tree
		for i := range 6 {
			wave = append(wave, newTree(round*100+i))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var g errgroup.Group
		// Kill the child a moment after some acknowledgements.
		enough := make(chan struct{})
		left := 1 + rand.IntN(16)
		for _, v := range wave {
			for i := range v.shards {
				g.Go(func() error {
					part, err := send(ctx, base, setup.token, v.shards[i])
					if err != nil {
						return nil //nolint:nilerr // it was killed before it could answer
					}
					mu.Lock()
					defer mu.Unlock()
					v.acked[i] = part
					if left--; left == 0 {
						close(enough)
					}
					return nil
				})
			}
		}
		select {
		case <-enough:
		case <-time.After(20 * time.Second):
			t.Error("the service is very slow")
		}
		<-time.After(time.Duration(rand.IntN(30)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Fatal("the child ended by itself")
		}
		cancel()
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		trees = append(trees, wave...)
		checkTrees(t, dir, setup.token, trees)
	}
	http.DefaultClient.CloseIdleConnections()
	acked := 0
	for _, v := range trees {
		for _, part := range v.acked {
			if part != "" {
				acked++
			}
		}
	}
	t.Logf("%d rounds, %d of %d shards acknowledged", rounds, acked, len(trees)*4)
	if acked == 0 {
		t.Error("no shard was acknowledged before a crash")
	}
}

func checkTrees(t *testing.T, dir, token string, trees []*tree) {
	t.Helper()
	s := newServer(t, options{Dir: dir})
	defer s.close()
	s.token = token
	if f := fsck(t, s); len(f.Problems) > 0 {
		t.Fatalf("%+v", f.Problems)
	}
	for _, v := range trees {
		held := 0
		a := s.do("GET", "/"+v.root.CID.String(), nil)
		for i, part := range v.acked {
			if part == "" {
				continue
			}
			held++
			if a.status != 200 || !strings.Contains(string(a.raw), part) {
				t.Fatalf("shard %s was acknowledged and is gone: %s", part, a.raw)
			}
			leaf := v.leaves[i][0]
			if got := s.do("GET", "/ipfs/"+leaf.CID.String()+"?format=raw", nil); !bytes.Equal(got.raw, leaf.Data) {
				t.Fatalf("leaf of %s: %d", part, got.status)
			}
		}
		if a.status == 404 {
			continue
		}
		u := a.upload(t)
		if want := map[bool]string{true: "pinned", false: "pinning"}[len(u.Parts) == 4]; len(u.Parts) < held || u.Pin.Status != want {
			t.Fatalf("%d acknowledged, %+v", held, u)
		}
	}
}
