package unpack

import (
	"context"
	"errors"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
)

// Report is what [Inspect] found.
type Report struct {
	Archives []Archive
	Blocks   int   // distinct blocks of all archives together
	Bytes    int64 // of them
	Roots    []Root
}

// Archive is one of the inspected archives.
type Archive struct {
	Name  string
	Bytes int64 // of the file
	car.Contents
}

// Root is a root that an archive names, and the state of the DAG under it in
// all archives together.
type Root struct {
	Cid     cid.Cid
	Blocks  int   // of a complete DAG
	Bytes   int64 // of them
	Missing *car.IncompleteError
	Err     error // why it could not be walked: a corrupt block, one that does not decode
}

// Complete reports whether every block of the DAG is there.
func (r *Root) Complete() bool { return r.Missing == nil && r.Err == nil }

// Inspect tells what is in archives, without reading the payload of blocks
// that have no links. The index it makes is returned for further use.
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
