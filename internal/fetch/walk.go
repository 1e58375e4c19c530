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

// Walk says what to do with the blocks of a DAG.
type Walk struct {
	// Visit is called once with each block, before those that it links to, in
	// the order of its links. That is the order of an archive. The bytes are
	// valid only during the call. An error ends the walk.
	Visit func(c cid.Cid, data []byte) error
	// Fault is called with a block that no source has, that no source delivers
	// unchanged, or that does not decode. The walk skips what is below it. If
	// Fault is nil, the first such block ends the walk, as does an error from
	// Fault.
	Fault func(c cid.Cid, err error) error
	// Total, if not nil, is kept at the total size of all blocks, as far as the
	// nodes with links to them tell.
	Total *atomic.Int64
}

// Walk fetches everything below a block, ahead and in parallel. The block may
// be of any kind that package links knows. It remembers the CIDs of all blocks.
// An error is about a block, comes from a callback, or matches [ErrUnavailable]
// if no source answers.
func (p *Pool) Walk(ctx context.Context, root cid.Cid, w Walk) error {
	return p.NewWalker(w).Below(ctx, root)
}

// NewWalker makes a walk that can visit several roots, one after another.
func (p *Pool) NewWalker(w Walk) *Walker {
	if w.Total == nil {
		w.Total = new(atomic.Int64)
	}
	if w.Fault == nil {
		w.Fault = func(_ cid.Cid, err error) error { return err }
	}
	return &Walker{Walk: w, pool: p, met: map[cid.Cid]struct{}{}}
}

// Below fetches a block and everything below it, except what was visited
// before.
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

// Walker is a walk in progress.
type Walker struct {
	Walk
	pool  *Pool
	r     *Reader
	met   map[cid.Cid]struct{}
	total bool // the total size of the root is known

	// The file that the walk is in. The walk skips content that was visited
	// before, so it must keep the reader from fetching far from where it is.
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

// fault handles an error about one block. It returns errors that end the walk.
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

// below visits what a block links to. It returns false if there is nothing.
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

// together fetches a node again, with everything below it, if that is little
// and would otherwise be fetched block by block. The caller calls done when it
// leaves the node.
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
		return func() {} // fetching the blocks will report the error
	}
	return s.r.Leave
}

var errTooDeep = errors.New("the DAG is nested too deep")

// each visits the links of a node.
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
				break // the payloads of its siblings have been overwritten
			}
		}
	}
	return nil
}

// group returns the next links to load together. None of them was visited
// before.
func (s *Walker) group(n *node, from int) []cid.Cid {
	to, bytes := from, int64(0)
	for to < len(n.cids) && to-from < groupBlocks {
		if bytes += n.sizes[to]; to > from && bytes > groupBytes {
			break
		}
		if _, ok := s.met[n.cids[to]]; ok {
			break
		}
		// What is below a node arrives together with the node. The walk is in
		// that unit only if it loads the node alone.
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

// node is what a block says about the blocks that it links to.
type node struct {
	cids   []cid.Cid
	sizes  []int64 // of everything below each, or of the content for a file's node
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
		return n, nil //nolint:nilerr // a node of another kind, or with blocks in CIDs, does not state sizes
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
