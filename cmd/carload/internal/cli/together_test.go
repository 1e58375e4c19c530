//go:build unix

package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// together is eight commands at a time that share a ledger and a service.
type together struct {
	t     *testing.T
	home  string
	flags []string
	roots []string // of the files

	mu    sync.Mutex
	done  map[string]bool // roots that an upload has called done
	count map[string]int  // how often each thing happened
}

const (
	togetherCommands = 8
	togetherFiles    = 12
)

// TestManyCommandsWithKills checks that, whatever is killed, nothing is sent
// again after an upload was done, nothing is called done that is not there, and
// nobody is locked out.
func TestManyCommandsWithKills(t *testing.T) {
	t.Parallel()
	length, rounds := time.Duration(0), 4
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		length, rounds = 10*time.Minute, 1<<30
	}
	home := t.TempDir()
	url := startService(t, home, "serve", "-q", "--store", "service", "--listen", "127.0.0.1:0")
	w := &together{
		t: t, home: home, done: map[string]bool{}, count: map[string]int{},
		flags: []string{"--endpoint", url, "--token-file", filepath.Join("service", "local-token")},
	}
	for i := range togetherFiles {
		w.file(w.path(i), uint64(i), int64(1+i%4)<<20)
		out, err := newCommand(t, home, "cid", "-Q", w.path(i)).Output()
		if err != nil {
			t.Fatal(err)
		}
		w.roots = append(w.roots, strings.TrimSpace(string(out)))
	}
	end := time.Now().Add(length)
	var g errgroup.Group
	for worker := range togetherCommands {
		rng := rand.New(rand.NewPCG(uint64(worker), 8))
		g.Go(func() error {
			for round := 0; round < rounds && (length == 0 || time.Now().Before(end)); round++ {
				if err := w.command(rng, worker, round); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	// Without kills, everything can be done, and the ledger knows it.
	for i, root := range w.roots {
		if err := w.up(i, 0); err != nil {
			t.Error(err)
		}
		if !w.done[root] {
			t.Errorf("%s is not done", root)
		}
	}
	list, code := w.run(0, "ledger", "list")
	for _, root := range w.roots {
		if !strings.Contains(list, root+"\tverified") {
			t.Errorf("exit code %d: the ledger does not know %s as verified:\n%s", code, root, list)
		}
		if out, code := w.run(0, append([]string{"verify", root, "--full"}, w.flags...)...); code != 0 {
			t.Errorf("verify %s: exit code %d\n%s", root, code, out)
		}
	}
	if w.count["killed"] == 0 || w.count["up"] == 0 || w.count["verify"] == 0 {
		t.Errorf("%v", w.count)
	}
	t.Logf("%v", w.count)
}

func (w *together) path(i int) string { return fmt.Sprintf("file-%d", i) }

func (w *together) file(name string, seed uint64, size int64) {
	w.t.Helper()
	path := filepath.Join(w.home, name)
	f, err := os.Create(path)
	if err == nil {
		_, err = io.CopyN(f, rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 8}), size)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// run runs a command with the ledger, and kills it after a time if one is
// given. The exit code of a killed command is -1.
func (w *together) run(life time.Duration, args ...string) (out string, code int) {
	cmd := newCommand(w.t, w.home, append(args, "--ledger", "shared.db")...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return err.Error(), -2
	}
	if life > 0 {
		defer time.AfterFunc(life, func() { _ = cmd.Process.Kill() }).Stop()
	}
	code = exitCode(cmd.Wait())
	if code != 0 && code != -1 {
		return stdout.String() + stderr.String(), code
	}
	return stdout.String(), code
}

func (w *together) counted(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count[what]++
}

// command runs one of the commands that people run.
func (w *together) command(rng *rand.Rand, worker, round int) error {
	var life time.Duration
	if rng.IntN(3) == 0 {
		life = time.Duration(rng.IntN(400)+1) * time.Millisecond
	}
	i := rng.IntN(togetherFiles)
	switch kind := rng.IntN(10); {
	case kind < 6:
		return w.up(i, life)
	case kind < 7:
		return w.grow(worker, round, life)
	case kind < 9:
		w.mu.Lock()
		done := w.done[w.roots[i]]
		w.mu.Unlock()
		out, code := w.run(life, append([]string{"verify", w.roots[i], "--full"}, w.flags...)...)
		return w.judge("verify", out, code, done, 4)
	}
	out, code := w.run(life, "ledger", "list")
	if strings.Contains(out, "there is no ledger at") {
		return nil
	}
	return w.judge("list", out, code, true, 0)
}

// judge accepts success, a kill, and, unless must is set, one other code.
func (w *together) judge(what, out string, code int, must bool, may int) error {
	switch {
	case code == -1:
		w.counted("killed")
	case code == 0:
		w.counted(what)
	case !must && code == may:
		w.counted(what + " too early")
	default:
		return fmt.Errorf("%s: exit code %d\n%s", what, code, out)
	}
	return nil
}

// up uploads a file, and checks whether its output is true.
func (w *together) up(i int, life time.Duration) error {
	root := w.roots[i]
	w.mu.Lock()
	before := w.done[root]
	w.mu.Unlock()
	out, code := w.run(life, append([]string{"up", "--json", "--max-shard-bytes", "1100kB", w.path(i)}, w.flags...)...)
	if err := w.judge("up", out, code, true, 0); err != nil || code != 0 {
		return err
	}
	for text := range strings.Lines(out) {
		var l struct {
			Type, Root string
			Shards     int   `json:"shards"`
			Held       int   `json:"shardsHeld"`
			Sent       int64 `json:"bytesSent"`
		}
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			return err
		}
		if l.Type != "file" {
			continue
		}
		if l.Root != root {
			return fmt.Errorf("%s has root %s, want %s", w.path(i), l.Root, root)
		}
		if before && (l.Sent != 0 || l.Held != l.Shards) {
			return fmt.Errorf("%s was done, and %d bytes were sent again: %s", w.path(i), l.Sent, text)
		}
	}
	if out, err := newCommand(w.t, w.home, append([]string{"status", root}, w.flags...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s is done and not there: %w\n%s", root, err, out)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done[root] = true
	return nil
}

// grow adds a file to the worker's folder, and uploads the folder.
func (w *together) grow(worker, round int, life time.Duration) error {
	dir := fmt.Sprintf("folder-%d", worker)
	if err := os.MkdirAll(filepath.Join(w.home, dir), 0o700); err != nil {
		return err
	}
	w.file(filepath.Join(dir, fmt.Sprint("file-", round)), uint64(1000+worker*97+round), 50_000)
	out, code := w.run(life, append([]string{"up", "-Q", dir}, w.flags...)...)
	if err := w.judge("grow", out, code, true, 0); err != nil || code != 0 {
		return err
	}
	root := strings.TrimSpace(out)
	want, err := newCommand(w.t, w.home, "cid", "-Q", dir).Output()
	if err != nil || strings.TrimSpace(string(want)) != root {
		return fmt.Errorf("%s has root %s, want %s (%w)", dir, root, want, err)
	}
	if out, code := w.run(0, append([]string{"verify", root, "--full"}, w.flags...)...); code != 0 {
		return fmt.Errorf("%s: exit code %d\n%s", root, code, out)
	}
	return nil
}
