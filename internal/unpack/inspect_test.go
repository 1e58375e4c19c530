package unpack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/unpack"
)

func TestList(t *testing.T) {
	t.Parallel()
	when := time.Unix(1_600_000_000, 5)
	r := recipe{cidVersion: 0, chunk: 1024, width: 4, mode: 0o640, mtime: when}
	blocks := r.build(t, tree{"a": mod251(5000), "d/b": "hello", "l": "-> d/b", "z/": ""})
	x := indexOf(t, blocks)
	var got []unpack.Entry
	for e, err := range unpack.List(ctx, x, blocks[0].Cid) {
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := x.Find(e.Cid); !ok {
			t.Errorf("%q has the CID %s", e.Path, e.Cid)
		}
		e.Cid = cid.Undef
		got = append(got, e)
	}
	with := func(e unpack.Entry) unpack.Entry {
		e.Mode, e.HasMode, e.Mtime = 0o640, true, when
		return e
	}
	want := []unpack.Entry{
		with(unpack.Entry{Path: "", Type: unixfs.Directory}),
		with(unpack.Entry{Path: "a", Type: unixfs.File, Size: 5000}),
		with(unpack.Entry{Path: "d", Type: unixfs.Directory}),
		with(unpack.Entry{Path: "d/b", Type: unixfs.File, Size: 5}),
		{Path: "l", Type: unixfs.Symlink, Target: "d/b"},
		with(unpack.Entry{Path: "z", Type: unixfs.Directory}),
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b cid.Cid) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	// The listing stops when the caller stops.
	n := 0
	for _, err := range unpack.List(ctx, x, blocks[0].Cid) {
		if err != nil {
			t.Error(err)
		}
		if n++; n == 3 {
			break
		}
	}
}

func TestListGoesOnPastWhatIsMissing(t *testing.T) {
	t.Parallel()
	for _, fanout := range []int{0, 8} {
		r := recipe{cidVersion: 1, chunk: 1024, width: 4, fanout: fanout}
		tr := tree{}
		for i := range 40 {
			tr[fmt.Sprintf("d/%02d", i)] = fmt.Sprintf("content %d", i)
		}
		blocks := r.build(t, tr)
		gone := blocks[len(blocks)/2]
		x := without(t, blocks, gone.Cid)
		listed, failed := 0, 0
		for e, err := range unpack.List(ctx, x, blocks[0].Cid) {
			var bad *unpack.BlockError
			switch {
			case err == nil && e.Type == unixfs.File:
				listed++
			case err == nil:
			case !errors.Is(err, unpack.ErrMissing) || !errors.As(err, &bad) || bad.Cid != gone.Cid || e.Cid != gone.Cid:
				t.Errorf("%q: %v", e.Path, err)
			default:
				failed++
			}
		}
		dir := t.TempDir()
		done, err := unpack.Restore(ctx, x, blocks[0].Cid, dir, unpack.Options{KeepGoing: true})
		if !errors.Is(err, unpack.ErrMissing) || failed != 1 || listed == 0 || listed >= 40 || done.Files != int64(listed) {
			t.Errorf("fan-out %d: %d files listed, %d failures, %+v restored, %v", fanout, listed, failed, done, err)
		}
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	r := recipe{cidVersion: 1, rawLeaves: true, chunk: 1024, width: 4}
	blocks := r.build(t, tree{"a": mod251(20_000), "b": "x"})
	var bytes int64
	for _, b := range blocks {
		bytes += int64(b.Size())
	}
	archives := shards(t, blocks, 5000)
	got, x, err := unpack.Inspect(ctx, archives...)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Archives) != len(archives) || got.Blocks != len(blocks) || got.Bytes != bytes || x.Len() != len(blocks) || len(got.Roots) != 1 {
		t.Fatalf("%+v", got)
	}
	root := got.Roots[0]
	if !root.Complete() || root.Cid != blocks[0].Cid || root.Blocks != len(blocks) || root.Bytes != bytes {
		t.Errorf("%+v", root)
	}
	first := got.Archives[0]
	if first.Name != "0.car" || first.Bytes != archives[0].Size() || first.Version != 1 || !slices.Equal(first.Roots, []cid.Cid{blocks[0].Cid}) || first.Codecs[cid.Raw] == 0 || first.Codecs[cid.DagProtobuf]+first.Codecs[cid.Raw] != first.Sections {
		t.Errorf("%+v", first)
	}

	got, _, err = unpack.Inspect(ctx, archives[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	root = got.Roots[0]
	if root.Complete() || root.Missing == nil || root.Missing.Count == 0 || len(root.Missing.Missing) == 0 || root.Err != nil {
		t.Errorf("without the first shard: %+v", root)
	}

	data := slices.Clone(archives[0].(*memory).data)
	data[110] ^= 1 // in the root block
	got, _, err = unpack.Inspect(ctx, &memory{"bad.car", data})
	if err != nil {
		t.Fatal(err)
	}
	if root := got.Roots[0]; root.Complete() || !errors.Is(root.Err, car.ErrCorrupt) {
		t.Errorf("corrupt: %+v", root)
	}
	if _, _, err := unpack.Inspect(ctx, &memory{"no.car", []byte("hello")}); !errors.Is(err, car.ErrMalformed) {
		t.Errorf("no archive: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := unpack.Inspect(cancelled, archives...); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// remote is a getter with injected faults.
type remote struct {
	mu     sync.Mutex
	blocks map[cid.Cid][]byte
	calls  map[cid.Cid]int
	fail   func(c cid.Cid) error
	under  atomic.Int64
	most   atomic.Int64
}

func newRemote(blocks car.Blocks) *remote {
	r := &remote{blocks: map[cid.Cid][]byte{}, calls: map[cid.Cid]int{}}
	for _, b := range blocks {
		r.blocks[b.Cid] = b.Head
	}
	return r
}

func (r *remote) Get(_ context.Context, c cid.Cid, _ []byte) ([]byte, error) {
	r.most.Store(max(r.most.Load(), r.under.Add(1)))
	defer r.under.Add(-1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls[c]++
	if r.fail != nil {
		if err := r.fail(c); err != nil {
			return nil, err
		}
	}
	data, ok := r.blocks[c]
	if !ok {
		return nil, fmt.Errorf("404: %w", unpack.ErrMissing)
	}
	return data, nil
}

func TestVerify(t *testing.T) {
	t.Parallel()
	r := recipe{cidVersion: 1, rawLeaves: true, chunk: 1024, width: 4}
	blocks := r.build(t, tree{"a": mod251(50_000), "b/c": mod251(3000), "z": string(make([]byte, 100_000))})
	root := blocks[0].Cid
	var size int64
	var leaves, inner []car.Block
	for _, b := range blocks {
		size += int64(b.Size())
		if b.Cid.Prefix().Codec == cid.Raw {
			leaves = append(leaves, b)
		} else {
			inner = append(inner, b)
		}
	}
	for _, workers := range []int{0, 1, 7} {
		g := newRemote(blocks)
		var checked atomic.Int64
		v, err := unpack.Verify(ctx, root, g, unpack.VerifyOptions{Workers: workers, Checked: &checked})
		if err != nil || v.Blocks != int64(len(blocks)) || v.Bytes != size || v.Count != 0 || checked.Load() != size {
			t.Errorf("%d workers: %+v, %v", workers, v, err)
		}
		for c, n := range g.calls {
			if n != 1 {
				t.Errorf("%s is fetched %d times", c, n)
			}
		}
		if workers > 0 && g.most.Load() > int64(workers) {
			t.Errorf("%d fetches at a time, by %d workers", g.most.Load(), workers)
		}

		g = newRemote(blocks)
		delete(g.blocks, leaves[3].Cid)
		delete(g.blocks, leaves[10].Cid)
		bad := bytes.Clone(g.blocks[leaves[5].Cid])
		bad[0] ^= 1
		g.blocks[leaves[5].Cid] = bad
		g.blocks[leaves[7].Cid] = g.blocks[leaves[7].Cid][:100]
		last := inner[len(inner)-1]
		g.blocks[last.Cid] = nil
		v, err = unpack.Verify(ctx, root, g, unpack.VerifyOptions{Workers: workers})
		if err != nil || v.Count != 5 || len(v.Faults) != 5 {
			t.Fatalf("%d workers: %+v, %v", workers, v, err)
		}
		want := map[cid.Cid]error{leaves[3].Cid: unpack.ErrMissing, leaves[10].Cid: unpack.ErrMissing, leaves[5].Cid: car.ErrCorrupt, leaves[7].Cid: car.ErrCorrupt, last.Cid: car.ErrCorrupt}
		for _, f := range v.Faults {
			if !errors.Is(f, want[f.Cid]) || want[f.Cid] == nil {
				t.Errorf("%v", f)
			}
			linked := false
			if _, ok := g.blocks[f.Parent]; ok {
				_ = links.Each(f.Parent, g.blocks[f.Parent], func(c cid.Cid) error { linked = linked || c == f.Cid; return nil })
			}
			if !linked {
				t.Errorf("%v: its parent does not link to it", f)
			}
		}
	}
}

// A block does not stand in for another one with the same hash but another
// codec.
func TestVerifyTellsNodesApart(t *testing.T) {
	t.Parallel()
	d := new(dag)
	file := d.file([]uint64{4}, d.raw("leaf"))
	blocks := car.Blocks{file, file}
	blocks[0].Cid = cid.NewCidV1(1<<32|cid.DagProtobuf, file.Cid.Hash()) // a codec without links

	other := must[multihash.Multihash](t)(multihash.Sum([]byte("not there"), multihash.SHA2_512, -1))
	named := d.raw(string(other))
	missing := car.Block{Cid: cid.NewCidV1(cid.Raw, other)}

	for _, links := range [][]link{
		{{name: "a", to: blocks[0]}, {name: "b", to: blocks[1]}},
		{{name: "a", to: blocks[1]}, {name: "b", to: blocks[0]}},
		{{name: "a", to: named}, {name: "b", to: missing}},
		{{name: "a", to: missing}, {name: "b", to: named}},
	} {
		root := d.dir(links...)
		v, err := unpack.Verify(ctx, root.Cid, newRemote(append(blocks, root, named)), unpack.VerifyOptions{Workers: 1})
		if err != nil || v.Count != 1 || !errors.Is(v.Faults[0], unpack.ErrMissing) {
			t.Errorf("%+v, %v", v, err)
		}
	}
}

func TestVerifyEnds(t *testing.T) {
	t.Parallel()
	r := recipe{cidVersion: 1, rawLeaves: true, chunk: 1024, width: 4}
	blocks := r.build(t, tree{"a": mod251(50_000)})
	root := blocks[0].Cid
	g := newRemote(nil)
	v, err := unpack.Verify(ctx, root, g, unpack.VerifyOptions{})
	if err != nil || v.Count != 1 || v.Blocks != 0 || v.Faults[0].Parent.Defined() {
		t.Errorf("nothing there: %+v, %v", v, err)
	}

	down := errors.New("service down")
	g = newRemote(blocks)
	n := 0
	g.fail = func(cid.Cid) error {
		if n++; n > 20 {
			return down
		}
		return nil
	}
	if _, err := unpack.Verify(ctx, root, g, unpack.VerifyOptions{Workers: 3}); !errors.Is(err, down) {
		t.Errorf("service down: %v", err)
	}

	cause := errors.New("enough")
	cancelled, cancel := context.WithCancelCause(ctx)
	g = newRemote(blocks)
	n = 0
	g.fail = func(cid.Cid) error {
		if n++; n == 20 {
			cancel(cause)
		}
		return nil
	}
	if _, err := unpack.Verify(cancelled, root, g, unpack.VerifyOptions{Workers: 3}); !errors.Is(err, cause) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := unpack.VerifyIndex(cancelled, indexOf(t, blocks), root, unpack.VerifyOptions{}); !errors.Is(err, cause) {
		t.Errorf("cancelled before: %v", err)
	}

	var d dag
	d.add(cid.DagCBOR, []byte{0xff}) // does not decode
	v, err = unpack.Verify(ctx, d.blocks[0].Cid, newRemote(d.blocks), unpack.VerifyOptions{})
	if err != nil || v.Count != 1 || !errors.Is(v.Faults[0], links.ErrInvalid) {
		t.Errorf("no CBOR: %+v, %v", v, err)
	}
}

func TestRestoreStops(t *testing.T) {
	t.Parallel()
	r := recipe{cidVersion: 1, rawLeaves: true, chunk: 1024, width: 4}
	blocks := r.build(t, tree{"a": mod251(50_000), "b": "x"})
	x := indexOf(t, blocks)
	cause := errors.New("enough")
	cancelled, cancel := context.WithCancelCause(ctx)
	cancel(cause)
	dir := t.TempDir()
	if _, err := unpack.Restore(cancelled, x, blocks[0].Cid, dir, unpack.Options{KeepGoing: true}); !errors.Is(err, cause) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := unpack.Restore(ctx, x, blocks[0].Cid, dir, unpack.Options{MaxBytes: 50_000}); !errors.Is(err, unpack.ErrTooLarge) {
		t.Errorf("too large: %v", err)
	}
	if diff := cmp.Diff(tree{"a": mod251(50_000)}, readTree(t, dir)); diff != "" {
		t.Error(diff)
	}
	if _, err := unpack.Restore(ctx, x, blocks[0].Cid, dir, unpack.Options{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("once more: %v", err)
	}
	var wrote atomic.Int64
	if _, err := unpack.Restore(ctx, x, blocks[0].Cid, dir, unpack.Options{Force: true, MaxBytes: 50_001, Wrote: &wrote}); err != nil || wrote.Load() != 50_001 {
		t.Errorf("%d bytes written, %v", wrote.Load(), err)
	}
}
