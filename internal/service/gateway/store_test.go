package gateway_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/ipfs/boxo/blockservice"
	boxoblockstore "github.com/ipfs/boxo/blockstore"
	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/ipld/merkledag"
	ft "github.com/ipfs/boxo/ipld/unixfs"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/walk"
)

// memory is a store of blocks that boxo made. Tests can inject faults.
type memory struct {
	bs  boxoblockstore.Blockstore
	dag ipld.DAGService

	mu     sync.Mutex
	bad    map[string]error // by multihash: the error of reading a block
	finds  int              // number of calls of Find
	reads  int              // number of blocks read
	opened int              // number of bytes read
}

func newMemory() *memory {
	bs := boxoblockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
	return &memory{bs: bs, dag: merkledag.NewDAGService(blockservice.New(bs, offline.Exchange(bs))), bad: make(map[string]error)}
}

func (m *memory) spoil(c cid.Cid, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bad[string(c.Hash())] = err
}

// Find implements walk.Blocks.
func (m *memory) Find(ctx context.Context, cids []cid.Cid) (walk.Places, error) {
	p := &places{m: m, cids: cids, sizes: make([]int, len(cids))}
	for i, c := range cids {
		n, err := m.bs.GetSize(ctx, c)
		if ipld.IsNotFound(err) {
			n, err = -1, nil
		}
		if err != nil {
			return nil, err
		}
		p.sizes[i] = n
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.finds++
	return p, nil
}

// Complete implements gateway.Store.
func (m *memory) Complete(ctx context.Context, c cid.Cid) (bool, error) {
	return m.complete(ctx, c, make(map[cid.Cid]bool))
}

func (m *memory) complete(ctx context.Context, c cid.Cid, met map[cid.Cid]bool) (bool, error) {
	if whole, ok := met[c]; ok {
		return whole, nil
	}
	data, ok := links.Identity(c)
	if !ok {
		b, err := m.bs.Get(ctx, c)
		if ipld.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		data = b.RawData()
	}
	whole := true
	err := links.Each(c, data, func(c cid.Cid) error {
		ok, err := m.complete(ctx, c, met)
		whole = whole && ok
		return err
	})
	met[c] = whole
	return whole, err
}

type places struct {
	m     *memory
	cids  []cid.Cid
	sizes []int
}

func (p *places) Size(i int) int { return p.sizes[i] }

func (p *places) Read(ctx context.Context, i, j int, buf []byte) (int, error) {
	for k := i; k < j; k++ {
		p.m.mu.Lock()
		bad := p.m.bad[string(p.cids[k].Hash())]
		p.m.reads++
		p.m.opened += p.sizes[k]
		p.m.mu.Unlock()
		if bad != nil {
			return k - i, fmt.Errorf("block %s: %w", p.cids[k], bad)
		}
		b, err := p.m.bs.Get(ctx, p.cids[k])
		if err != nil {
			return k - i, err
		}
		copy(buf, b.RawData())
		buf = buf[len(b.RawData()):]
	}
	return j - i, nil
}

// made is a DAG that boxo built.
type made struct {
	m *memory
	t testing.TB
}

func (b made) check(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b made) add(n ipld.Node) ipld.Node {
	b.t.Helper()
	b.check(b.m.dag.Add(b.t.Context(), n))
	return n
}

// noise returns bytes in which no two stretches are equal.
func noise(seed, n int) []byte {
	p := make([]byte, n)
	x := uint64(seed)*2862933555777941757 + 3037000493
	for i := range p {
		x = x*6364136223846793005 + 1442695040888963407
		p[i] = byte(x >> 56)
	}
	return p
}

// file adds a file. Its leaves are raw, or UnixFS nodes as in old files.
func (b made) file(data []byte, size, width int, raw bool) ipld.Node {
	b.t.Helper()
	params := helpers.DagBuilderParams{Maxlinks: width, RawLeaves: raw, Dagserv: b.m.dag, CidBuilder: cid.V1Builder{Codec: cid.DagProtobuf, MhType: 0x12}}
	if !raw {
		params.CidBuilder = cid.V0Builder{}
	}
	db, err := params.New(chunk.NewSizeSplitter(bytes.NewReader(data), int64(size)))
	b.check(err)
	n, err := balanced.Layout(db)
	b.check(err)
	return n
}

type child struct {
	name string
	node ipld.Node
}

func (b made) dir(children ...child) ipld.Node {
	b.t.Helper()
	d, err := uio.NewBasicDirectory(b.m.dag)
	b.check(err)
	return b.fill(d, children)
}

func (b made) hamt(children ...child) ipld.Node {
	b.t.Helper()
	d, err := uio.NewHAMTDirectory(b.m.dag, 0)
	b.check(err)
	return b.fill(d, children)
}

func (b made) fill(d uio.Directory, children []child) ipld.Node {
	b.t.Helper()
	for _, c := range children {
		b.check(d.AddChild(b.t.Context(), c.name, c.node))
	}
	n, err := d.GetNode()
	b.check(err)
	return b.add(n)
}

func (b made) symlink(target string) ipld.Node {
	b.t.Helper()
	data, err := ft.SymlinkData(target)
	b.check(err)
	return b.add(merkledag.NodeWithData(data))
}
