package uploader

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync/atomic"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
)

// ErrTooLarge is wrapped by the error for an input beyond
// [Options.MaxUploadBytes].
var ErrTooLarge = errors.New("input is too large for one upload")

// DAG is a described input: a list of its blocks, which can be read again.
type DAG interface {
	car.List
	Root() cid.Cid
	Size() int64 // payload in bytes
}

// LeftOut is how many entries of a tree are not in its DAG because they could not
// be taken. See [chunker.Options].
func LeftOut(dag DAG) int64 {
	if d, ok := dag.(interface{ Refused() int64 }); ok {
		return d.Refused()
	}
	return 0
}

// Input is something to upload.
type Input interface {
	// Name is what the input is called in messages: where it is.
	Name() string
	// UploadName is what the target calls the upload, unless
	// [Options.UploadName] is set. Where the input is on this machine is nobody
	// else's business. It may be empty.
	UploadName() string
	// Describe is pass 1. It adds to read what it has read of the payload.
	Describe(ctx context.Context, read *atomic.Int64) (DAG, error)
	// Close releases what Describe made. It is called once, after pass 2.
	Close() error
}

// Sized is an [Input] that knows its payload before it is described.
type Sized interface{ Size() int64 }

type outcome struct {
	result Result
	err    error
}

// Upload runs both passes over every input, and yields one result for each, in
// the order in which they are done. While inputs are sent, the next one is
// described. An input that fails does not stop the others. Inputs are pulled
// one at a time, on another goroutine, when there is room for them. The caller
// may stop at any result; that cancels what is in flight.
func (u *Uploader) Upload(ctx context.Context, inputs iter.Seq[Input]) iter.Seq2[Result, error] {
	return func(yield func(Result, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		outcomes := make(chan outcome)
		var g errgroup.Group
		g.Go(func() error {
			defer close(outcomes)
			u.pull(ctx, inputs, outcomes)
			return nil
		})
		// Also when the caller's loop panics, nothing is left running.
		defer func() {
			cancel()
			for range outcomes { // what nobody waits for is dropped
			}
			_ = g.Wait() // it never fails: outcomes carry the errors
		}()
		for o := range outcomes {
			if !yield(o.result, o.err) {
				return
			}
		}
	}
}

// pull describes one input after the other and hands each on to be sent.
func (u *Uploader) pull(ctx context.Context, inputs iter.Seq[Input], outcomes chan<- outcome) {
	var sending errgroup.Group
	// More inputs than transfers would only hold digests in memory.
	sending.SetLimit(u.opts.Transfers)
	for in := range inputs {
		u.progress.inputs.Add(1)
		l, dag, err := u.describe(ctx, in)
		if err != nil {
			r := Result{Name: in.Name()}
			if dag != nil {
				r.Root, r.Bytes = dag.Root(), dag.Size()
				u.fan.leave(u, r.Root)
			}
			outcomes <- u.done(in, r, err)
		} else {
			sending.Go(func() error {
				r, err := u.send(ctx, in.Name(), in.UploadName(), location(in), l)
				r.Bytes, r.Left = dag.Size(), LeftOut(dag)
				if d, ok := dag.(interface{ Changed(context.Context) error }); ok && err == nil {
					// Nothing that was sent is mixed, but it may be older than what is there now.
					if err = d.Changed(ctx); err != nil {
						err = &SourceError{fmt.Errorf("%q (%s) was uploaded as it was: %w", in.Name(), r.Root, err)}
					}
				}
				if key := cacheKey(in); key != "" && errors.Is(err, ErrSourceChanged) {
					// What is remembered of the source is not true, whatever its key says.
					err = errors.Join(err, ledgerError(u.opts.Ledger.SavePlan(ctx, key, nil)))
				}
				outcomes <- u.done(in, r, err)
				return nil
			})
		}
		if ctx.Err() != nil || u.stopping() {
			break
		}
	}
	_ = sending.Wait()
}

func (u *Uploader) done(in Input, r Result, err error) outcome {
	u.progress.inputsDone.Add(1)
	return outcome{r, errors.Join(err, in.Close())}
}

// describe runs pass 1 of one input and splits what it finds.
func (u *Uploader) describe(ctx context.Context, in Input) (l layout, _ DAG, err error) {
	if s, ok := in.(Sized); ok {
		if err := u.checkSize(in.Name(), s.Size()); err != nil {
			return l, nil, err
		}
		u.progress.toHash.Add(s.Size())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(u.draining, func() { cancel(ErrStopped) })()

	dag, cached, err := u.dag(ctx, in)
	if err != nil {
		return l, nil, err
	}
	if _, ok := in.(Sized); !ok {
		u.progress.toHash.Add(dag.Size())
	}
	if err := u.checkSize(in.Name(), dag.Size()); err != nil {
		return l, dag, err
	}
	if l, err = u.layout(ctx, in, dag); err != nil {
		return l, dag, err
	}
	plan := l.plan
	if err := u.limits.check(plan); err != nil {
		return l, dag, fmt.Errorf("%q (%s): %w", in.Name(), dag.Root(), err)
	}
	u.observe(Described{Name: in.Name(), Root: dag.Root(), Bytes: dag.Size(), Blocks: dag.Len(), Shards: len(plan.Shards), Cached: cached, Base: l.key.Base, Held: dag.Len() - plan.Blocks.Len()})
	return l, dag, nil
}

// dag describes an input, or takes what the ledger knows of it.
func (u *Uploader) dag(ctx context.Context, in Input) (dag DAG, cached bool, err error) {
	key := cacheKey(in)
	if dag, err = u.restore(ctx, in, key); err != nil {
		return nil, false, err
	}
	if dag != nil {
		u.progress.hashed.Add(dag.Size())
		return dag, true, nil
	}
	dag, err = in.Describe(ctx, &u.progress.hashed)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		} else {
			err = &SourceError{err}
		}
		return nil, false, fmt.Errorf("describe %q: %w", in.Name(), err)
	}
	return dag, false, u.keep(ctx, in, key, dag)
}

func (u *Uploader) checkSize(name string, size int64) error {
	if limit := u.opts.MaxUploadBytes; limit > 0 && size > limit {
		return fmt.Errorf("%w: %q has %d bytes, the limit is %d", ErrTooLarge, name, size, limit)
	}
	return nil
}
