package uploader_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
)

// counting is a target that counts what it receives, has limits, and needs a
// commit. It loses blocks before its first commits.
type counting struct {
	limits uploader.Limits
	wrong  bool        // it reports one block too many
	lose   [][]cid.Cid // by commit

	mu       sync.Mutex
	names    []string
	shards   []int
	commits  []uploader.Upload
	archives map[int]cid.Cid
}

func (c *counting) String() string          { return "counting" }
func (c *counting) Limits() uploader.Limits { return c.limits }

func (c *counting) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	var b bytes.Buffer
	body := s.Open(ctx)
	_, err := body.WriteTo(&b)
	if err = errors.Join(err, body.Close()); err != nil {
		return uploader.Receipt{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names, c.shards = append(c.names, s.Name), append(c.shards, s.Index)
	if c.archives == nil {
		c.archives = map[int]cid.Cid{}
	}
	c.archives[s.Index], _ = body.CID()
	blocks, payload := s.Blocks()
	if c.wrong {
		blocks++
	}
	return uploader.Receipt{Blocks: blocks, BlockBytes: payload}, nil
}

func (c *counting) Finish(_ context.Context, d uploader.Upload) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d.Shards = slices.Clone(d.Shards)
	c.commits = append(c.commits, d)
	if n := len(c.commits); n <= len(c.lose) {
		return &uploader.MissingError{Root: d.Root, Blocks: c.lose[n-1]}
	}
	return nil
}

// threeShards makes a file of three shards, and its plan.
func threeShards(t *testing.T) (string, *splitter.Plan) {
	t.Helper()
	path := randomFile(t, 3*shardBytes, 5)
	in, err := uploader.File(path, chunking())
	if err != nil {
		t.Fatal(err)
	}
	dag, err := in.Describe(t.Context(), new(atomic.Int64))
	if err != nil {
		t.Fatal(err)
	}
	plan, err := splitter.Split(dag, splitter.Options{MaxShardBytes: shardBytes})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Shards) < 3 {
		t.Fatalf("%d shards", len(plan.Shards))
	}
	return path, plan
}

func TestFinish(t *testing.T) {
	t.Parallel()
	path, plan := threeShards(t)
	first, last := plan.Blocks.At(plan.Shards[1].First).Cid, plan.Blocks.At(plan.Shards[2].First).Cid
	target := &counting{lose: [][]cid.Cid{{first}, {first, last}}}
	r, err := uploadFile(t, target, path, uploader.Options{MaxShardBytes: shardBytes, Transfers: 1})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]int, len(plan.Shards), len(plan.Shards)+2)
	for i := range want {
		want[i] = i
	}
	if want = append(want, 1, 2); !slices.Equal(target.shards, want) {
		t.Errorf("shards %v were sent, want %v: what was lost goes once more", target.shards, want)
	}
	if len(target.commits) != 3 {
		t.Fatalf("%d commits, want 3", len(target.commits))
	}
	d := target.commits[2]
	blocks, payload := plan.Blocks.Len(), int64(0)
	for i := range blocks {
		b := plan.Blocks.At(i)
		payload += int64(b.Size())
	}
	if d.Root != r.Root || d.Blocks != blocks || d.BlockBytes != payload || len(d.Shards) != len(plan.Shards) {
		t.Errorf("committed %+v, the DAG %s has %d blocks with %d bytes", d, r.Root, blocks, payload)
	}
	for i, s := range d.Shards {
		if s.CID != target.archives[i] || s.Size != plan.Shards[i].Size {
			t.Errorf("shard %d: committed as %+v", i, s)
		}
	}
}

// If blocks are still missing after they were sent again, the upload ends as
// incomplete.
func TestFinishIncomplete(t *testing.T) {
	t.Parallel()
	path, plan := threeShards(t)
	lost := []cid.Cid{plan.Blocks.At(plan.Shards[1].First).Cid}
	target := &counting{lose: [][]cid.Cid{lost, lost, lost}}
	_, err := uploadFile(t, target, path, uploader.Options{MaxShardBytes: shardBytes, Transfers: 1})
	if !errors.Is(err, uploader.ErrIncomplete) || len(target.commits) != 2 {
		t.Errorf("after %d commits: %v", len(target.commits), err)
	}
}

func TestCountsAreChecked(t *testing.T) {
	t.Parallel()
	path, _ := threeShards(t)
	_, err := uploadFile(t, &counting{wrong: true}, path, uploader.Options{MaxShardBytes: shardBytes, Retries: -1})
	if !errors.Is(err, uploader.ErrRootMismatch) {
		t.Errorf("a receipt with another count: %v", err)
	}
}

func TestUploadName(t *testing.T) {
	t.Parallel()
	path, _ := threeShards(t)
	for asked, want := range map[string]string{"": path[strings.LastIndexByte(path, '/')+1:], "other": "other"} {
		target := &counting{}
		if _, err := uploadFile(t, target, path, uploader.Options{UploadName: asked}); err != nil {
			t.Fatal(err)
		}
		for _, name := range target.names {
			if name != want {
				t.Errorf("asked for %q: the target was given the name %q", asked, name)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	path, _ := threeShards(t)
	for name, row := range map[string]struct {
		limits uploader.Limits
		opts   uploader.Options
		ok     bool
	}{
		"none":               {ok: true},
		"shard":              {limits: uploader.Limits{ShardBytes: shardBytes}, ok: true},
		"asked for too much": {limits: uploader.Limits{ShardBytes: shardBytes}, opts: uploader.Options{MaxShardBytes: shardBytes + 1}},
		"block":              {limits: uploader.Limits{BlockBytes: 1000}},
		"hash":               {limits: uploader.Limits{Hashes: []uint64{multihash.BLAKE3}}},
		"hash that it takes": {limits: uploader.Limits{Hashes: []uint64{multihash.BLAKE3, multihash.SHA2_256}}, ok: true},
		"one shard":          {limits: uploader.Limits{OneShard: true, ShardBytes: shardBytes}},
		"one large shard":    {limits: uploader.Limits{OneShard: true, ShardBytes: 5 * shardBytes}, ok: true},
	} {
		target := &counting{limits: row.limits}
		_, err := uploadFile(t, target, path, row.opts)
		if row.ok != (err == nil) || err != nil && !errors.Is(err, uploader.ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && len(target.shards) > 0 {
			t.Errorf("%s: %d shards were sent", name, len(target.shards))
		}
	}
}

// uploadFile uploads one file. It also returns an error of making the uploader.
func uploadFile(t *testing.T, target uploader.Target, path string, opts uploader.Options) (uploader.Result, error) {
	t.Helper()
	u, err := uploader.New(target, opts)
	if err != nil {
		return uploader.Result{}, err
	}
	in, err := uploader.File(path, chunking())
	if err != nil {
		t.Fatal(err)
	}
	return uploadOne(t.Context(), u, in)
}
