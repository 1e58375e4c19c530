package chunker

import (
	"context"
	"errors"
	"iter"
	"os"
	"time"

	"github.com/carload/carload/car"
)

// Changed looks once more at the files on disk that were described. One that is
// gone, or has other bytes than those that were read, is reported by an error
// matching [car.ErrSourceChanged]. Only files that were written to or replaced
// since the description ended, or just before, are read for it.
func (d *DAG) Changed(ctx context.Context) error {
	for err := range d.Changes(ctx) {
		return err
	}
	return nil
}

// Changes yields what Changed reports of each file. Other errors than a
// [*car.SourceChangedError] end it.
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
			err = &car.SourceChangedError{Name: path, Offset: leaf.Offset, Reason: "it was written to after it was read"}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tick is how far the time of a change may lie behind the clock by which it is
// compared: systems stamp files by a clock that ticks a hundred times a second or
// less, and some file systems keep whole seconds, or every other one.
func tick(changed time.Time) time.Duration {
	if changed.Nanosecond() == 0 {
		return 2 * time.Second
	}
	return 20 * time.Millisecond
}

// leaves are the blocks that hold the bytes of a file, all of them, although
// the list has each block once.
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
		p := d.recipe(n)
		yield(p.leafBlock(car.Block{Cid: makeCID(p.cidPrefix(n.raw), n.digest[:])}, d.source(n), 0, n.size, n.meta()))
	}
}
