package chunker

import "github.com/carload/carload/car"

// BuildFromLeaves is Build for a source whose leaf digests are known, so that
// a test can describe 31 GiB of a repeating pattern in no time.
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
