package copying

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/uploader/gateway"
)

// walk is pass 1: depth first, without recursion.
type walk struct {
	reader *gateway.Reader
	exact  bool // fetch every block
	small  bool // fetch every block and keep it
	out    *DAG
	seen   map[string]struct{} // keyed by codec and hash
	stack  []node
	kept   car.Blocks // the blocks of out, in memory; nil if not all are
	read   *atomic.Int64
}

// node is a node whose children are being walked.
type node struct {
	kids    []kid
	at      int
	fetched int // number of fetched kids, among those announced to the reader
	entered bool
}

// kid is a link.
type kid struct {
	cid   cid.Cid
	size  int   // of the block; negative if unknown
	total int64 // of everything below, as far as known
	leaf  bool  // has no links
}

// known reports whether the block need not be fetched.
func (w *walk) known(k *kid) bool { return !w.exact && !w.small && k.leaf && k.size >= 0 }

func (w *walk) run(ctx context.Context) error {
	root := w.out.in.root
	data, err := w.reader.Peek(ctx, root)
	if err != nil {
		return err
	}
	kids, err := kidsOf(root, data)
	if err != nil {
		return err
	}
	total := int64(len(data))
	for _, k := range kids {
		total = min(total+k.total, links.MostTotal)
	}
	if w.small = total <= smallBytes; w.small {
		w.kept = car.Blocks{}
	}
	if len(kids) > 0 && w.small && total > int64(len(data)) {
		// Fetch all of it at once, if a source can.
		w.reader.Enter([]cid.Cid{root}, []int64{total}, false)
		defer w.reader.Leave()
		loaded, err := w.reader.Load(ctx, root)
		if err != nil {
			return err
		}
		data = loaded[0]
	}
	w.mark(root)
	if err := w.visit(kid{cid: root, size: len(data), leaf: len(kids) == 0}, data, 0); err != nil {
		return err
	}
	if len(kids) > 0 {
		w.enter(kids)
	}
	for len(w.stack) > 0 {
		if err := w.step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// step goes on to the next kid of the innermost node.
func (w *walk) step(ctx context.Context) error {
	n := &w.stack[len(w.stack)-1]
	if n.at == len(n.kids) {
		if n.entered {
			w.reader.Leave()
		}
		w.stack = w.stack[:len(w.stack)-1]
		return nil
	}
	k := n.kids[n.at]
	n.at++
	if w.known(&k) {
		if !w.mark(k.cid) {
			return nil
		}
		return w.visit(k, nil, len(w.stack))
	}
	if n.entered {
		w.reader.At(n.fetched)
	}
	n.fetched++
	if !w.mark(k.cid) {
		return nil
	}
	depth := len(w.stack)
	if depth > links.MaxDepth {
		return fmt.Errorf("DAG %s is more than %d links deep, too deep to be retrieved", w.out.in.root, links.MaxDepth)
	}
	loaded, err := w.reader.Load(ctx, k.cid)
	if err != nil {
		return err
	}
	data := loaded[0]
	kids, err := kidsOf(k.cid, data)
	if err != nil {
		return err
	}
	k.size, k.leaf = len(data), len(kids) == 0
	if err := w.visit(k, data, depth); err != nil {
		return err
	}
	if len(kids) > 0 {
		w.enter(kids)
	}
	return nil
}

// enter continues with the kids of a node that was just visited.
func (w *walk) enter(kids []kid) {
	n := node{kids: kids}
	var cids []cid.Cid
	var sizes []int64
	for i := range kids {
		k := &kids[i]
		if w.known(k) {
			continue
		}
		size := int64(0) // fetch one block at a time
		switch {
		case w.small:
			size = k.total
		case k.leaf:
			size = int64(max(k.size, 0))
		}
		cids, sizes = append(cids, k.cid), append(sizes, size)
	}
	if len(cids) > 0 {
		n.entered = true
		w.reader.Enter(cids, sizes, false)
	}
	w.stack = append(w.stack, n)
}

// mark records a block as part of the DAG, and reports whether it is new.
func (w *walk) mark(c cid.Cid) bool {
	key := string(binary.AppendUvarint(nil, c.Type())) + string(c.Hash())
	if _, ok := w.seen[key]; ok {
		return false
	}
	w.seen[key] = struct{}{}
	return true
}

// visit adds a block. data is nil if it was not fetched.
func (w *walk) visit(k kid, data []byte, depth int) error {
	if err := w.out.add(k.cid, k.size, depth, k.leaf); err != nil {
		return err
	}
	w.read.Add(int64(k.size))
	if w.kept == nil {
		return nil
	}
	if w.out.Size() > smallBytes {
		w.kept, w.small, w.exact = nil, false, true // the stated sizes are wrong
		return nil
	}
	w.kept = append(w.kept, car.Block{Cid: k.cid, Depth: depth, Head: slices.Clone(data)})
	return nil
}

// leafFrame separates leaves from inner nodes by how much longer they are than
// their content: leaves by less, nodes with links by at least this much.
const leafFrame = 36

// kidsOf returns the links of a block, in order, with what the block says of
// them.
func kidsOf(c cid.Cid, data []byte) ([]kid, error) {
	var kids []kid
	if c.Prefix().Codec == links.DagPB {
		if n, err := unixfs.Decode(links.DagPB, data); err == nil && !slices.ContainsFunc(n.Links, inline) {
			for i, l := range n.Links {
				kids = append(kids, kidOf(n, i, l))
			}
			return kids, nil
		}
	}
	if !links.Possible(c.Prefix().Codec) {
		return nil, nil
	}
	err := links.Each(c, data, func(c cid.Cid) error {
		kids = append(kids, kid{cid: c, size: -1, leaf: !links.Possible(c.Prefix().Codec)})
		return nil
	})
	return kids, err
}

func inline(l links.PBLink) bool {
	_, ok := links.Identity(l.Cid)
	return ok
}

// kidOf returns link i of a UnixFS node.
func kidOf(n *unixfs.Node, i int, l links.PBLink) kid {
	k := kid{cid: l.Cid, size: -1, total: l.Total()}
	size := l.Tsize
	inFile := n.IsFile() && n.Sized
	switch {
	case !links.Possible(l.Cid.Prefix().Codec):
		k.leaf = true
		if inFile && l.Cid.Prefix().Codec == links.Raw {
			size = n.Sizes[i]
		}
	case l.Cid.Prefix().Codec == links.DagPB && inFile && l.Tsize > n.Sizes[i] && l.Tsize-n.Sizes[i] < leafFrame:
		k.leaf = true
	}
	if k.leaf && size > 0 && size <= car.MaxBlockBytes {
		k.size = int(size)
	}
	return k
}
