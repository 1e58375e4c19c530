package uploader

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/splitter"
)

// BlockSharer is a target that shares blocks between uploads: a DAG is complete
// once all its blocks are there, whichever upload brought them. If the target
// is also a [StatusChecker] and a [BlockFetcher], blocks that it already holds
// under a base are not sent again; see [Options.Base].
type BlockSharer interface{ SharesBlocks() bool }

// Located is an [Input] that stays at one place, such as a path. What was last
// uploaded from there becomes the base of the next upload.
type Located interface {
	// Location returns the full name of the place, or "" if there is none.
	Location() string
}

func location(in Input) string {
	if l, ok := in.(Located); ok {
		return l.Location()
	}
	return ""
}

// Limits on how much of a base is read. Blocks beyond them count as new.
const (
	mostBaseNodes = 1 << 14
	mostBaseLinks = 1 << 20
)

// layout says how a DAG is sent.
type layout struct {
	all   car.List       // the DAG's blocks
	plan  *splitter.Plan // of the blocks to send
	key   UploadKey
	bytes int64 // of payload; 0 if unknown
}

// layout splits a DAG into shards. If the target holds a base for it, the
// blocks of the base are left out.
func (u *Uploader) layout(ctx context.Context, in Input, dag DAG) (layout, error) {
	l := layout{all: dag, bytes: dag.Size(), key: UploadKey{Target: u.target.String(), Root: dag.At(0).Cid, MaxShardBytes: u.opts.MaxShardBytes}}
	kept, base, err := u.lacking(ctx, in, dag)
	if err != nil {
		return l, err
	}
	var blocks car.List = dag
	if kept != nil {
		blocks, l.key.Base = kept, base
	}
	if l.plan, err = splitter.Split(blocks, splitter.Options{MaxShardBytes: u.opts.MaxShardBytes}); err != nil {
		return l, fmt.Errorf("split %q: %w", in.Name(), err)
	}
	return l, nil
}

// whole returns the layout without a base.
func (u *Uploader) whole(l layout) (layout, error) {
	plan, err := splitter.Split(l.all, splitter.Options{MaxShardBytes: l.key.MaxShardBytes})
	l.plan, l.key.Base = plan, cid.Undef
	return l, err
}

// subset is some blocks of a list, in the same order.
type subset struct {
	all car.List
	at  []uint32
}

func (p *subset) Len() int           { return len(p.at) }
func (p *subset) At(i int) car.Block { return p.all.At(int(p.at[i])) }

// lacking returns the blocks of a DAG that its base lacks, and the base. The
// result is nil if there is no useful base.
func (u *Uploader) lacking(ctx context.Context, in Input, dag car.List) (*subset, cid.Cid, error) {
	if !u.sharesBlocks() || u.opts.NoResume || u.opts.NoBase || dag.Len() < 2 {
		return nil, cid.Undef, nil
	}
	root := dag.At(0).Cid
	base := u.opts.Base
	if at := location(in); !base.Defined() && at != "" {
		last, err := u.opts.Ledger.Last(ctx, u.target.String(), at)
		if err != nil {
			return nil, cid.Undef, ledgerError(err)
		}
		base = last.Root
		if base.Defined() && base.Equals(root) {
			base = last.Base // what that upload was based on
		}
	}
	if !base.Defined() || base.Equals(root) {
		return nil, cid.Undef, nil
	}
	key := fmt.Sprintf("blocks of %s that %s lacks", root, base)
	known, err := u.opts.Ledger.Description(ctx, key)
	if err != nil {
		return nil, cid.Undef, ledgerError(err)
	}
	if p := decodeSubset(dag, known); p != nil {
		return p, base, nil
	}
	held, err := u.held(ctx, in.Name(), base, dag)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, ErrStopped) || errors.Is(err, ErrUnauthorized) {
			return nil, cid.Undef, err
		}
		u.opts.Logger.Warn("can't read the previous upload: sending everything", "upload", in.Name(), "base", base, "err", err)
		return nil, cid.Undef, nil
	}
	p := without(dag, held)
	if len(p.at) == dag.Len() {
		return nil, cid.Undef, nil
	}
	return p, base, ledgerError(u.opts.Ledger.SaveDescription(ctx, key, p.encode()))
}

func (u *Uploader) sharesBlocks() bool {
	s, ok := u.target.(BlockSharer)
	_, status := u.target.(StatusChecker)
	_, blocks := u.target.(BlockFetcher)
	return ok && status && blocks && s.SharesBlocks()
}

// without leaves out the blocks that are held, and everything below them. The
// result stands on its own: all ancestors of a block in it are in it too. It
// has at least two blocks, because services refuse a shard that is only the
// root.
func without(dag car.List, held map[cid.Cid]bool) *subset {
	p := &subset{all: dag}
	depth := -1 // of the held block above the current one, or -1
	for i := range dag.Len() {
		b := dag.At(i)
		if i > 0 && depth >= 0 && b.Depth > depth {
			continue
		}
		depth = -1
		if i > 0 && held[b.Cid] {
			depth = b.Depth
			continue
		}
		p.at = append(p.at, uint32(i))
	}
	if len(p.at) == 1 {
		p.at = append(p.at, 1)
	}
	return p
}

// encode encodes the positions, each as the distance from the one before.
func (p *subset) encode() []byte {
	var b []byte
	last := -1
	for _, at := range p.at {
		b = binary.AppendUvarint(b, uint64(int(at)-last-1))
		last = int(at)
	}
	return b
}

// decodeSubset returns nil if b does not encode a subset of the list.
func decodeSubset(all car.List, b []byte) *subset {
	p := &subset{all: all}
	last := -1
	for len(b) > 0 {
		step, n := binary.Uvarint(b)
		if n <= 0 || step >= uint64(all.Len()-last-1) {
			return nil
		}
		last += 1 + int(step)
		p.at = append(p.at, uint32(last))
		b = b[n:]
	}
	if len(p.at) < 2 || p.at[0] != 0 {
		return nil
	}
	return p
}

// held walks a base that the target calls complete and returns the blocks
// found: the target holds each of them and everything below it. Nodes that the
// DAG also has are not read.
func (u *Uploader) held(ctx context.Context, name string, base cid.Cid, dag car.List) (map[cid.Cid]bool, error) {
	status, err := u.status(ctx, u.target.(StatusChecker), name, base)
	if errors.Is(err, ErrNotFound) || err == nil && status.State != StatePinned {
		return nil, nil // the target guarantees none of its blocks
	}
	if err != nil {
		return nil, err
	}
	shared := map[cid.Cid]bool{}
	for i := range dag.Len() {
		if c := dag.At(i).Cid; links.Possible(c.Prefix().Codec) {
			shared[c] = true
		}
	}
	held := map[cid.Cid]bool{base: true}
	gone := map[cid.Cid]bool{}
	nodes := 0
	f := &baseFetcher{walk: newWalk(u, name, nil), directory: map[cid.Cid]cid.Cid{}, asked: map[cid.Cid]bool{}}
	for level := []cid.Cid{base}; len(level) > 0 && len(held) < mostBaseLinks; {
		level = level[:min(len(level), mostBaseNodes-nodes)]
		nodes += len(level)
		data, err := f.fetch(ctx, level)
		if err != nil {
			return nil, err
		}
		parents := level
		level = nil
		for i, c := range parents { // in order, so that the limits always cut off the same part
			if data[i] == nil {
				gone[c] = true // the target does not hold it after all
				continue
			}
			below := f.directoryBelow(c, data[i])
			err := links.Each(c, data[i], func(c cid.Cid) error {
				if !held[c] && links.Possible(c.Prefix().Codec) && !shared[c] {
					level = append(level, c)
					if below.Defined() {
						f.directory[c] = below
					}
				}
				held[c] = true
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	for c := range gone {
		delete(held, c)
	}
	return held, nil
}

// baseFetcher fetches nodes of a base.
type baseFetcher struct {
	*walk
	directory map[cid.Cid]cid.Cid // sharded directory that a node may be part of
	asked     map[cid.Cid]bool    // directories requested as a whole
	whole     map[cid.Cid][]byte  // nodes of directories fetched as a whole
	bytes     int                 // total size of whole
}

const (
	// manyOfOne is how many nodes of a directory may be fetched one by one.
	// From that number on, the directory is fetched as a whole.
	manyOfOne = 16
	// mostWhole limits the bytes kept in whole.
	mostWhole = 64 << 20
)

// directoryBelow returns the directory that the children of a node may be part
// of.
func (f *baseFetcher) directoryBelow(c cid.Cid, data []byte) cid.Cid {
	n, err := unixfs.Decode(c.Prefix().Codec, data)
	if err != nil || n.Type != unixfs.Shard {
		return cid.Undef
	}
	if d, ok := f.directory[c]; ok {
		return d
	}
	return c
}

// fetch returns the nodes, with nil for those that the target does not have.
func (f *baseFetcher) fetch(ctx context.Context, nodes []cid.Cid) ([][]byte, error) {
	of := map[cid.Cid]int{}
	for _, c := range nodes {
		d, ok := f.directory[c]
		if _, has := f.whole[c]; !ok || has {
			continue
		}
		if of[d]++; of[d] == manyOfOne && !f.asked[d] {
			f.asked[d] = true
			f.fetchDirectory(ctx, d)
		}
	}
	data := make([][]byte, len(nodes))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(f.u.opts.Transfers)
	for i, c := range nodes {
		if p, ok := f.whole[c]; ok {
			data[i] = p
			continue
		}
		if gctx.Err() != nil || f.u.stopping() {
			break
		}
		g.Go(func() (err error) {
			data[i], err = f.walk.fetch(gctx, c, car.MaxBlockBytes)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if f.u.stopping() {
		return nil, ErrStopped
	}
	return data, nil
}

// fetchDirectory fetches the nodes of a directory as a whole, if the target
// can. Nodes that do not arrive are fetched one by one later.
func (f *baseFetcher) fetchDirectory(ctx context.Context, root cid.Cid) {
	t, ok := f.u.target.(DirectoryFetcher)
	if !ok {
		return
	}
	body, err := t.FetchDirectory(ctx, root)
	if err != nil {
		f.u.opts.Logger.Warn("can't fetch a directory as a whole: fetching its nodes one by one", "upload", f.name, "directory", root, "err", err)
		return
	}
	defer body.Close()
	if f.whole == nil {
		f.whole = map[cid.Cid][]byte{}
	}
	r, err := car.NewReader(body, car.ReaderOptions{})
	for err == nil && f.bytes < mostWhole && !f.u.stopping() {
		var s car.Section
		if s, err = r.Next(); err == nil {
			f.whole[s.Cid] = slices.Clone(s.Data)
			f.bytes += len(s.Data)
		}
	}
	if err != nil && !errors.Is(err, io.EOF) {
		f.u.opts.Logger.Warn("fetching a directory as a whole broke off: fetching the other nodes one by one", "upload", f.name, "directory", root, "err", err)
	}
}
