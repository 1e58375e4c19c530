package walk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/ipld/merkledag"
	ft "github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/boxo/ipld/unixfs/importer/trickle"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	ipld "github.com/ipfs/go-ipld-format"
	"go.uber.org/goleak"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/walk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf holds blocks that boxo made. Tests can inject faults.
type shelf struct {
	t   *testing.T
	bs  blockstore.Blockstore
	dag ipld.DAGService

	mu   sync.Mutex
	bad  map[string]error // by multihash
	read int64            // bytes read so far
}

func newShelf(t *testing.T) *shelf {
	bs := blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
	return &shelf{t: t, bs: bs, dag: merkledag.NewDAGService(blockservice.New(bs, offline.Exchange(bs))), bad: map[string]error{}}
}

func (s *shelf) check(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shelf) add(n ipld.Node) ipld.Node {
	s.t.Helper()
	s.check(s.dag.Add(s.t.Context(), n))
	return n
}

func (s *shelf) spoil(c cid.Cid, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad[string(c.Hash())] = err
}

// Find implements walk.Blocks.
func (s *shelf) Find(ctx context.Context, cids []cid.Cid) (walk.Places, error) {
	p := &places{s: s}
	for _, c := range cids {
		b, err := s.bs.Get(ctx, c)
		switch {
		case ipld.IsNotFound(err):
			p.blocks = append(p.blocks, nil)
		case err != nil:
			return nil, err
		default:
			p.blocks = append(p.blocks, append([]byte{}, b.RawData()...))
		}
		p.cids = append(p.cids, c)
	}
	return p, nil
}

type places struct {
	s      *shelf
	cids   []cid.Cid
	blocks [][]byte
}

func (p *places) Size(i int) int {
	if p.blocks[i] == nil {
		return -1
	}
	return len(p.blocks[i])
}

func (p *places) Read(_ context.Context, i, j int, buf []byte) (int, error) {
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	for k := i; k < j; k++ {
		if err := p.s.bad[string(p.cids[k].Hash())]; err != nil {
			return k - i, fmt.Errorf("block %s: %w", p.cids[k], err)
		}
		p.s.read += int64(len(p.blocks[k]))
		buf = buf[copy(buf, p.blocks[k]):]
	}
	return j - i, nil
}

// file adds a file in one of boxo's layouts.
func (s *shelf) file(data []byte, size, width int, raw bool, layout func(*helpers.DagBuilderHelper) (ipld.Node, error)) cid.Cid {
	s.t.Helper()
	params := helpers.DagBuilderParams{Maxlinks: width, RawLeaves: raw, Dagserv: s.dag, CidBuilder: cid.V1Builder{Codec: cid.DagProtobuf, MhType: 0x12}}
	db, err := params.New(chunk.NewSizeSplitter(bytes.NewReader(data), int64(size)))
	s.check(err)
	n, err := layout(db)
	s.check(err)
	return s.add(n).Cid()
}

func balancedFile(db *helpers.DagBuilderHelper) (ipld.Node, error) { return balanced.Layout(db) }
func trickleFile(db *helpers.DagBuilderHelper) (ipld.Node, error)  { return trickle.Layout(db) }

func noise(seed byte, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// content reads a range of a file.
func content(ctx context.Context, r *walk.Reader, c cid.Cid, from, length int64) ([]byte, error) {
	n, err := r.Node(ctx, c)
	if err != nil {
		return nil, err
	}
	body, err := r.Content(ctx, c, n, from, length)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	var w bytes.Buffer
	err = body.WriteTo(ctx, &w)
	return w.Bytes(), err
}

// TestContent reads ranges of files in all layouts.
func TestContent(t *testing.T) {
	t.Parallel()
	for name, layout := range map[string]func(*helpers.DagBuilderHelper) (ipld.Node, error){"balanced": balancedFile, "trickle": trickleFile} {
		for _, raw := range []bool{true, false} {
			for _, size := range []int{0, 1, 1000, 1001, 5000, 123_456} {
				s := newShelf(t)
				data := noise(1, size)
				c := s.file(data, 1000, 3, raw, layout)
				r := walk.NewReader(s, walk.Options{})
				n, err := r.Node(t.Context(), c)
				if err != nil || n.Size != uint64(size) {
					t.Fatalf("%s: size %d of %d, %v", name, n.Size, size, err)
				}
				for range 40 {
					from := rand.Int64N(int64(size) + 1)
					length := rand.Int64N(int64(size) - from + 1)
					got, err := content(t.Context(), r, c, from, length)
					if err != nil || !bytes.Equal(got, data[from:from+length]) {
						t.Errorf("%s, raw %v: %d bytes from %d of %d: %d bytes, %v", name, raw, length, from, size, len(got), err)
					}
				}
				for _, bad := range [][2]int64{{-1, 1}, {0, int64(size) + 1}, {int64(size) + 1, 0}, {1 << 62, 1 << 62}} {
					if _, err := r.Content(t.Context(), c, n, bad[0], bad[1]); err == nil {
						t.Errorf("%s: a range of %d bytes from %d of %d", name, bad[1], bad[0], size)
					}
				}
			}
		}
	}
}

// TestRangeReadsLittle: reading a range does not read what is before it.
func TestRangeReadsLittle(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	data := noise(2, 4<<20)
	c := s.file(data, 4<<10, 8, true, balancedFile)
	r := walk.NewReader(s, walk.Options{})
	got, err := content(t.Context(), r, c, 3<<20+5, 10_000)
	if err != nil || !bytes.Equal(got, data[3<<20+5:3<<20+10_005]) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if s.read > 200<<10 {
		t.Errorf("%d bytes were read for 10,000", s.read)
	}
}

// order returns the CIDs in the order in which boxo's nodes link to them.
func (s *shelf) order(c cid.Cid, met map[cid.Cid]bool) []cid.Cid {
	s.t.Helper()
	if met[c] {
		return nil
	}
	if met != nil {
		met[c] = true
	}
	n, err := s.dag.Get(s.t.Context(), c)
	s.check(err)
	all := []cid.Cid{c}
	for _, l := range n.Links() {
		all = append(all, s.order(l.Cid, met)...)
	}
	return all
}

func sections(t *testing.T, p []byte) []cid.Cid {
	t.Helper()
	r, err := car.NewReader(bytes.NewReader(p), car.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var all []cid.Cid
	for {
		sec, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, sec.Cid)
	}
}

// tree makes a directory with files of both kinds, the same file twice, and a
// sharded directory.
func (s *shelf) tree() ipld.Node {
	s.t.Helper()
	small := s.add(merkledag.NewRawNode([]byte("small")))
	file := s.file(noise(3, 300_000), 1000, 7, true, balancedFile)
	big, err := s.dag.Get(s.t.Context(), file)
	s.check(err)
	sub := ft.EmptyDirNode()
	s.check(sub.AddNodeLink("again", big))
	s.check(sub.AddNodeLink("small", small))
	s.add(sub)
	top := ft.EmptyDirNode()
	for i, n := range []ipld.Node{small, sub, big, s.sharded(300, small), sub, small} {
		s.check(top.AddNodeLink(fmt.Sprintf("%d", i), n))
	}
	return s.add(top)
}

func (s *shelf) sharded(n int, child ipld.Node) ipld.Node {
	s.t.Helper()
	d, err := uio.NewHAMTDirectory(s.dag, 0)
	s.check(err)
	for i := range n {
		s.check(d.AddChild(s.t.Context(), fmt.Sprintf("entry %d", i), child))
	}
	node, err := d.GetNode()
	s.check(err)
	return s.add(node)
}

// TestArchiveOrder: an archive has the blocks in the order of the links, each
// once or each time.
func TestArchiveOrder(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	root := s.tree().Cid()
	for _, twice := range []bool{false, true} {
		var met map[cid.Cid]bool
		if !twice {
			met = map[cid.Cid]bool{}
		}
		want := s.order(root, met)
		for _, memory := range []int64{0, 1} {
			a, err := walk.NewReader(s, walk.Options{Memory: memory}).Archive(t.Context(), root, walk.ArchiveOptions{Duplicates: twice})
			s.check(err)
			var w bytes.Buffer
			s.check(a.WriteTo(t.Context(), &w))
			a.Close()
			if got := sections(t, w.Bytes()); !slices.Equal(got, want) {
				t.Errorf("duplicates %v, memory %d: %d blocks, want %d", twice, memory, len(got), len(want))
			}
		}
	}
}

// TestResolve follows names through directories of both kinds.
func TestResolve(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	leaf := s.add(merkledag.NewRawNode([]byte("leaf")))
	shards := s.sharded(3000, leaf)
	top := ft.EmptyDirNode()
	s.check(top.AddNodeLink("d", shards))
	s.add(top)
	r := walk.NewReader(s, walk.Options{})
	for i := range 3000 {
		p, err := r.Resolve(t.Context(), top.Cid(), []string{"d", fmt.Sprintf("entry %d", i)})
		if err != nil || p.Root() != leaf.Cid() || !slices.Equal(p.Roots, []cid.Cid{top.Cid(), shards.Cid(), leaf.Cid()}) {
			t.Fatalf("entry %d: %v, %v", i, p, err)
		}
	}
	for _, row := range []struct {
		names []string
		want  error
	}{
		{[]string{"e"}, walk.ErrNoName},
		{[]string{"d", "entry 3000"}, walk.ErrNoName},
		{[]string{"d", ""}, walk.ErrNoName},
		{[]string{"d", "entry 1", "x"}, walk.ErrForeign},
	} {
		if _, err := r.Resolve(t.Context(), top.Cid(), row.names); !errors.Is(err, row.want) {
			t.Errorf("%q: %v, want %v", row.names, err, row.want)
		}
	}
	n, err := r.Node(t.Context(), shards.Cid())
	s.check(err)
	names := map[string]bool{}
	s.check(r.Entries(t.Context(), shards.Cid(), n, func(e walk.Entry) error {
		if names[e.Name] || e.Cid != leaf.Cid() {
			t.Errorf("entry %+v", e)
		}
		names[e.Name] = true
		return nil
	}))
	if len(names) != 3000 {
		t.Errorf("%d names", len(names))
	}
	enough := errors.New("enough")
	if err := r.Entries(t.Context(), shards.Cid(), n, func(walk.Entry) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("error %v", err)
	}
}

// TestErrors: a block that can't be read ends a walk after everything before it
// was yielded. If it is the first block, starting the walk fails.
func TestErrors(t *testing.T) {
	t.Parallel()
	data := noise(4, 1<<20)
	for _, bad := range []error{syscall.EIO, walk.ErrMissing, io.ErrUnexpectedEOF} {
		s := newShelf(t)
		c := s.file(data, 1<<10, 16, true, balancedFile)
		r := walk.NewReader(s, walk.Options{})
		order := s.order(c, map[cid.Cid]bool{})
		for _, at := range []int{len(order) / 2, len(order) - 1, 0} {
			s.spoil(order[at], bad)
			got, err := content(t.Context(), r, c, 0, int64(len(data)))
			if !errors.Is(err, bad) || !bytes.HasPrefix(data, got) {
				t.Errorf("block %d: %d bytes, %v, want %v", at, len(got), err, bad)
			}
			if at == len(order)-1 && len(got) < len(data)/4 {
				t.Errorf("%d bytes before the last block, which is bad", len(got))
			}
			a, err := r.Archive(t.Context(), c, walk.ArchiveOptions{})
			if err == nil {
				var w bytes.Buffer
				err = a.WriteTo(t.Context(), &w)
				a.Close()
			}
			if !errors.Is(err, bad) {
				t.Errorf("block %d: an archive ends with %v", at, err)
			}
			s.spoil(order[at], nil)
		}
		if got, err := content(t.Context(), r, c, 0, int64(len(data))); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes when all is well, %v", len(got), err)
		}
	}
}

// TestMissing: the size shows that a block is not held.
func TestMissing(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	c := s.file(noise(5, 100_000), 1000, 5, true, balancedFile)
	order := s.order(c, map[cid.Cid]bool{})
	s.check(s.bs.DeleteBlock(t.Context(), order[len(order)/2]))
	r := walk.NewReader(s, walk.Options{})
	if _, err := content(t.Context(), r, c, 0, 100_000); !errors.Is(err, walk.ErrMissing) {
		t.Errorf("error %v", err)
	}
	if _, err := r.Block(t.Context(), order[len(order)/2]); !errors.Is(err, walk.ErrMissing) {
		t.Errorf("error %v", err)
	}
	if _, err := r.Size(t.Context(), order[len(order)/2]); !errors.Is(err, walk.ErrMissing) {
		t.Errorf("error %v", err)
	}
}

// gate is a writer that blocks until it is opened.
type gate struct {
	open chan struct{}
	got  bytes.Buffer
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	return g.got.Write(p)
}

// TestMemory: many stalled readers together stay within the limit, and all of
// them finish in the end.
func TestMemory(t *testing.T) {
	t.Parallel()
	const (
		readers = 12
		memory  = 8 << 20
		leaf    = 256 << 10
	)
	s := newShelf(t)
	data := noise(6, 10<<20)
	c := s.file(data, leaf, 174, true, balancedFile)
	synctest.Test(t, func(t *testing.T) {
		r := walk.NewReader(s, walk.Options{Memory: memory})
		n, err := r.Node(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		open := make(chan struct{})
		gates := make([]*gate, readers)
		var wait sync.WaitGroup
		for i := range gates {
			gates[i] = &gate{open: open}
			wait.Go(func() {
				body, err := r.Content(t.Context(), c, n, 0, int64(len(data)))
				if err != nil {
					t.Error(err)
					return
				}
				defer body.Close()
				if err := body.WriteTo(t.Context(), gates[i]); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		s.mu.Lock()
		ahead := s.read
		s.mu.Unlock()
		if most := int64(memory + readers*2*leaf); ahead > most {
			t.Errorf("%d bytes are held, of at most %d", ahead, most)
		}
		if ahead < memory/2 {
			t.Errorf("%d bytes are ahead: that is no test", ahead)
		}
		close(open)
		wait.Wait()
		for _, g := range gates {
			if !bytes.Equal(g.got.Bytes(), data) {
				t.Errorf("%d bytes", g.got.Len())
			}
		}
	})
}

// TestStop: a walk ends when nobody waits for it any more.
func TestStop(t *testing.T) {
	t.Parallel()
	s := newShelf(t)
	data := noise(7, 12<<20)
	c := s.file(data, 256<<10, 174, true, balancedFile)
	r := walk.NewReader(s, walk.Options{Walks: 1})
	n, err := r.Node(t.Context(), c)
	s.check(err)
	for range 3 { // each releases what it held
		ctx, cancel := context.WithCancelCause(t.Context())
		body, err := r.Content(ctx, c, n, 0, int64(len(data)))
		s.check(err)
		stop := errors.New("gone")
		err = body.WriteTo(ctx, writer(func([]byte) (int, error) {
			cancel(stop)
			return 0, stop
		}))
		if !errors.Is(err, stop) {
			t.Errorf("error %v", err)
		}
		body.Close()
	}
	if got, err := content(t.Context(), r, c, 0, int64(len(data))); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
