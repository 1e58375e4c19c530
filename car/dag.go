package car

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/links"
)

// ErrIncomplete is wrapped by errors about a DAG with missing blocks. See
// [IncompleteError].
var ErrIncomplete = errors.New("DAG is incomplete")

// IncompleteError lists blocks that a DAG needs and the archives do not
// contain. It matches [ErrIncomplete].
type IncompleteError struct {
	Root    cid.Cid
	Missing []cid.Cid // the first ones found
	Count   int       // of distinct missing blocks
	More    bool      // counting stopped at Count
}

func (e *IncompleteError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "DAG %s is incomplete: ", e.Root)
	if e.More {
		b.WriteString("at least ")
	}
	fmt.Fprintf(&b, "%d missing", e.Count)
	for i, c := range e.Missing {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		b.WriteString(sep + c.String())
	}
	if e.Count > len(e.Missing) {
		b.WriteString(", …")
	}
	return b.String()
}

// Is reports whether target is [ErrIncomplete].
func (e *IncompleteError) Is(target error) bool { return target == ErrIncomplete }

const (
	missingListed  = 10
	missingCounted = 100_000
)

// DAG is a complete DAG whose blocks lie in archives. It is a [List] of them:
// depth first, parents before children, each block once, with the CID that
// links to it. It holds no payload and is safe for concurrent use.
type DAG struct {
	index *Index
	root  cid.Cid
	size  int64
	kinds kinds
	pages []*[pageLen]entry
	n     int
	long  map[int]cid.Cid
	top   *Block // the root, if its CID contains it
}

// entry is a block of a DAG: its record, depth, and the kind of the CID that
// links to it.
type entry struct {
	record uint32
	depth  uint16
	kind   uint16
}

// Import indexes an archive with exactly one root and returns the DAG under it.
func Import(ctx context.Context, src Source) (*DAG, error) {
	x := new(Index)
	c, err := x.Add(ctx, src)
	if err != nil {
		return nil, err
	}
	if len(c.Roots) != 1 {
		return nil, fmt.Errorf("archive %s has %d roots; it needs exactly one", strconv.Quote(src.Name()), len(c.Roots))
	}
	d, err := x.DAG(ctx, c.Roots[0])
	if err != nil {
		return nil, fmt.Errorf("archive %s: %w", strconv.Quote(src.Name()), err)
	}
	return d, nil
}

// Root is the CID of the DAG.
func (d *DAG) Root() cid.Cid { return d.root }

// Size is the number of payload bytes, each block counted once.
func (d *DAG) Size() int64 { return d.size }

// Len implements [List].
func (d *DAG) Len() int {
	if d.top != nil {
		return 1 + d.n
	}
	return d.n
}

// At implements [List].
func (d *DAG) At(i int) Block {
	if d.top == nil {
		return d.at(i)
	}
	if i == 0 {
		return *d.top
	}
	b := d.at(i - 1)
	b.Depth++
	return b
}

// at returns block i of those that lie in an archive.
func (d *DAG) at(i int) Block {
	e := &d.pages[i/pageLen][i%pageLen]
	r := d.index.record(e.record)
	c, ok := d.long[i]
	if !ok {
		c = d.kinds.list[e.kind].cid(&r.digest)
	}
	b := d.index.block(r, c)
	b.Depth = int(e.depth)
	return b
}

// DAG walks the DAG under root by following the links of its blocks. It reads
// and hashes only the blocks that may have links; the others are checked when
// they are read. If the root's CID contains its block, that block comes first,
// whether or not an archive has it. Links are followed through DAG-PB, DAG-CBOR
// and DAG-JSON; blocks with other codecs are leaves. If blocks are missing, the
// error is an [IncompleteError].
func (x *Index) DAG(ctx context.Context, root cid.Cid) (*DAG, error) {
	w := walk{
		dag:     &DAG{index: x, root: root},
		visited: make([]uint64, (x.n+63)/64),
		loader:  &Loader{},
	}
	defer w.loader.Close()
	if err := w.run(ctx); err != nil {
		return nil, err
	}
	if n := len(w.missing); n > 0 {
		return nil, &IncompleteError{Root: root, Missing: w.listed, Count: n, More: n >= missingCounted}
	}
	return w.dag, nil
}

// walk is the state of a depth-first walk. It does not recurse. It holds only
// the links of the nodes on the path to the current block.
type walk struct {
	dag     *DAG
	visited []uint64             // records visited as nodes of the codec they are indexed with
	others  map[visited]struct{} // records visited as nodes of other codecs
	missing map[string]struct{}
	listed  []cid.Cid
	loader  *Loader

	pending []child // of all nodes on the path
	ends    []int   // where the children of each node on the path end in pending
	nexts   []int
}

type visited struct {
	record uint32
	codec  uint64
}

// child is a link to follow.
type child struct {
	record uint32
	kind   uint16
}

func (w *walk) run(ctx context.Context) error {
	w.missing = make(map[string]struct{})
	follow := func() error { return w.link(w.dag.root) }
	if data, ok := links.Identity(w.dag.root); ok {
		w.dag.top, w.dag.size = &Block{Cid: w.dag.root, Head: data}, int64(len(data))
		follow = func() error { return links.Each(w.dag.root, data, w.link) }
	}
	if err := follow(); err != nil {
		return err
	}
	w.push(0)
	for step := 0; len(w.ends) > 0 && len(w.missing) < missingCounted; step++ {
		if step%1024 == 0 {
			if err := context.Cause(ctx); err != nil {
				return err
			}
		}
		top := len(w.ends) - 1
		if w.nexts[top] == w.ends[top] {
			w.ends, w.nexts = w.ends[:top], w.nexts[:top]
			w.pending = w.pending[:w.end()]
			continue
		}
		ch := w.pending[w.nexts[top]]
		w.nexts[top]++
		if err := w.visit(ctx, ch, top); err != nil {
			return err
		}
	}
	return nil
}

// end is where the children of the innermost node end in pending.
func (w *walk) end() int {
	if len(w.ends) == 0 {
		return 0
	}
	return w.ends[len(w.ends)-1]
}

// push enters a node whose children start at this position of pending.
func (w *walk) push(from int) {
	w.nexts = append(w.nexts, from)
	w.ends = append(w.ends, len(w.pending))
}

// link queues a link, or records its target as missing.
func (w *walk) link(c cid.Cid) error {
	n, ok := w.dag.index.find(c)
	if !ok {
		if _, ok := w.missing[c.KeyString()]; !ok && len(w.missing) < missingCounted {
			w.missing[c.KeyString()] = struct{}{}
			if len(w.listed) < missingListed {
				w.listed = append(w.listed, c)
			}
		}
		return nil
	}
	k, _, err := w.dag.kinds.intern(c)
	if err != nil {
		return err
	}
	if !w.seen(n, k) {
		w.pending = append(w.pending, child{n, k})
	}
	return nil
}

// seen reports whether a record was visited as a node of this kind's codec.
func (w *walk) seen(n uint32, k uint16) bool {
	codec := w.dag.kinds.list[k].codec
	if codec == w.codec(n) {
		return w.visited[n/64]&(1<<(n%64)) != 0
	}
	_, ok := w.others[visited{n, codec}]
	return ok
}

// codec is the codec that the archive claims for a record.
func (w *walk) codec(n uint32) uint64 {
	x := w.dag.index
	return x.kinds.list[x.record(n).kind&^leafFlag].codec
}

func (w *walk) visit(ctx context.Context, ch child, depth int) error {
	if w.seen(ch.record, ch.kind) {
		return nil
	}
	d, r := w.dag, w.dag.index.record(ch.record)
	kd := &d.kinds.list[ch.kind]
	if kd.codec == w.codec(ch.record) {
		w.visited[ch.record/64] |= 1 << (ch.record % 64)
	} else {
		if w.others == nil {
			w.others = make(map[visited]struct{})
		}
		w.others[visited{ch.record, kd.codec}] = struct{}{}
	}
	if depth > links.MaxDepth {
		return fmt.Errorf("DAG %s is more than %d links deep: %w", d.root, links.MaxDepth, ErrTooDeep)
	}
	if d.n == len(d.pages)*pageLen {
		d.pages = append(d.pages, new([pageLen]entry))
	}
	d.pages[d.n/pageLen][d.n%pageLen] = entry{ch.record, uint16(depth), ch.kind}
	if kd.mhPrefix == "" {
		if d.long == nil {
			d.long = make(map[int]cid.Cid)
		}
		d.long[d.n] = w.longCID(ch)
	}
	d.n++
	d.size += int64(r.length)

	leaf := r.kind&leafFlag != 0 && kd.codec == w.codec(ch.record) || !links.Possible(kd.codec)
	if leaf {
		return nil
	}
	b := d.at(d.n - 1)
	data, err := w.loader.Load(ctx, b)
	if err != nil {
		return err
	}
	from := len(w.pending)
	if err := links.Each(b.Cid, data, w.link); err != nil {
		return err
	}
	w.push(from)
	return nil
}

// longCID is the CID of a block whose digest does not fit its record.
func (w *walk) longCID(ch child) cid.Cid {
	stored := w.dag.index.long[ch.record]
	kd := &w.dag.kinds.list[ch.kind]
	if kd.codec == stored.Prefix().Codec {
		return stored
	}
	return cid.NewCidV1(kd.codec, stored.Hash())
}
