package unpack

import (
	"context"
	"errors"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
)

// Report is the result of [Inspect].
type Report struct {
	Archives []Archive
	Blocks   int   // distinct blocks in all archives together
	Bytes    int64 // their total size
	Roots    []Root
}

// Archive describes one of the inspected archives.
type Archive struct {
	Name  string
	Bytes int64 // size of the file
	car.Contents
}

// Root is a root that an archive names, and the state of the DAG under it,
// taking all archives together.
type Root struct {
	Cid     cid.Cid
	Blocks  int   // of a complete DAG
	Bytes   int64 // their total size
	Missing *car.IncompleteError
	Err     error // why the walk failed: a block was corrupt or did not decode
}

// Complete reports whether all blocks of the DAG are there.
func (r *Root) Complete() bool { return r.Missing == nil && r.Err == nil }

// Inspect describes the contents of archives. It does not read the payloads of
// blocks that have no links. It also returns the index that it made, for
// further use.
func Inspect(ctx context.Context, archives ...car.Source) (*Report, *car.Index, error) {
	x := new(car.Index)
	r := &Report{}
	seen := cid.NewSet()
	for _, src := range archives {
		c, err := x.Add(ctx, src)
		if err != nil {
			return nil, nil, err
		}
		r.Archives = append(r.Archives, Archive{Name: src.Name(), Bytes: src.Size(), Contents: c})
		for _, root := range c.Roots {
			if seen.Visit(root) {
				r.Roots = append(r.Roots, Root{Cid: root})
			}
		}
	}
	r.Blocks = x.Len()
	for i := range x.Len() {
		r.Bytes += int64(x.Size(i))
	}
	for i := range r.Roots {
		root := &r.Roots[i]
		d, err := x.DAG(ctx, root.Cid)
		switch {
		case err == nil:
			root.Blocks, root.Bytes = d.Len(), d.Size()
		case ctx.Err() != nil:
			return nil, nil, context.Cause(ctx)
		case !errors.As(err, &root.Missing):
			root.Err = err
		}
	}
	return r, x, nil
}
