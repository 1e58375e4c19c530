//go:build unix

package cli_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carload/carload/uploader/targettest"
	"github.com/carload/carload/uploader/uploadertest"
)

// mortal is a target for commands that are killed.
type mortal struct {
	front *uploadertest.Server // nil if it is not a server
	to    string
	env   []string
	asks  bool // it can report what it has
	ends  bool // an upload ends with a commit
	check func(t *testing.T, root string, data []byte)
}

func kuboKind(r *http.Request) uploadertest.Op {
	switch r.URL.Path {
	case "/api/v0/dag/import":
		return uploadertest.Upload
	case "/api/v0/pin/add":
		return uploadertest.Commit
	}
	return uploadertest.Other
}

func bucketKind(r *http.Request) uploadertest.Op {
	switch {
	case r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".car"):
		return uploadertest.Upload
	case r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".json"):
		return uploadertest.Commit
	}
	return uploadertest.Other
}

// mortals returns the kinds of targets, by name.
func mortals(t *testing.T, home string) map[string]*mortal {
	t.Helper()
	service := startService(t, home, "serve", "-q", "--store", "service", "--listen", "127.0.0.1:0")
	token, err := os.ReadFile(filepath.Join(home, "service", "local-token"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*mortal{
		"dir": {to: "dir:shards"}, "store": {to: "store:store", asks: true},
		"service": {to: service, asks: true, env: []string{"CARLOAD_TOKEN=" + strings.TrimSpace(string(token))}},
	}
	if os.Getenv("CARLOAD_KUBO") != "" {
		node := targettest.StartKubo(t)
		front := uploadertest.NewServer(t, uploadertest.Options{Handler: uploadertest.Forward(t, node.URL), Kind: kuboKind})
		all["kubo"] = &mortal{front: front, to: "kubo+" + front.URL, asks: true, ends: true, check: func(t *testing.T, root string, data []byte) {
			t.Helper()
			if got := node.Run(t, nil, "cat", root); !bytes.Equal(got, data) {
				t.Errorf("ipfs cat gives %d other bytes", len(got))
			}
			node.Run(t, nil, "pin", "ls", "--type=recursive", root)
		}}
	}
	if os.Getenv("CARLOAD_VERSITYGW") != "" {
		s := targettest.StartS3(t)
		front := uploadertest.NewServer(t, uploadertest.Options{Handler: uploadertest.Forward(t, s.URL), Kind: bucketKind})
		all["bucket"] = &mortal{
			front: front, to: "s3://" + s.Bucket + "/a", asks: true, ends: true,
			env: []string{"AWS_ENDPOINT_URL=" + front.URL, "AWS_ACCESS_KEY_ID=" + s.Access, "AWS_SECRET_ACCESS_KEY=" + s.Secret},
		}
	}
	return all
}

// TestTargetsKilled kills commands at random moments, and just before and after
// each commit. What a target calls complete is complete, and the next command
// completes the rest.
func TestTargetsKilled(t *testing.T) {
	t.Parallel()
	moments := 3
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		moments = 50
	}
	home := t.TempDir()
	for name, m := range mortals(t, home) {
		t.Run(name, func(t *testing.T) {
			k := &killing{mortal: m, t: t, home: home, name: name}
			began := time.Now()
			if !k.run(0, func(*exec.Cmd) {}) {
				t.Fatal("it does not work at all")
			}
			took := time.Since(began)
			killed, tries := 0, 0
			for ; killed < moments && tries < 4*moments; tries++ {
				wait := time.Duration(rand.Int64N(int64(took)))
				began := time.Now()
				if !k.run(tries+1, func(cmd *exec.Cmd) {
					<-time.After(wait)
					_ = cmd.Process.Kill() // it may have ended
				}) {
					killed++
				} else {
					took = min(took, max(k.ended.Sub(began), time.Millisecond))
				}
			}
			t.Logf("%d of %d were killed before their end, which came after %s at best", killed, tries, took)
			if killed < moments/2 {
				t.Errorf("only %d of %d were killed before their end", killed, tries)
			}
			if !m.ends {
				return
			}
			for i, after := range []bool{false, true} {
				var cmd atomic.Pointer[exec.Cmd]
				met := make(chan struct{})
				m.front.Script(uploadertest.Commit, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					if after {
						next.ServeHTTP(httptest.NewRecorder(), r)
					}
					_ = cmd.Load().Process.Kill()
					uploadertest.Reset(w)
					close(met)
				})
				if k.run(1000+i, func(c *exec.Cmd) { cmd.Store(c); <-met }) {
					t.Errorf("it was not killed at its commit")
				}
			}
		})
	}
}

type killing struct {
	*mortal
	ended      time.Time // of the last command that was to be killed
	t          *testing.T
	home, name string
}

func (k *killing) command(args ...string) *exec.Cmd {
	cmd := newCommand(k.t, k.home, append(args, "--to", k.to)...)
	cmd.Env = append(cmd.Env, k.env...)
	return cmd
}

// run uploads file number n, kills the command, checks what is called complete,
// uploads again, and checks what arrived. It reports whether the first command
// had ended.
func (k *killing) run(n int, kill func(*exec.Cmd)) (done bool) {
	t := k.t
	t.Helper()
	path := filepath.Join(k.home, fmt.Sprintf("%s-%d", k.name, n))
	data := make([]byte, 6_000_000)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), k.name[0]}).Read(data)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"up", "-Q", path, "--max-shard-bytes", "1200000", "--transfers", "2", "--ledger", "ledger-" + k.name}
	first := k.command(args...)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	kill(first)
	done = first.Wait() == nil
	k.ended = time.Now()
	out, err := newCommand(t, k.home, "cid", "-Q", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	root := strings.TrimSpace(string(out))
	if k.asks && k.command("status", root).Run() == nil {
		if out, err := k.command("verify", root, "--full", "--ledger", "none").CombinedOutput(); err != nil {
			t.Errorf("what is called complete is not: %v\n%s", err, out)
		}
	}
	var stderr bytes.Buffer
	second := k.command(args...)
	second.Stderr = &stderr
	if out, err := second.Output(); err != nil || strings.TrimSpace(string(out)) != root {
		t.Errorf("again: %v, %q\n%s", err, out, stderr.String())
	}
	verify := k.command("verify", root, "--full", "--ledger", "none")
	if !k.asks {
		verify = newCommand(t, k.home, "verify", root, strings.TrimPrefix(k.to, "dir:"))
	}
	if out, err := verify.CombinedOutput(); err != nil {
		t.Errorf("verify: %v\n%s", err, out)
	}
	if k.check != nil {
		k.check(t, root, data)
	}
	return done
}
