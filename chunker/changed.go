package chunker

import (
	"context"
	"errors"
	"iter"
	"os"
	"time"

	"github.com/carload/carload/car"
)

// Changed checks the described files on disk again. If one is gone or its bytes
// differ, the error matches [car.ErrSourceChanged]. It reads only files that
// changed after the description ended, or just before.
func (d *DAG) Changed(ctx context.Context) error {
	for err := range d.Changes(ctx) {
		return err
	}
	return nil
}

// Changes is like Changed, but yields an error for every file. Any error other
// than a [*car.SourceChangedError] is the last.
func (d *DAG) Changes(ctx context.Context) iter.Seq[error] {
	return func(yield func(error) bool) {
		var loader car.Loader
		defer loader.Close()
		for i := range d.nodes.n {
			err := d.changed(ctx, &loader, d.nodes.at(uint32(i)))
			if err != nil && (!yield(err) || !errors.Is(err, car.ErrSourceChanged)) {
				return
			}
		}
	}
}

func (d *DAG) changed(ctx context.Context, loader *car.Loader, n *node) error {
	if n.absent {
		return nil
	}
	switch n.body.(type) {
	case *directory, symlink:
		return nil
	}
	var path string
	switch src := d.source(n).(type) {
	case diskFile:
		path = src.Name()
	case *FileSource:
		path = src.path
	default:
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return &car.SourceChangedError{Name: path, Reason: "it is gone"}
	}
	if err := sameSize(path, info, n.size); err != nil {
		return err
	}
	if changed := changeTime(info); !changed.Add(tick(changed)).After(d.described) {
		return nil
	}
	for leaf := range d.leaves(n) {
		_, err := loader.Load(ctx, leaf)
		if errors.Is(err, car.ErrCorrupt) || errors.Is(err, os.ErrNotExist) {
			err = &car.SourceChangedError{Name: path, Offset: leaf.Offset, Reason: "it was modified after it was read"}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tick is how far the time of a change may lag behind the real time. Systems
// stamp files with a clock that ticks a hundred times a second or more slowly,
// and some file systems store only whole or even seconds.
func tick(changed time.Time) time.Duration {
	if changed.Nanosecond() == 0 {
		return 2 * time.Second
	}
	return 20 * time.Millisecond
}

// leaves yields all blocks that hold the bytes of a file, including those that
// the list has at another place.
func (d *DAG) leaves(n *node) iter.Seq[car.Block] {
	return func(yield func(car.Block) bool) {
		if f, ok := n.body.(*file); ok {
			for i := range f.layout.leaves {
				if !yield(f.layout.block(d.source(n), i, f.digests)) {
					return
				}
			}
			return
		}
		p := d.profileOf(n)
		yield(p.leafBlock(car.Block{Cid: makeCID(p.cidPrefix(n.raw), n.digest[:])}, d.source(n), 0, n.size, n.meta()))
	}
}
