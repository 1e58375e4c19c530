package uploader

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
)

// Path makes an [Input] of a path on disk: a regular file, or a directory with
// everything that the options take. It follows a symlink at path.
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

// Describer runs pass 1 alone. It needs no target and sends nothing. It is safe
// for concurrent use.
type Describer struct {
	opts     Options
	progress counters
}

// NewDescriber makes a describer. The only options it uses are MaxUploadBytes,
// MaxShardBytes and Observer.
func NewDescriber(opts Options) (*Describer, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("describer options: %w", err)
	}
	return &Describer{opts: opts.withDefaults()}, nil
}

// Describe describes an input, calls then with its DAG, whose blocks can be
// read until then returns, and closes the input.
func (d *Describer) Describe(ctx context.Context, in Input, then func(DAG) error) (Result, error) {
	d.progress.inputs.Add(1)
	defer d.progress.inputsDone.Add(1)
	r, err := d.describe(ctx, in, then)
	return r, errors.Join(err, in.Close())
}

func (d *Describer) describe(ctx context.Context, in Input, then func(DAG) error) (Result, error) {
	dag, r, err := d.opts.describe(in, &d.progress, func() (DAG, error) { return in.Describe(ctx, &d.progress.hashed) })
	if err != nil {
		return r, err
	}
	r.Blocks, r.Left, r.DAG = dag.Len(), LeftOut(dag), dag
	return r, then(dag)
}

// describe runs pass 1 of an input, which is f, and checks its size. If there is an
// error, the result holds what is known so far.
func (o *Options) describe(in Input, progress *counters, f func() (DAG, error)) (DAG, Result, error) {
	r := Result{Name: in.Name()}
	o.observe(beginning(in))
	sized, known := in.(Sized)
	if known {
		if err := o.checkSize(in.Name(), sized.Size()); err != nil {
			return nil, r, err
		}
		progress.toHash.Add(sized.Size())
	}
	dag, err := f()
	if err != nil {
		return nil, r, err
	}
	r.Root, r.Bytes = dag.Root(), dag.Size()
	if !known {
		progress.toHash.Add(dag.Size())
	}
	return dag, r, o.checkSize(in.Name(), dag.Size())
}

func (o *Options) checkSize(name string, size int64) error {
	if limit := o.MaxUploadBytes; limit > 0 && size > limit {
		return fmt.Errorf("%w: %q has %d bytes, but the limit is %d", ErrTooLarge, name, size, limit)
	}
	return nil
}

// Split plans the shards in which a DAG would be sent to a target that holds
// nothing and sets no limits. The name is used in messages and events.
func (d *Describer) Split(name string, dag DAG) (*splitter.Plan, error) {
	plan, err := splitter.Split(dag, splitter.Options{MaxShardBytes: d.opts.MaxShardBytes})
	if err != nil {
		return nil, fmt.Errorf("split %q: %w", name, err)
	}
	d.opts.observe(Described{Name: name, Root: dag.Root(), Bytes: dag.Size(), Blocks: dag.Len(), Shards: len(plan.Shards)})
	return plan, nil
}

// Progress returns the current counters. Only those of pass 1 are set.
func (d *Describer) Progress() Progress {
	c := &d.progress
	return Progress{BytesHashed: c.hashed.Load(), BytesToHash: c.toHash.Load(), InputsDone: c.inputsDone.Load(), Inputs: c.inputs.Load()}
}
