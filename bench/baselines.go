package bench

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	chunk "github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipld/go-car/v2"
	"github.com/ipld/go-car/v2/storage"

	"github.com/carload/carload/chunker"
)

// boxoImport is like Kubo's `add --only-hash`, without the rest of Kubo.
func boxoImport(ctx context.Context, j Job) (Outcome, error) {
	f, err := os.Open(j.Path)
	if err != nil {
		return Outcome{}, err
	}
	defer f.Close()
	store := blockstore.NewBlockstore(datastore.NewNullDatastore())
	p := helpers.DagBuilderParams{
		Maxlinks:   1024,
		RawLeaves:  true,
		CidBuilder: cid.V1Builder{Codec: cid.DagProtobuf, MhType: 0x12},
		Dagserv:    merkledag.NewDAGService(blockservice.New(store, offline.Exchange(store))),
	}
	b, err := p.New(chunk.NewSizeSplitter(f, 1<<20))
	if err != nil {
		return Outcome{}, err
	}
	n, err := balanced.Layout(b)
	if err != nil {
		return Outcome{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return Outcome{}, err
	}
	return Outcome{Bytes: info.Size(), Root: n.Cid().String()}, ctx.Err()
}

// goCarWrite writes the blocks of the file into an archive that is discarded.
// The CIDs are given: computing them is another stage.
func goCarWrite(ctx context.Context, j Job) (Outcome, error) {
	d, err := build(ctx, j.Path, chunker.Profile{})
	if err != nil {
		return Outcome{}, err
	}
	counted := &countingWriter{}
	w, err := storage.NewWritable(counted, []cid.Cid{d.Root()}, car.WriteAsCarV1(true), car.UseWholeCIDs(true))
	if err != nil {
		return Outcome{}, err
	}
	f, err := os.Open(j.Path)
	if err != nil {
		return Outcome{}, err
	}
	defer f.Close()
	var payload int64
	for b := range d.Blocks() {
		data := b.Head
		if b.Length > 0 {
			data = make([]byte, b.Length)
			if _, err := f.ReadAt(data, b.Offset); err != nil {
				return Outcome{}, err
			}
		}
		if err := w.Put(ctx, b.Cid.KeyString(), data); err != nil {
			return Outcome{}, err
		}
		payload += int64(len(data))
	}
	if err := w.Finalize(); err != nil {
		return Outcome{}, err
	}
	if counted.n < payload {
		return Outcome{}, fmt.Errorf("the archive has %d bytes, its blocks %d", counted.n, payload)
	}
	return Outcome{Bytes: d.Size()}, nil
}

type countingWriter struct{ n int64 }

func (c *countingWriter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

var _ io.Writer = (*countingWriter)(nil)
