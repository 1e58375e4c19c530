package uploader

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
)

// Path is an [Input] of what is at a path on disk: a regular file, or a directory
// with all that the options take of it.
func Path(path string, opts chunker.Options) (Input, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return File(path, opts)
	}
	tree := chunker.NewTree()
	if err := tree.AddDisk("", path); err != nil {
		return nil, err
	}
	return Tree(path, tree, opts), nil
}

// Describer runs pass 1 alone: it needs no target and sends nothing.
type Describer struct {
	opts     Options
	progress counters
}

// NewDescriber makes a describer. Of the options it minds MaxUploadBytes,
// MaxShardBytes and Observer.
func NewDescriber(opts Options) (*Describer, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("describer options: %w", err)
	}
	return &Describer{opts: opts.withDefaults()}, nil
}

// Describe describes an input, calls then with its DAG, which can be read
// meanwhile, and closes the input.
func (d *Describer) Describe(ctx context.Context, in Input, then func(DAG) error) (Result, error) {
	d.progress.inputs.Add(1)
	defer d.progress.inputsDone.Add(1)
	r, err := d.describe(ctx, in, then)
	return r, errors.Join(err, in.Close())
}

func (d *Describer) describe(ctx context.Context, in Input, then func(DAG) error) (Result, error) {
	r := Result{Name: in.Name()}
	d.opts.observe(beginning(in))
	sized, known := in.(Sized)
	if known {
		d.progress.toHash.Add(sized.Size())
		if err := d.opts.checkSize(in.Name(), sized.Size()); err != nil {
			return r, err
		}
	}
	dag, err := in.Describe(ctx, &d.progress.hashed)
	if err != nil {
		return r, err
	}
	r.Root, r.Bytes, r.Blocks, r.Left, r.DAG = dag.Root(), dag.Size(), dag.Len(), LeftOut(dag), dag
	if !known {
		d.progress.toHash.Add(dag.Size())
		if err := d.opts.checkSize(in.Name(), dag.Size()); err != nil {
			return r, err
		}
	}
	return r, then(dag)
}

// Split is the plan of the shards that a DAG of this name would be sent in, to a
// target that has nothing and no limits of its own.
func (d *Describer) Split(name string, dag DAG) (*splitter.Plan, error) {
	plan, err := splitter.Split(dag, splitter.Options{MaxShardBytes: d.opts.MaxShardBytes})
	if err != nil {
		return nil, fmt.Errorf("split %q: %w", name, err)
	}
	d.opts.observe(Described{Name: name, Root: dag.Root(), Bytes: dag.Size(), Blocks: dag.Len(), Shards: len(plan.Shards)})
	return plan, nil
}

// Progress returns the counters as they are now.
func (d *Describer) Progress() Progress {
	c := &d.progress
	return Progress{BytesHashed: c.hashed.Load(), BytesToHash: c.toHash.Load(), InputsDone: c.inputsDone.Load(), Inputs: c.inputs.Load()}
}
