package chunker

import "github.com/carload/carload/car"

// BuildFromLeaves is Build for a source whose leaf digests are known, so that
// a test can describe 31 GiB of a repeating pattern in no time.
func BuildFromLeaves(src car.Source, p Profile, leaf func(i int, content int64, head, tail []byte) [32]byte) *DAG {
	d := &DAG{profile: p, size: src.Size()}
	l := newLayout(&d.profile, src.Size(), nil)
	f := file{source: src, layout: l, digests: make([]byte, l.nodes()*digestSize)}
	for i := range l.level[0].count {
		content := l.span(0, i).content
		var head, tail []byte
		if !p.RawLeaves {
			head, tail = l.leafFrame(content, l.top() == 0)
		}
		sum := leaf(i, content, head, tail)
		copy(f.digests[i*digestSize:], sum[:])
	}
	d.finish(f)
	return d
}
