package chunker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/carload/carload/car"
)

// BuildTree describes what is at name on disk.
func BuildTree(ctx context.Context, name string, opts Options) (*DAG, error) {
	t := NewTree()
	if err := t.AddDisk("", name); err != nil {
		return nil, err
	}
	return t.Build(ctx, opts)
}

// TotalSize is the cumulative size of all blocks, duplicates included: IPFS
// calls it Tsize.
func (d *DAG) TotalSize() int64 { return d.nodes.at(0).tsize }

// BuildFromLeaves is like Build for a source whose leaf digests are known, so
// that a test can describe 31 GiB of a repeating pattern quickly.
func BuildFromLeaves(src car.Source, p Profile, leaf func(i int, content int64, head, tail []byte) [32]byte) *DAG {
	b, err := newBuilder(Options{Profile: p})
	if err != nil {
		panic(err)
	}
	b.dag.nodes.add(node{body: src, size: src.Size()})
	f := &file{layout: newLayout(&b.dag.plain, src.Size(), "")}
	f.digests = make([]byte, f.layout.nodes()*digestSize)
	for i := range f.layout.leaves {
		from, to := f.layout.leaf(i)
		block := p.leafBlock(car.Block{}, src, from, to, f.layout.leafMeta())
		sum := leaf(i, to-from, block.Head, block.Tail)
		copy(digestAt(f.digests, i), sum[:])
	}
	f.finish(b.dag.nodes.at(0))
	return b.dag
}

// BuildMadeUp is like Build for a tree of n files that does not exist, a
// thousand in each directory, with the nodes that a walk would make.
func BuildMadeUp(ctx context.Context, n int, opts Options) (*DAG, error) {
	b, err := newBuilder(opts)
	if err != nil {
		return nil, err
	}
	t := NewTree()
	d := b.dag
	d.nodes, d.mounts = t.nodes, t.mounts
	h := newBatch(b, d.plain.leafBytes(1<<20))
	var dir *node
	for i := range n {
		if i%1000 == 0 {
			dir = d.nodes.add(node{name: fmt.Sprintf("dir-%06d", i/1000), parent: d.nodes.at(0), body: &directory{}})
		}
		content := strconv.AppendInt(nil, int64(i), 10)
		f := d.nodes.add(node{name: fmt.Sprintf("file-%08d.json", i), parent: dir, size: int64(len(content))})
		if err := h.add(d.profileOf(f), f, bytes.NewReader(content), 0, f.size, f.digest[:]); err != nil {
			return nil, err
		}
		h.done = append(h.done, described{node: f})
	}
	h.flush()
	return d, errors.Join(context.Cause(ctx), d.assemble(false))
}
