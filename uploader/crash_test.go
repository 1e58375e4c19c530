package uploader_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/sqliteledger"
	"github.com/carload/carload/uploader/uploadertest"
)

// order tells a child process what to do.
type order struct {
	Path, Ledger, URL, Token string
	MaxShardBytes            int64
	Transfers                int
	BytesPerSecond           int64
	// Die is the number of the ledger write, counted from 1, at which the
	// process ends as if by SIGKILL; 0 means never. After says whether the
	// write takes place.
	Die   int
	After bool
}

// child is what the test binary does when a test runs it as a command: one
// upload. It prints the root and the number of writes to the ledger.
func child(text string) int {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	if err := o.run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (o *order) run() (err error) {
	l, err := sqliteledger.Open(context.Background(), o.Ledger, sqliteledger.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	token, err := nftstorage.NewToken(o.Token)
	if err != nil {
		return err
	}
	target, err := nftstorage.New(nftstorage.Options{Endpoint: o.URL, Token: token})
	if err != nil {
		return err
	}
	ledger := &mortalLedger{Ledger: l, order: o}
	u, err := uploader.New(target, uploader.Options{
		Ledger: ledger, MaxShardBytes: o.MaxShardBytes, Transfers: o.Transfers, BytesPerSecond: o.BytesPerSecond, Verify: uploader.VerifyFull,
		Observer: observerFunc(func(e uploader.Event) {
			if _, ok := e.(uploader.Waiting); ok {
				fmt.Fprint(os.Stderr, waitingText)
			}
		}),
	})
	if err != nil {
		return err
	}
	in, err := uploader.File(o.Path, chunking())
	if err != nil {
		return err
	}
	r, err := uploadOne(context.Background(), u, in)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(os.Stdout, r.Root, ledger.writes.Load())
	return err
}

// mortalLedger kills the process at one of its writes.
type mortalLedger struct {
	uploader.Ledger
	order  *order
	writes atomic.Int64
}

func (l *mortalLedger) write(f func() error) error {
	mine := int(l.writes.Add(1)) == l.order.Die
	if mine && !l.order.After {
		die()
	}
	err := f()
	if mine {
		die()
	}
	return err
}

// die ends the process at once, without flushing or deferred calls.
func die() {
	p, err := os.FindProcess(os.Getpid())
	if err == nil {
		err = p.Kill()
	}
	if err != nil {
		panic(err)
	}
	select {} // the signal is on its way
}

func (l *mortalLedger) Record(ctx context.Context, u uploader.UploadKey, i int, c cid.Cid) error {
	return l.write(func() error { return l.Ledger.Record(ctx, u, i, c) })
}

func (l *mortalLedger) Finish(ctx context.Context, u uploader.UploadKey, archives map[int]cid.Cid, f uploader.Finished) error {
	return l.write(func() error { return l.Ledger.Finish(ctx, u, archives, f) })
}

func (l *mortalLedger) Forget(ctx context.Context, u uploader.UploadKey) error {
	return l.write(func() error { return l.Ledger.Forget(ctx, u) })
}

func (l *mortalLedger) SaveDescription(ctx context.Context, key string, plan []byte) error {
	return l.write(func() error { return l.Ledger.SaveDescription(ctx, key, plan) })
}

// crash is an upload that is killed one or more times and then completes.
type crash struct {
	t    *testing.T
	path string
	plan *splitter.Plan
	o    order
}

const crashTransfers = 3

func newCrash(t *testing.T, size int, shard int64) *crash {
	c := &crash{t: t, path: randomFile(t, size, 7), o: order{MaxShardBytes: shard, Transfers: crashTransfers}}
	p := planOf(t, c.path)
	var err error
	if c.plan, err = splitter.Split(p.Blocks, splitter.Options{MaxShardBytes: shard}); err != nil {
		t.Fatal(err)
	}
	return c
}

// run runs one process, and kills it after life, if that is not 0.
func (c *crash) run(o order, life time.Duration) (out string, killed bool) {
	c.t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx := c.t.Context()
	if life > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, life)
		defer cancel()
	}
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "CARLOAD_TEST_CHILD="+string(text), "GORACE=atexit_sleep_ms=50")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout.String(), false
	case errors.As(err, &exit) && exit.ExitCode() == -1, ctx.Err() != nil:
		return "", true
	}
	c.t.Fatalf("%v: %s", err, stderr.String())
	return "", false
}

// round kills processes after these lifetimes, lets another one complete, and
// returns how many bytes were sent more than once.
func (c *crash) round(srv *uploadertest.Server, ledger string, die int, after bool, lives ...time.Duration) (resent int64, kills int) {
	c.t.Helper()
	o := c.o
	o.Path, o.Ledger, o.URL, o.Token = c.path, ledger, srv.URL, srv.Token
	before := srv.Count(uploadertest.Upload).Bytes
	if die > 0 {
		mortal := o
		mortal.Die, mortal.After = die, after
		if _, killed := c.run(mortal, 0); killed {
			kills++
		}
	}
	for _, life := range lives {
		if _, killed := c.run(o, life); killed {
			kills++
		}
	}
	out, _ := c.run(o, 0)
	root := c.plan.Blocks.At(0).Cid
	if f := strings.Fields(out); len(f) != 2 || f[0] != root.String() || !srv.Store.Complete(root) {
		c.t.Errorf("the last process wrote %q, want root %s", out, root)
	}
	resent = srv.Count(uploadertest.Upload).Bytes - before - c.plan.Size()
	if most := int64(kills) * crashTransfers * c.o.MaxShardBytes; resent > most {
		c.t.Errorf("%d bytes were sent again after %d kills, want at most %d", resent, kills, most)
	}
	return resent, kills
}

// TestCrash kills the process at every write to its ledger, before and after,
// and at random times. Each time the same command completes with the right
// root, and sends no more again than what was in flight.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("runs some dozens of processes")
	}
	t.Parallel()
	instants := 6
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		instants = 150
	}
	var report strings.Builder
	tab := tabwriter.NewWriter(&report, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tab, "upload\tkilled at\trounds\tkills\tbytes sent again, most\tallowed for one kill")
	for _, size := range []struct {
		name  string
		bytes int
		shard int64
	}{{"small", fileBytes, shardBytes}, {"large", 12 << 20, 1_000_000}} {
		c := newCrash(t, size.bytes, size.shard)
		c.o.BytesPerSecond = int64(3 * size.bytes) // so that shards are in flight most of the time
		dir := t.TempDir()
		srv := uploadertest.NewServer(t, uploadertest.Options{})
		n := 0
		round := func(die int, after bool, lives ...time.Duration) (int64, int) {
			srv.Store.Reset()
			n++
			return c.round(srv, filepath.Join(dir, fmt.Sprint(n)), die, after, lives...)
		}
		start := time.Now()
		o := c.o
		o.Path, o.Ledger, o.URL, o.Token = c.path, filepath.Join(dir, "whole"), srv.URL, srv.Token
		out, _ := c.run(o, 0)
		whole := time.Since(start)
		var root string
		var writes int
		if _, err := fmt.Sscan(out, &root, &writes); err != nil || writes < len(c.plan.Shards) {
			t.Fatalf("the child wrote %q, %v", out, err)
		}
		if size.name == "large" && os.Getenv("CARLOAD_TEST_LONG") == "" {
			writes = 2
		}
		var most int64
		kills := 0
		for die := 1; die <= writes; die++ {
			for _, after := range []bool{false, true} {
				resent, k := round(die, after)
				most, kills = max(most, resent), kills+k
			}
		}
		if kills != 2*writes {
			t.Errorf("%d processes were killed, want %d", kills, 2*writes)
		}
		fmt.Fprintf(tab, "%s\tledger writes\t%d\t%d\t%d\t%d\n", size.name, 2*writes, kills, most, crashTransfers*c.o.MaxShardBytes)
		rng := rand.New(rand.NewPCG(5, uint64(size.bytes)))
		most, kills = 0, 0
		for range instants {
			// Some are killed several times before they complete.
			lives := make([]time.Duration, 1+rng.IntN(3))
			for i := range lives {
				lives[i] = time.Duration(rng.Int64N(int64(whole))) + 1
			}
			resent, k := round(0, false, lives...)
			most, kills = max(most, resent), kills+k
		}
		if kills == 0 {
			t.Error("no process was killed at a random instant")
		}
		fmt.Fprintf(tab, "%s\trandom instants\t%d\t%d\t%d\t%d\n", size.name, instants, kills, most, crashTransfers*c.o.MaxShardBytes)
	}
	if err := tab.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + report.String())
}

// TestSecondProcess: a process waits for another one that is sending the same,
// and sends nothing again.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	c := newCrash(t, fileBytes, shardBytes)
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := filepath.Join(t.TempDir(), "ledger.db")
	l, err := sqliteledger.Open(t.Context(), path, sqliteledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	key := uploader.UploadKey{Target: srv.URL, Root: c.plan.Blocks.At(0).Cid, MaxShardBytes: shardBytes}
	end, err := l.Begin(t.Context(), key, func() { t.Error("it waits") })
	if err != nil {
		t.Fatal(err)
	}
	o := c.o
	o.Path, o.Ledger, o.URL, o.Token = c.path, path, srv.URL, srv.Token
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "CARLOAD_TEST_CHILD="+string(text), "GORACE=atexit_sleep_ms=50")
	var stdout bytes.Buffer
	cmd.Stdout = &stdout
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, len(waitingText))
	if _, err := io.ReadFull(stderr, said); err != nil || string(said) != waitingText {
		t.Fatalf("it says %q, %v", said, err)
	}
	// The ledger has what was sent meanwhile, no matter by whom.
	if r, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{Ledger: claimed{l}, MaxShardBytes: shardBytes}), input(t, c.path)); err != nil || r.Held != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	sent := srv.Count(uploadertest.Upload).Requests
	end()
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(stdout.String(), key.Root.String()) {
		t.Errorf("it wrote %q, %v", stdout.String(), err)
	}
	if n := srv.Count(uploadertest.Upload).Requests; n != sent {
		t.Errorf("%d shards were sent again", n-sent)
	}
}

const waitingText = "waiting\n"

// claimed is a ledger whose claim is held already.
type claimed struct{ uploader.Ledger }

func (claimed) Begin(context.Context, uploader.UploadKey, func()) (func(), error) {
	return func() {}, nil
}
