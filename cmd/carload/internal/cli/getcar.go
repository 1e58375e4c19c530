package cli

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"sync/atomic"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/unpack"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/gateway"
)

type gotArchiveEvent struct {
	eventHeader
	Root   string `json:"root"` // of the archive
	Path   string `json:"path,omitempty"`
	Output string `json:"output"`
	Blocks int64  `json:"blocks"`
	Bytes  int64  `json:"bytes"`
}

// getArchives writes an archive of each wanted thing.
func (a *app) getArchives(ctx context.Context, p *gateway.Pool, wanted []gotten, out string, opts unpack.Options) error {
	var wrote, total atomic.Int64
	stop := a.showProgress(phases{first: "fetching"}, func() uploader.Progress {
		return uploader.Progress{BytesHashed: wrote.Load(), BytesToHash: total.Load()}
	})
	defer stop()
	for _, g := range wanted {
		if err := a.getArchive(ctx, p, g, out, len(wanted) > 1, &archiveWriter{wrote: &wrote, total: &total, limit: opts.MaxBytes}, opts.Force); err != nil {
			return a.ungotten(g, err, opts)
		}
	}
	return nil
}

func (a *app) getArchive(ctx context.Context, p *gateway.Pool, g gotten, out string, several bool, w *archiveWriter, replace bool) error {
	root := g.root
	if g.path != "" {
		r := p.NewReader(ctx)
		defer r.Close()
		e, err := unpack.Stat(ctx, r, g.root, g.path)
		if err != nil {
			return err
		}
		root = e.Cid
	}
	write := func(to io.Writer) error { return w.write(ctx, p, root, to) }
	if out == "-" {
		return write(a.stdio.Out)
	}
	dest, err := destination(out, g.name()+".car", several, false)
	if err != nil {
		return err
	}
	if err := unpack.WriteNew(filepath.Dir(dest), filepath.Base(dest), replace, write); err != nil {
		return err
	}
	a.con.event(gotArchiveEvent{header("gotArchive"), root.String(), g.path, dest, w.blocks, w.bytes})
	a.con.result(root.String() + "\t" + quotePath(dest))
	a.con.say("fetched: an archive of %s, %s", count(int(w.blocks), "block"), formatBytes(w.bytes))
	return nil
}

// archiveWriter writes one archive.
type archiveWriter struct {
	wrote, total *atomic.Int64
	limit        int64 // 0 for no limit
	blocks       int64
	bytes        int64
	frame        []byte
}

func (w *archiveWriter) write(ctx context.Context, p *gateway.Pool, root cid.Cid, to io.Writer) error {
	out := bufio.NewWriterSize(to, 256<<10)
	if err := w.put(out, car.AppendHeader(nil, root)); err != nil {
		return err
	}
	err := p.Walk(ctx, root, gateway.Walk{Total: w.total, Visit: func(c cid.Cid, data []byte) error {
		w.frame = binary.AppendUvarint(w.frame[:0], uint64(c.ByteLen()+len(data)))
		w.frame = append(w.frame, c.KeyString()...)
		if err := w.put(out, w.frame); err != nil {
			return err
		}
		w.blocks++
		w.wrote.Add(int64(len(data)))
		return w.put(out, data)
	}})
	if err != nil {
		return err
	}
	return out.Flush()
}

func (w *archiveWriter) put(out *bufio.Writer, p []byte) error {
	if w.bytes += int64(len(p)); w.limit > 0 && w.bytes > w.limit {
		return fmt.Errorf("%w: the archive has more than %d bytes", unpack.ErrTooLarge, w.limit)
	}
	_, err := out.Write(p)
	return err
}
