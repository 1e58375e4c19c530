package uploader

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

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
// the order in which they are done; for a [Batch] one for each of its members,
// and then its own. While inputs are sent, the next one is
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
	var sending sync.WaitGroup
	// More inputs than transfers would only hold digests in memory.
	room := semaphore.NewWeighted(int64(u.opts.Transfers) * wholeSlot)
	send := func(weight int64, f func()) {
		_ = room.Acquire(context.WithoutCancel(ctx), weight) // what was described has an outcome
		sending.Go(func() {
			defer room.Release(weight)
			f()
		})
	}
	for in := range inputs {
		if b := batchOf(in); b != nil {
			run := u.describeBatch(ctx, in, b)
			send(wholeSlot, func() { run.send(ctx, outcomes) })
		} else {
			u.progress.inputs.Add(1)
			l, dag, r, err := u.describe(ctx, in)
			if err != nil {
				outcomes <- u.done(in, r, err)
			} else {
				send(u.weight(l), func() {
					r, err := u.ship(ctx, in, l, dag)
					outcomes <- u.done(in, r, err)
				})
			}
		}
		if ctx.Err() != nil || u.stopping() {
			break
		}
	}
	sending.Wait()
}

// A small upload spends its time waiting for disks, so it takes part of a slot:
// many at a time share what its target and the ledger sync.
const (
	wholeSlot     = 8
	smallSlot     = 1
	smallArchives = 256 << 10
)

// weight is how much of a slot each shard of an upload takes.
func (u *Uploader) weight(l layout) int64 {
	if u.opts.Transfers > 1 && len(l.plan.Shards) == 1 && l.plan.Shards[0].Size <= smallArchives {
		return smallSlot
	}
	return wholeSlot
}

// ship is pass 2 of an input.
func (u *Uploader) ship(ctx context.Context, in Input, l layout, dag DAG) (Result, error) {
	r, err := u.send(ctx, in.Name(), in.UploadName(), location(in), l)
	r.Bytes, r.Left, r.DAG = dag.Size(), LeftOut(dag), dag
	if d, ok := dag.(interface{ Changed(context.Context) error }); ok && err == nil {
		// Nothing that was sent is mixed, but it may be older than what is there now.
		if err = d.Changed(ctx); err != nil {
			err = &SourceError{fmt.Errorf("%q (%s) was uploaded as it was: %w", in.Name(), r.Root, err)}
		}
	}
	if key := cacheKey(in); key != "" && errors.Is(err, ErrSourceChanged) {
		// What is remembered of the source is not true, whatever its key says.
		err = errors.Join(err, ledgerError(u.opts.Ledger.SaveDescription(ctx, key, nil)))
	}
	return r, err
}

func (u *Uploader) done(in Input, r Result, err error) outcome {
	u.progress.inputsDone.Add(1)
	return outcome{r, errors.Join(err, in.Close())}
}

// describe runs pass 1 of one input and splits what it finds. The result is what
// is known if there is an error.
func (u *Uploader) describe(ctx context.Context, in Input) (l layout, dag DAG, r Result, err error) {
	r.Name = in.Name()
	u.observe(beginning(in))
	if s, ok := in.(Sized); ok {
		if err := u.checkSize(in.Name(), s.Size()); err != nil {
			return l, nil, r, err
		}
		u.progress.toHash.Add(s.Size())
	}
	ctx, stop := u.untilDrained(ctx)
	defer stop()
	dag, cached, err := u.dag(ctx, in)
	if err != nil {
		return l, nil, r, err
	}
	r.Root, r.Bytes = dag.Root(), dag.Size()
	if _, ok := in.(Sized); !ok {
		u.progress.toHash.Add(dag.Size())
	}
	if err = u.checkSize(in.Name(), dag.Size()); err == nil {
		l, err = u.plan(ctx, in, dag, cached)
	}
	if err != nil {
		u.fan.leave(u, r.Root)
	}
	return l, dag, r, err
}

// untilDrained is a context that also ends when the uploader is to stop.
func (u *Uploader) untilDrained(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	forget := context.AfterFunc(u.draining, func() { cancel(ErrStopped) })
	return ctx, func() {
		forget()
		cancel(nil)
	}
}

// plan splits a DAG that was described.
func (u *Uploader) plan(ctx context.Context, in Input, dag DAG, cached bool) (layout, error) {
	l, err := u.layout(ctx, in, dag)
	if err != nil {
		return l, err
	}
	if err := u.limits.check(l.plan); err != nil {
		return l, fmt.Errorf("%q (%s): %w", in.Name(), dag.Root(), err)
	}
	u.observe(Described{Name: in.Name(), Root: dag.Root(), Bytes: dag.Size(), Blocks: dag.Len(), Shards: len(l.plan.Shards), Cached: cached, Base: l.key.Base, Held: dag.Len() - l.plan.Blocks.Len()})
	return l, nil
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

func (u *Uploader) checkSize(name string, size int64) error { return u.opts.checkSize(name, size) }

func (o *Options) checkSize(name string, size int64) error {
	if limit := o.MaxUploadBytes; limit > 0 && size > limit {
		return fmt.Errorf("%w: %q has %d bytes, the limit is %d", ErrTooLarge, name, size, limit)
	}
	return nil
}
