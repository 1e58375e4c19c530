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

// ErrTooLarge is wrapped by the error for an input larger than
// [Options.MaxUploadBytes].
var ErrTooLarge = errors.New("input is too large for one upload")

// DAG is a described input: a list of blocks that can be read repeatedly.
type DAG interface {
	car.List
	Root() cid.Cid
	Size() int64 // payload in bytes
}

// LeftOut returns how many entries of a tree are missing from its DAG because
// they could not be taken. See [chunker.Options].SkipRefused.
func LeftOut(dag DAG) int64 {
	if d, ok := dag.(interface{ Refused() int64 }); ok {
		return d.Refused()
	}
	return 0
}

// Input is something to upload.
type Input interface {
	// Name is what messages call the input. It says where the input is.
	Name() string
	// UploadName is the name of the upload at the target, unless
	// [Options.UploadName] is set. It may be empty. It should not reveal where
	// the input is on this machine.
	UploadName() string
	// Describe runs pass 1. It adds the payload bytes it reads to read.
	Describe(ctx context.Context, read *atomic.Int64) (DAG, error)
	// Close releases what Describe made. It is called once, after pass 2.
	Close() error
}

// Sized is an [Input] whose payload size is known before it is described.
type Sized interface{ Size() int64 }

type outcome struct {
	result Result
	err    error
}

// Upload runs both passes over every input and yields one result for each, in
// the order in which they finish. For a [Batch], it yields one result for each
// member and then one for the batch. While inputs are sent, the next one is
// described. An input that fails does not stop the others.
//
// Inputs are pulled one at a time, on another goroutine, when there is room for
// them. Upload closes every input that it pulls. The caller may stop at any
// result; that cancels what is in flight.
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
		// Leave nothing running, even if the caller's loop panics.
		defer func() {
			cancel()
			for range outcomes { // drop what nobody waits for
			}
			_ = g.Wait() // never fails: outcomes carry the errors
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
		_ = room.Acquire(context.WithoutCancel(ctx), weight) // what was described gets an outcome
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

// A small upload mostly waits for disks, so it takes only part of a slot. Many
// of them share the syncs of the target and the ledger.
const (
	wholeSlot     = 16
	smallSlot     = 1
	smallArchives = 256 << 10
)

// weight returns how much of a slot each shard of an upload takes.
func (u *Uploader) weight(l layout) int64 {
	if u.opts.Transfers > 1 && len(l.plan.Shards) == 1 && l.plan.Shards[0].Size <= smallArchives {
		return smallSlot
	}
	return wholeSlot
}

// ship runs pass 2 for an input.
func (u *Uploader) ship(ctx context.Context, in Input, l layout, dag DAG) (Result, error) {
	r, err := u.send(ctx, in.Name(), in.UploadName(), location(in), l)
	r.Bytes, r.Left, r.DAG = dag.Size(), LeftOut(dag), dag
	if d, ok := dag.(interface{ Changed(context.Context) error }); ok && err == nil {
		// Nothing was mixed, but what was sent may be older than the source is
		// now.
		if err = d.Changed(ctx); err != nil {
			err = &SourceError{fmt.Errorf("%q (%s) was uploaded as it was: %w", in.Name(), r.Root, err)}
		}
	}
	if key := cacheKey(in); key != "" && errors.Is(err, ErrSourceChanged) {
		// What the ledger has about the source is wrong, whatever its key says.
		err = errors.Join(err, ledgerError(u.opts.Ledger.SaveDescription(ctx, key, nil)))
	}
	return r, err
}

func (u *Uploader) done(in Input, r Result, err error) outcome {
	u.progress.inputsDone.Add(1)
	return outcome{r, errors.Join(err, in.Close())}
}

// describe runs pass 1 of one input and plans its shards. If there is an error,
// the result holds what is known so far.
func (u *Uploader) describe(ctx context.Context, in Input) (l layout, dag DAG, r Result, err error) {
	ctx, stop := u.untilDrained(ctx)
	defer stop()
	cached := false
	dag, r, err = u.opts.describe(in, &u.progress, func() (dag DAG, err error) {
		dag, cached, err = u.dag(ctx, in)
		return dag, err
	})
	if err == nil {
		l, err = u.plan(ctx, in, dag, cached)
	}
	if err != nil && dag != nil {
		u.fan.leave(u, r.Root)
	}
	return l, dag, r, err
}

// untilDrained returns a context that also ends when the uploader is drained.
func (u *Uploader) untilDrained(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	forget := context.AfterFunc(u.draining, func() { cancel(ErrStopped) })
	return ctx, func() {
		forget()
		cancel(nil)
	}
}

// plan plans the shards of a described DAG.
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

// dag describes an input, or restores its description from the ledger.
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
