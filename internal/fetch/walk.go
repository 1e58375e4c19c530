package fetch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync/atomic"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
)

// Walk says what is done with the blocks of a DAG.
type Walk struct {
	// Visit is called with each block once, before those that it links to and in
	// the order of its links: the order of an archive. The bytes are lent until it
	// returns. Its error ends the walk.
	Visit func(c cid.Cid, data []byte) error
	// Fault is called with a block that no source has, or none as its CID says,
	// or that can't be decoded. What is below it is left out. It may be nil: then
	// the first such block ends the walk, as does an error that Fault returns.
	Fault func(c cid.Cid, err error) error
	// Total, if it is not nil, is kept at the number of bytes of all blocks, as far
	// as the nodes tell that have links to them.
	Total *atomic.Int64
}

// Walk fetches everything below a block of any kind that package links knows,
// ahead and in parallel. It remembers the CIDs that it met. An error is that of
// a block or a call, or matches [ErrUnavailable] if no source answers.
func (p *Pool) Walk(ctx context.Context, root cid.Cid, w Walk) error {
	return p.NewWalker(w).Below(ctx, root)
}

// NewWalker makes a walk that can have several roots, one after the other.
func (p *Pool) NewWalker(w Walk) *Walker {
	if w.Total == nil {
		w.Total = new(atomic.Int64)
	}
	if w.Fault == nil {
		w.Fault = func(_ cid.Cid, err error) error { return err }
	}
	return &Walker{Walk: w, pool: p, met: map[cid.Cid]struct{}{}}
}

// Below fetches a block and everything below it, but for what was met before.
func (s *Walker) Below(ctx context.Context, root cid.Cid) error {
	s.r = s.pool.NewReader(ctx)
	defer s.r.Close()
	data, err := s.r.Load(ctx, root)
	if err != nil {
		return s.fault(ctx, root, err)
	}
	if _, inline := links.Identity(root); !inline {
		if err := s.visit(root, data[0]); err != nil {
			return err
		}
		s.Total.Add(int64(len(data[0])))
	}
	s.total = false
	_, err = s.below(ctx, root, data[0], false, 0)
	return err
}

// Walker is a walk under way.
type Walker struct {
	Walk
	pool  *Pool
	r     *Reader
	met   map[cid.Cid]struct{}
	total bool // that of the root is known

	// The file that the walk is in. Content that was met before is skipped, and
	// what would be fetched ahead is kept close to the walk.
	file    cid.Cid
	size    int64
	off     int64
	skipped int64
}

const (
	groupBytes  = 4 << 20
	groupBlocks = 16
)

func (s *Walker) visit(c cid.Cid, data []byte) error {
	s.met[c] = struct{}{}
	return s.Visit(c, data)
}

// fault tells errors of one block from those that end the walk.
func (s *Walker) fault(ctx context.Context, c cid.Cid, err error) error {
	s.met[c] = struct{}{}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrNotFound), errors.Is(err, car.ErrCorrupt), errors.Is(err, links.ErrInvalid):
		return s.Fault(c, err)
	}
	return err
}

// below goes through what a block links to, and tells whether there was any.
func (s *Walker) below(ctx context.Context, c cid.Cid, data []byte, inFile bool, depth int) (bool, error) {
	if !links.Possible(c.Prefix().Codec) {
		return false, nil
	}
	if depth > links.MaxDepth {
		return false, fmt.Errorf("block %s: %w", c, errTooDeep)
	}
	n, err := parse(c, data)
	if err != nil {
		return false, s.fault(ctx, c, err)
	}
	if len(n.cids) == 0 {
		return false, nil
	}
	if !s.total {
		s.total = true
		for _, size := range n.totals {
			s.Total.Add(size)
		}
	}
	if n.file && !inFile {
		s.file, s.size, s.off, s.skipped = c, n.size, 0, 0
		s.r.OpenFile(c, 0, n.size)
		defer s.r.CloseFile()
	}
	if !n.file {
		defer s.together(ctx, c, n)()
	}
	s.r.Enter(n.cids, n.sizes, n.file)
	defer s.r.Leave()
	return true, s.each(ctx, n, depth)
}

// together fetches a node once more, with all below it, where that is little and
// would be asked for block by block. The caller calls done when it leaves it.
func (s *Walker) together(ctx context.Context, c cid.Cid, n *node) (done func()) {
	leaves, total := 0, int64(0)
	for i, k := range n.cids {
		if _, ok := s.met[k]; ok {
			return func() {}
		}
		if !links.Possible(k.Prefix().Codec) {
			leaves++
		}
		total += n.totals[i]
	}
	if archives, _ := s.pool.canAny(); !archives || leaves < 2 || total == 0 || total > longUnits*s.pool.unit || s.r.has(n.cids[0]) {
		return func() {}
	}
	if !s.r.enterWhole(ctx, c, total) {
		return func() {} // the blocks themselves will tell
	}
	return s.r.Leave
}

var errTooDeep = errors.New("the DAG is nested too deep")

// each goes through the links of a node.
func (s *Walker) each(ctx context.Context, n *node, depth int) error {
	for i := 0; i < len(n.cids); {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if _, ok := s.met[n.cids[i]]; ok {
			s.Total.Add(-n.totals[i])
			if n.file {
				s.off += n.sizes[i]
				s.skipped += n.sizes[i]
			}
			i++
			continue
		}
		if n.file && s.skipped >= unitBytes {
			s.r.CloseFile()
			s.r.OpenFile(s.file, s.off, s.size)
		}
		s.skipped = 0
		s.r.At(i)
		payloads, err := s.r.Load(ctx, s.group(n, i)...)
		if err != nil {
			if err := s.fault(ctx, n.cids[i], err); err != nil {
				return err
			}
			s.off += n.sizes[i]
			i++
			continue
		}
		for _, data := range payloads {
			c, before := n.cids[i], s.off
			if err := s.visit(c, data); err != nil {
				return err
			}
			inner, err := s.below(ctx, c, data, n.file, depth+1)
			if err != nil {
				return err
			}
			if n.file {
				s.off = before + n.sizes[i]
			}
			if i++; inner {
				break // the payloads of its siblings are overwritten
			}
		}
	}
	return nil
}

// group is the next links of a node that are loaded together, none of them met.
func (s *Walker) group(n *node, from int) []cid.Cid {
	to, bytes := from, int64(0)
	for to < len(n.cids) && to-from < groupBlocks {
		if bytes += n.sizes[to]; to > from && bytes > groupBytes {
			break
		}
		if _, ok := s.met[n.cids[to]]; ok {
			break
		}
		// What is below a node comes with it, in a request that the walk is in when
		// it is loaded by itself.
		if !n.file && to > from && (links.Possible(n.cids[to].Prefix().Codec) || links.Possible(n.cids[from].Prefix().Codec)) {
			break
		}
		for _, c := range n.cids[from:to] {
			if c == n.cids[to] {
				return n.cids[from:to]
			}
		}
		to++
	}
	return n.cids[from:to]
}

// node is what a block says of what it links to.
type node struct {
	cids   []cid.Cid
	sizes  []int64 // below each; of a file's node, of the content
	totals []int64 // of all blocks below each
	file   bool
	size   int64 // of a file
}

func parse(c cid.Cid, data []byte) (*node, error) {
	n := &node{}
	if err := links.Each(c, data, func(l cid.Cid) error { n.cids = append(n.cids, l); return nil }); err != nil {
		return nil, err
	}
	n.sizes = make([]int64, len(n.cids))
	n.totals = n.sizes
	if c.Prefix().Codec != links.DagPB {
		return n, nil
	}
	u, err := unixfs.Decode(links.DagPB, data)
	if err != nil || len(u.Links) != len(n.cids) {
		return n, nil //nolint:nilerr // a node of another kind, or with blocks in CIDs, says nothing of sizes
	}
	n.totals = make([]int64, len(n.cids))
	for i, l := range u.Links {
		n.totals[i] = l.Total()
	}
	if !u.IsFile() || !u.Sized || u.Size > math.MaxInt64 {
		n.sizes = n.totals
		return n, nil
	}
	n.file, n.size = true, int64(u.Size)
	for i, size := range u.Sizes {
		n.sizes[i] = int64(size)
	}
	return n, nil
}
