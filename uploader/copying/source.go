package copying

import (
	"slices"
	"sync"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/uploader/gateway"
)

// source is a DAG as a [car.Source].
type source DAG

// Name implements [car.Source].
func (s *source) Name() string { return s.in.root.String() }

// Size implements [car.Source].
func (s *source) Size() int64 { return (*DAG)(s).start(len(s.entries)) }

// Open implements [car.Source].
func (s *source) Open() (car.SourceFile, error) {
	d := (*DAG)(s)
	return &stream{dag: d, reader: d.in.pool.NewReader(d.in.ctx), left: d.in.opts.MaxShardBytes - car.HeaderSize(d.in.root)}, nil
}

// stream is pass 2 of one shard. It reads blocks in the order of the DAG,
// except for a jump from the path at the beginning to the first new block. It
// announces to the reader what comes next, so that the reader can fetch ahead.
type stream struct {
	dag    *DAG
	left   int64 // bytes left in the largest possible shard; nothing beyond is announced
	levels []level

	mu     sync.Mutex
	reader *gateway.Reader
}

// level is a node on the path to the current block.
type level struct {
	at     int          // index of the block
	node   *unixfs.Node // nil if it is not a UnixFS node
	file   bool         // it is a node of a file
	top    bool         // it is the root of a file
	begins int64        // offset of its content in the file

	told bool // the reader knows its kids
	open bool // the reader knows its file
	kids []int
	next int // index in kids
	last int // last block that was announced
}

// Close implements [car.SourceFile].
func (s *stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reader.Close()
}

// ReadAt implements [car.SourceFile]. It reads one block.
func (s *stream) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.dag.find(off, len(p))
	if err != nil {
		return 0, err
	}
	depth := int(s.dag.entries[i].depth)
	s.leave(depth)
	s.tell(i)
	c := s.dag.cid(i)
	loaded, err := s.reader.Load(s.dag.in.ctx, c)
	if err != nil {
		return 0, err
	}
	data := loaded[0]
	if len(data) != len(p) {
		return 0, &SizeError{c, len(p), len(data)}
	}
	s.left -= s.dag.section(i)
	if err := s.enter(i, c, data); err != nil {
		return 0, err
	}
	return copy(p, data), nil
}

// leave leaves the levels that a block at this depth is not below.
func (s *stream) leave(depth int) {
	for n := len(s.levels) - 1; n >= 0 && int(s.dag.entries[s.levels[n].at].depth) >= depth; n-- {
		if s.levels[n].told {
			s.reader.Leave()
		}
		if s.levels[n].open {
			s.reader.CloseFile()
		}
		s.levels = s.levels[:n]
	}
}

// enter goes below a block, if it has links.
func (s *stream) enter(i int, c cid.Cid, data []byte) error {
	leaf := s.dag.entries[i].leaf
	if !links.Possible(c.Prefix().Codec) {
		return nil
	}
	if leaf {
		some := false
		err := links.Each(c, data, func(cid.Cid) error { some = true; return nil })
		if err == nil && some {
			return &SizeError{c, len(data), len(data)}
		}
		return err
	}
	l := level{at: i}
	if n, err := unixfs.Decode(c.Prefix().Codec, data); err == nil {
		// It outlives the payload. Names are not needed.
		l.node = &unixfs.Node{Type: n.Type, Sizes: n.Sizes, Size: n.Size, Sized: n.Sized, Links: slices.Clone(n.Links)}
		for k := range l.node.Links {
			l.node.Links[k].Name = nil
		}
		l.file = n.IsFile() && n.Sized && len(n.Data) == 0
	}
	l.top = l.file
	if n := len(s.levels); l.file && n > 0 && s.levels[n-1].file {
		above := &s.levels[n-1]
		l.top = false
		l.begins = above.begins + above.before(c)
	}
	s.levels = append(s.levels, l)
	return nil
}

// before returns how much content of a file node precedes this link.
func (l *level) before(c cid.Cid) int64 {
	var sum int64
	for k, link := range l.node.Links {
		if link.Cid == c {
			break
		}
		sum += int64(l.node.Sizes[k])
	}
	return sum
}

// tell announces to the reader what comes from block i on, if it does not know
// yet.
func (s *stream) tell(i int) {
	for n := range s.levels {
		l := &s.levels[n]
		last := n == len(s.levels)-1
		child := i // the current kid of this level
		if !last {
			child = s.levels[n+1].at
		}
		if l.told && last && child > l.last {
			// The level was announced before the path was left, or the shard is
			// larger than expected.
			if s.left < s.dag.section(i) {
				s.left = s.dag.in.opts.MaxShardBytes
			}
			s.reader.Leave()
			l.told = false
			s.closeFile()
		}
		if !l.told {
			s.tellFile(n, i)
			s.tellKids(l, child, i)
		}
		for l.next < len(l.kids) && l.kids[l.next] < child {
			l.next++
		}
		if l.next < len(l.kids) && last {
			s.reader.At(l.next)
		}
	}
}

// closeFile closes the file that the reader knows.
func (s *stream) closeFile() {
	for n := range s.levels {
		if s.levels[n].open {
			s.reader.CloseFile()
			s.levels[n].open = false
		}
	}
}

// end returns where the blocks below a node end, from block i on and within the
// shard. further is false if the shard ends first.
func (s *stream) end(node, i int) (end int, further bool) {
	d, left := s.dag, s.left
	for end = i; end < len(d.entries) && d.entries[end].depth > d.entries[node].depth; end++ {
		if left -= d.section(end); left < 0 {
			return end, false
		}
	}
	return end, true
}

// tellFile announces the part of the file around level n that is needed, unless
// the reader knows it.
func (s *stream) tellFile(n, i int) {
	for ; n >= 0 && s.levels[n].file && !s.levels[n].top; n-- {
		if s.levels[n].open {
			return
		}
	}
	if n < 0 || !s.levels[n].file || s.levels[n].open {
		return
	}
	l, d := &s.levels[n], s.dag
	from := int64(0)
	if i > l.at+1 {
		from = s.contentAt(l, i)
	}
	// The blocks below take slightly more than their content.
	end, _ := s.end(l.at, i)
	if to := min(int64(l.node.Size), from+d.start(end)-d.start(i)); from < to {
		s.reader.OpenFile(d.cid(l.at), from, to)
		l.open = true
	}
}

// tellKids announces the kids of a level: the current one, and those from block
// i on, as far as the shard goes.
func (s *stream) tellKids(l *level, child, i int) {
	d := s.dag
	l.told, l.kids, l.next = true, l.kids[:0], 0
	if child < i {
		l.kids = append(l.kids, child)
	}
	end, whole := s.end(l.at, i) // the last kid may be incomplete
	for k := i; k < end; k++ {
		if d.entries[k].depth == d.entries[l.at].depth+1 {
			l.kids = append(l.kids, k)
		}
	}
	l.last = max(end-1, child)
	if whole {
		l.last = len(d.entries)
	}
	cids := make([]cid.Cid, len(l.kids))
	sizes := make([]int64, len(l.kids))
	link := 0
	for k, at := range l.kids {
		cids[k] = d.cid(at)
		if d.entries[at].leaf {
			sizes[k] = int64(d.length(at))
			continue
		}
		if l.node == nil || at < i || k == len(l.kids)-1 && !whole {
			continue
		}
		for link < len(l.node.Links) && l.node.Links[link].Cid != cids[k] {
			link++
		}
		until := end
		if k+1 < len(l.kids) {
			until = l.kids[k+1]
		}
		// Do not ask for all of a kid if most of it was in earlier shards.
		if there := d.start(until) - d.start(at); link < len(l.node.Links) && l.node.Links[link].Total() <= 2*there {
			sizes[k] = int64(l.node.Links[link].Tsize)
		}
	}
	s.reader.Enter(cids, sizes, l.file)
}

// contentAt returns the offset of block i's content in the file whose root is
// level l.
func (s *stream) contentAt(l *level, i int) int64 {
	last := l
	for n := range s.levels {
		if s.levels[n].at >= l.at && s.levels[n].file {
			last = &s.levels[n]
		}
	}
	return last.begins + last.before(s.dag.cid(i))
}
