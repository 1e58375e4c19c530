package service

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	chunker "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/multiformats/go-multihash"
	"github.com/multiformats/go-varint"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/sha256mb"
)

// The recipe of the original's server for files.
const (
	importChunkBytes = 256 << 10
	importWidth      = 174
)

func importPrefix() cid.Prefix {
	return cid.Prefix{Version: 1, Codec: codecDagPB, MhType: multihash.SHA2_256, MhLength: -1}
}

// builder writes the DAGs that are made here into a shard. It is the DAG
// service that the importer adds nodes to. The root is put into the header at
// the end: all that are made here are equally long.
type builder struct {
	ipld.DAGService // nil: only adding and getting are asked for
	st              *store
	file            *incoming
	w               *bufio.Writer
	off             int64
	at              map[cid.Cid]span
	entries         int // of all directories together
}

// span is where a block is within the shard that is being written.
type span struct {
	off int64
	len int
}

// written is a node that was written: what a directory has to know of it, and
// not its bytes.
type written struct {
	ipld.Node // nil: only these methods are asked for
	cid       cid.Cid
	size      uint64 // of the DAG
}

// Cid implements ipld.Node.
func (w written) Cid() cid.Cid { return w.cid }

// Size implements ipld.Node.
func (w written) Size() (uint64, error) { return w.size, nil }

func asWritten(nd ipld.Node) (written, error) {
	size, err := nd.Size()
	if err != nil {
		return written{}, fmt.Errorf("size of %s: %w", nd.Cid(), err)
	}
	return written{cid: nd.Cid(), size: size}, nil
}

func (st *store) newBuilder() (*builder, error) {
	root, err := importPrefix().Sum(nil)
	if err != nil {
		return nil, err
	}
	return st.newBuilderFor(root)
}

// newBuilderFor is newBuilder for a root that is as long as this one.
func (st *store) newBuilderFor(root cid.Cid) (*builder, error) {
	file, err := st.newIncoming()
	if err != nil {
		return nil, err
	}
	b := &builder{st: st, file: file, w: bufio.NewWriterSize(file.f, 256<<10), at: make(map[cid.Cid]span)}
	header := car.AppendHeader(nil, root)
	b.off = int64(len(header))
	if _, err := b.w.Write(header); err != nil {
		return nil, errors.Join(err, file.remove())
	}
	return b, nil
}

// Add writes a node unless it was written before.
func (b *builder) Add(_ context.Context, nd ipld.Node) error {
	if _, ok := b.at[nd.Cid()]; ok {
		return nil
	}
	return b.write(nd.Cid(), nd.RawData())
}

func (b *builder) write(c cid.Cid, data []byte) error {
	if _, ok := b.at[c]; ok {
		return nil
	}
	raw := c.Bytes()
	head := append(varint.ToUvarint(uint64(len(raw)+len(data))), raw...)
	if _, err := b.w.Write(head); err != nil {
		return err
	}
	if _, err := b.w.Write(data); err != nil {
		return err
	}
	b.at[c] = span{off: b.off + int64(len(head)), len: len(data)}
	b.off += int64(len(head) + len(data))
	return nil
}

// AddMany writes nodes unless they were written before.
func (b *builder) AddMany(ctx context.Context, nds []ipld.Node) error {
	for _, nd := range nds {
		if err := b.Add(ctx, nd); err != nil {
			return err
		}
	}
	return nil
}

// Get returns a node that was added.
func (b *builder) Get(_ context.Context, c cid.Cid) (ipld.Node, error) {
	l, ok := b.at[c]
	if !ok {
		return nil, ipld.ErrNotFound{Cid: c}
	}
	if err := b.w.Flush(); err != nil {
		return nil, err
	}
	p := make([]byte, l.len)
	if _, err := b.file.f.ReadAt(p, l.off); err != nil {
		return nil, fmt.Errorf("read back block: %w", err)
	}
	blk, err := blocks.NewBlockWithCid(p, c)
	if err != nil {
		return nil, err
	}
	if c.Prefix().Codec == codecRaw {
		return merkledag.DecodeRawBlock(blk)
	}
	return merkledag.DecodeProtobufBlock(blk)
}

// addFile imports a file and returns its root.
func (b *builder) addFile(r io.Reader) (written, error) {
	params := helpers.DagBuilderParams{
		Maxlinks: importWidth, RawLeaves: true, CidBuilder: importPrefix(), Dagserv: b,
	}
	db, err := params.New(chunker.NewSizeSplitter(r, importChunkBytes))
	if err != nil {
		return written{}, fmt.Errorf("import file: %w", err)
	}
	root, err := balanced.Layout(db)
	if err != nil {
		return written{}, fmt.Errorf("import file: %w", err)
	}
	return asWritten(root)
}

// finishNode is finish for a UnixFS root, whose size is that of its DAG.
func (b *builder) finishNode(ctx context.Context, root written) (*submission, error) {
	return b.finish(ctx, root.cid, int64(root.size))
}

// finish puts the root into the header and hashes the file.
func (b *builder) finish(ctx context.Context, root cid.Cid, size int64) (*submission, error) {
	if err := b.w.Flush(); err != nil {
		return nil, err
	}
	header := car.AppendHeader(nil, root)
	if _, err := b.file.f.WriteAt(header, 0); err != nil {
		return nil, fmt.Errorf("write root: %w", err)
	}
	carCID, err := b.st.hashFile(ctx, io.NewSectionReader(b.file.f, 0, b.off))
	if err != nil {
		return nil, err
	}
	return &submission{
		root: root, file: b.file, bytes: b.off, size: size,
		shard: shard{cid: carCID, payload: 0, end: b.off},
	}, nil
}

// hashFile returns the CID of a CAR file.
func (st *store) hashFile(ctx context.Context, r *io.SectionReader) (cid.Cid, error) {
	buf, release, err := st.buffer(ctx, r.Size())
	if err != nil {
		return cid.Undef, err
	}
	defer release()
	var digest sha256mb.Digest
	for {
		n, err := io.ReadFull(r, buf)
		st.hash.Write(&digest, buf[:n])
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return car.CID(digest.Sum256()), nil
		case err != nil:
			return cid.Undef, fmt.Errorf("hash shard: %w", err)
		}
	}
}
