package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	gopath "path"
	"sync/atomic"

	"github.com/ipfs/boxo/files"
	boxo "github.com/ipfs/boxo/gateway"
	"github.com/ipfs/boxo/path"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/walk"
)

// backend is the backend of boxo's gateway. It handles directories and files of
// UnixFS, and leaves everything else to boxo's own backend.
type backend struct {
	*boxo.BlocksBackend
	g *Gateway
}

// file is a file that the request asks for.
type file struct {
	cid  cid.Cid
	node *unixfs.Node
}

func parsePath(s string) (cid.Cid, []string, error) {
	p, err := path.NewPath(s)
	if err != nil {
		return cid.Undef, nil, err
	}
	im, err := path.NewImmutablePath(p)
	if err != nil {
		return cid.Undef, nil, err
	}
	return im.RootCid(), im.Segments()[2:], nil
}

// resolve follows a path. If the error matches walk.ErrForeign, boxo may be
// able to resolve it.
func (b *backend) resolve(ctx context.Context, p path.ImmutablePath) (*walk.Resolved, boxo.ContentPathMetadata, error) {
	res, err := b.g.reader.Resolve(ctx, p.RootCid(), p.Segments()[2:])
	if err != nil {
		return nil, boxo.ContentPathMetadata{}, forBoxo(err)
	}
	last := len(res.Roots) - 1
	return res, boxo.ContentPathMetadata{PathSegmentRoots: res.Roots[:last], LastSegment: path.FromCid(res.Roots[last])}, nil
}

// ResolvePath implements boxo's IPFSBackend.
func (b *backend) ResolvePath(ctx context.Context, p path.ImmutablePath) (boxo.ContentPathMetadata, error) {
	_, md, err := b.resolve(ctx, p)
	if errors.Is(err, walk.ErrForeign) {
		return b.BlocksBackend.ResolvePath(ctx, p)
	}
	return md, err
}

// Head implements boxo's IPFSBackend.
func (b *backend) Head(ctx context.Context, p path.ImmutablePath) (boxo.ContentPathMetadata, *boxo.HeadResponse, error) {
	x := exchangeOf(ctx)
	x.file, x.failed = nil, nil
	res, md, err := b.resolve(ctx, p)
	if errors.Is(err, walk.ErrForeign) {
		return b.BlocksBackend.Head(ctx, p)
	}
	if err != nil {
		return md, nil, err
	}
	c := res.Root()
	if codec := c.Prefix().Codec; codec != links.DagPB && codec != links.Raw {
		return b.BlocksBackend.Head(ctx, path.FromCid(c))
	}
	n, err := b.g.reader.Node(ctx, c)
	switch {
	case errors.Is(err, unixfs.ErrInvalid):
		return b.BlocksBackend.Head(ctx, path.FromCid(c))
	case err != nil:
		x.failed = err
		return md, nil, forBoxo(err)
	}
	b.whole(ctx, c)
	md.ModTime = n.Mtime
	switch n.Type {
	case unixfs.Symlink:
		return md, boxo.NewHeadResponseForSymlink(int64(len(n.Data))), nil
	case unixfs.Directory, unixfs.Shard:
		return md, boxo.NewHeadResponseForDirectory(0), nil
	}
	if md.ContentType, err = b.contentType(ctx, c, n); err != nil {
		x.failed = err
		return md, nil, forBoxo(err)
	}
	x.file = &file{c, n}
	return md, boxo.NewHeadResponseForFile(nil, int64(n.Size)), nil
}

// Get implements boxo's IPFSBackend.
func (b *backend) Get(ctx context.Context, p path.ImmutablePath, ranges ...boxo.ByteRange) (boxo.ContentPathMetadata, *boxo.GetResponse, error) {
	md, res, err := b.BlocksBackend.Get(ctx, p, ranges...)
	if err == nil {
		b.whole(ctx, md.LastSegment.RootCid())
	}
	return md, res, err
}

// GetAll implements boxo's IPFSBackend.
func (b *backend) GetAll(ctx context.Context, p path.ImmutablePath) (boxo.ContentPathMetadata, files.Node, error) {
	if b.g.most > 0 {
		if res, _, err := b.resolve(ctx, p); err == nil {
			if n, err := b.g.reader.Node(ctx, res.Root()); err == nil {
				if err := b.g.allow(claimed(n)); err != nil {
					return boxo.ContentPathMetadata{}, nil, forBoxo(err)
				}
			}
		}
	}
	x := exchangeOf(ctx)
	if err := x.hold(ctx, tarBytes); err != nil {
		return boxo.ContentPathMetadata{}, nil, forBoxo(err)
	}
	x.tar = true
	md, n, err := b.BlocksBackend.GetAll(ctx, p)
	if err == nil {
		b.whole(ctx, md.LastSegment.RootCid())
	}
	return md, n, err
}

// whole notes in the exchange if the DAG below a block is not known to be held
// completely.
func (b *backend) whole(ctx context.Context, c cid.Cid) {
	if whole, err := b.g.store.Complete(ctx, c); err != nil || !whole {
		exchangeOf(ctx).partial = true
	}
}

// GetCAR implements boxo's IPFSBackend.
func (b *backend) GetCAR(ctx context.Context, p path.ImmutablePath, params boxo.CarParams) (boxo.ContentPathMetadata, io.ReadCloser, error) {
	res, md, err := b.resolve(ctx, p)
	if errors.Is(err, walk.ErrForeign) {
		return b.boxoCAR(ctx, p, params)
	}
	if err != nil {
		return md, nil, err
	}
	c := res.Root()
	b.whole(ctx, c)
	if err := b.allowArchive(ctx, c, params); err != nil {
		return md, nil, forBoxo(err)
	}
	x := exchangeOf(ctx)
	if x.method == http.MethodHead {
		_, err := b.g.reader.Size(ctx, c)
		return md, http.NoBody, forBoxo(err)
	}
	opts := walk.ArchiveOptions{Path: res.Blocks, Duplicates: params.Duplicates.Bool()}
	switch params.Scope {
	case boxo.DagScopeBlock:
		opts.Scope = walk.Block
	case boxo.DagScopeEntity:
		opts.Scope = walk.Entity
	}
	if params.Range != nil {
		opts.Bytes = &walk.ByteRange{From: params.Range.From, To: params.Range.To}
	}
	a, err := b.g.reader.Archive(ctx, c, opts)
	switch {
	case errors.Is(err, unixfs.ErrInvalid):
		return b.boxoCAR(ctx, p, params)
	case errors.Is(err, walk.ErrRange):
		return md, nil, boxo.NewErrorStatusCode(err, http.StatusBadRequest)
	case err != nil:
		return md, nil, forBoxo(err)
	}
	return md, &archiveBody{ctx: ctx, a: a}, nil
}

// allowArchive refuses an archive if its node claims that it is too large. An
// archive that is larger than its node claims is cut off on the way: see reply.
func (b *backend) allowArchive(ctx context.Context, c cid.Cid, params boxo.CarParams) error {
	if b.g.most == 0 || params.Scope == boxo.DagScopeBlock || c.Prefix().Codec != links.DagPB {
		return nil
	}
	n, err := b.g.reader.Node(ctx, c)
	if err != nil {
		return nil //nolint:nilerr // making the archive will report the error
	}
	if params.Scope == boxo.DagScopeEntity && !n.IsFile() || params.Range != nil {
		return nil
	}
	return b.g.allow(claimed(n))
}

// claimed returns how many bytes a node claims to have below it.
func claimed(n *unixfs.Node) int64 {
	if n.IsFile() {
		return int64(n.Size)
	}
	var sum uint64
	for _, l := range n.Links {
		sum = min(sum+min(l.Tsize, 1<<62), 1<<62)
	}
	return int64(sum)
}

// boxoCAR lets boxo make an archive, after checking that the first block is
// held.
func (b *backend) boxoCAR(ctx context.Context, p path.ImmutablePath, params boxo.CarParams) (boxo.ContentPathMetadata, io.ReadCloser, error) {
	md, err := b.BlocksBackend.ResolvePath(ctx, p)
	if err != nil {
		return md, nil, err
	}
	c := md.LastSegment.RootCid()
	if _, err := b.g.reader.Block(ctx, c); err != nil {
		return md, nil, forBoxo(err)
	}
	b.whole(ctx, c)
	if exchangeOf(ctx).method == http.MethodHead {
		return md, http.NoBody, nil
	}
	return b.BlocksBackend.GetCAR(ctx, p, params)
}

// archiveBody is the body of a reply that is an archive. io.Copy reads it
// through WriteTo.
type archiveBody struct {
	ctx context.Context //nolint:containedctx // of the request
	a   *walk.Archive
}

// Read is not supported: readers use WriteTo.
func (b *archiveBody) Read([]byte) (int, error) { return 0, errors.ErrUnsupported }

// WriteTo implements io.WriterTo.
func (b *archiveBody) WriteTo(w io.Writer) (int64, error) {
	err := b.a.WriteTo(b.ctx, w)
	if err != nil {
		exchangeOf(b.ctx).err = err
	}
	return 0, err
}

// Close implements io.Closer.
func (b *archiveBody) Close() error {
	b.a.Close()
	return nil
}

// contentType detects a file's type from its first bytes, unless its name
// tells.
func (b *backend) contentType(ctx context.Context, c cid.Cid, n *unixfs.Node) (string, error) {
	if p, ok := ctx.Value(boxo.ContentPathKey).(path.Path); ok && !exchangeOf(ctx).named && len(p.Segments()) > 2 &&
		mime.TypeByExtension(gopath.Ext(p.String())) != "" {
		return "", nil // boxo will take the type from the name
	}
	if t, ok := b.g.types.get(c); ok {
		return t, nil
	}
	head, err := b.g.reader.Head(ctx, c, n, sniffBytes)
	switch {
	case err != nil && exchangeOf(ctx).ranged:
		return "application/octet-stream", nil // the requested range may be held all the same
	case err != nil:
		return "", err
	}
	t := sniff(head)
	b.g.types.put(c, t)
	return t, nil
}

// forBoxo wraps an error so that boxo answers with the right status.
func forBoxo(err error) error {
	switch {
	case errors.Is(err, walk.ErrMissing), errors.Is(err, walk.ErrNoName):
		return notFound{err}
	case errors.Is(err, walk.ErrBusy):
		return boxo.NewErrorStatusCode(err, http.StatusServiceUnavailable)
	case errors.Is(err, walk.ErrFruitless):
		return boxo.NewErrorStatusCode(err, http.StatusUnprocessableEntity)
	case errors.Is(err, errTooLarge):
		return boxo.NewErrorStatusCode(err, http.StatusGone)
	}
	return err
}

// notFound is an error that boxo answers with 404.
type notFound struct{ error }

// Is makes boxo recognize the error as its own ErrNotFound.
func (notFound) Is(target error) bool {
	_, ok := target.(ipld.ErrNotFound)
	return ok
}

// Unwrap returns the wrapped error.
func (e notFound) Unwrap() error { return e.error }

func isNotFound(err error) bool {
	return errors.Is(err, walk.ErrMissing) || errors.Is(err, walk.ErrNoName) || ipld.IsNotFound(err)
}

// budget limits how much boxo may read for a reply of few bytes.
type budget struct{ read, sent atomic.Int64 }

const (
	freeRead    = 64 << 20
	readPerByte = 256
	readBlock   = 16 << 10 // charged for a block in addition to its bytes
)

func (b *budget) take(n int) error {
	if b.read.Add(int64(n)+readBlock) > freeRead+readPerByte*b.sent.Load() {
		return walk.ErrFruitless
	}
	return nil
}

// blockstore gives boxo read access to blocks.
type blockstore struct{ r *walk.Reader }

var errReadOnly = errors.New("the gateway is read-only")

// DeleteBlock fails.
func (blockstore) DeleteBlock(context.Context, cid.Cid) error { return errReadOnly }

// Put fails.
func (blockstore) Put(context.Context, blocks.Block) error { return errReadOnly }

// PutMany fails.
func (blockstore) PutMany(context.Context, []blocks.Block) error { return errReadOnly }

// AllKeysChan fails.
func (blockstore) AllKeysChan(context.Context) (<-chan cid.Cid, error) { return nil, errReadOnly }

// Has reports whether a block is held.
func (b blockstore) Has(ctx context.Context, c cid.Cid) (bool, error) {
	_, err := b.r.Size(ctx, c)
	if errors.Is(err, walk.ErrMissing) {
		return false, nil
	}
	return err == nil, err
}

// GetSize returns the length of a block.
func (b blockstore) GetSize(ctx context.Context, c cid.Cid) (int, error) {
	n, err := b.r.Size(ctx, c)
	if errors.Is(err, walk.ErrMissing) {
		return 0, ipld.ErrNotFound{Cid: c}
	}
	return int(n), err
}

// Get returns a block that was checked against its CID.
func (b blockstore) Get(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	x := exchangeOf(ctx)
	if !x.tar {
		n, err := b.GetSize(ctx, c)
		if err != nil {
			return nil, err
		}
		if err := x.hold(ctx, int64(n)); err != nil {
			return nil, forBoxo(err)
		}
	}
	data, err := b.r.Block(ctx, c)
	if errors.Is(err, walk.ErrMissing) {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	if err != nil {
		return nil, err
	}
	if err := x.budget.take(len(data)); err != nil {
		return nil, fmt.Errorf("at block %s: %w", c, err)
	}
	return blocks.NewBlockWithCid(data, c)
}
