package uploader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/splitter"
)

// Result is what became of one input.
type Result struct {
	Name   string  // of the input
	Root   cid.Cid // undefined if it was not described
	Bytes  int64   // of payload
	Blocks int
	Shards int
	Held   int // shards that were there already
	Sent   int64
	Level  VerifyLevel // what was verified, if there was no error
	Sample *SampleReport
}

// Send is pass 2 alone: it ships the shards of a plan that the target does not
// hold yet, under this name, and verifies the outcome. The plan's sources must
// still be there.
func (u *Uploader) Send(ctx context.Context, name string, plan *splitter.Plan) (Result, error) {
	root := plan.Blocks.At(0).Cid
	r := Result{Name: name, Root: root, Blocks: plan.Blocks.Len(), Shards: len(plan.Shards), Level: u.opts.Verify}
	u.progress.toSend.Add(plan.Size())
	u.progress.shards.Add(int64(len(plan.Shards)))
	job := &job{u: u, name: name, plan: plan, root: root, result: &r}
	job.key = UploadKey{Target: u.target.String(), Root: root, MaxShardBytes: plan.MaxShardBytes}
	if err := job.run(ctx); err != nil {
		return r, err
	}
	if err := u.verify(ctx, job); err != nil {
		return r, fmt.Errorf("%q (%s): %w", name, root, err)
	}
	if err := u.opts.Ledger.Finish(ctx, job.key); err != nil {
		return r, fmt.Errorf("ledger: %w", err)
	}
	u.observe(Verified{Name: name, Root: root, Level: u.opts.Verify})
	return r, nil
}

// job is one upload.
type job struct {
	u      *Uploader
	name   string
	plan   *splitter.Plan
	root   cid.Cid
	key    UploadKey
	result *Result
	sent   atomic.Int64 // bytes of shards sent
	done   atomic.Int64 // their number
}

// run sends every shard that is not held yet.
func (j *job) run(ctx context.Context) error {
	u := j.u
	held, err := j.held(ctx)
	if err != nil {
		return fmt.Errorf("%q (%s): %w", j.name, j.root, err)
	}
	j.result.Held = len(held)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(u.opts.Transfers)
	for i := range j.plan.Shards {
		if c, ok := held[i]; ok {
			size := j.plan.Shards[i].Size
			u.progress.sent.Add(size)
			u.progress.shardsDone.Add(1)
			u.observe(ShardSent{Name: j.name, Root: j.root, Index: i, Count: len(j.plan.Shards), Archive: c, Bytes: size, Held: true})
			continue
		}
		if gctx.Err() != nil || u.stopping() {
			break
		}
		g.Go(func() error {
			// The slots are shared with other inputs, hence not the group's limit alone.
			if err := u.slots.Acquire(gctx, 1); err != nil {
				return context.Cause(gctx)
			}
			defer u.slots.Release(1)
			if u.stopping() {
				return ErrStopped
			}
			return j.send(gctx, i)
		})
	}
	err = g.Wait()
	j.result.Sent = j.sent.Load()
	if err == nil && len(held)+int(j.done.Load()) < len(j.plan.Shards) {
		return ErrStopped // the only way to leave shards out without an error
	}
	return err
}

// held finds the shards that need not be sent: those that the ledger has a
// receipt for and, if the target can be asked, that it still lists. What the
// target lists and the ledger does not know is found by making the shard's CID
// here: shards are deterministic.
func (j *job) held(ctx context.Context) (map[int]cid.Cid, error) {
	u := j.u
	if u.opts.NoResume {
		return nil, u.opts.Ledger.Forget(ctx, j.key)
	}
	known, err := u.opts.Ledger.Receipts(ctx, j.key)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	checker, ok := u.target.(StatusChecker)
	// One shard is sent sooner than it is asked for.
	if !ok || len(known) == 0 && len(j.plan.Shards) == 1 {
		return known, nil
	}
	status, err := u.status(ctx, checker, j.root)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, u.opts.Ledger.Forget(ctx, j.key)
	case err != nil:
		return nil, fmt.Errorf("ask what the service holds: %w", err)
	}
	parts := make(map[cid.Cid]bool, len(status.Parts))
	for _, c := range status.Parts {
		parts[c] = true
	}
	held := make(map[int]cid.Cid)
	for i, c := range known {
		if parts[c] && i < len(j.plan.Shards) {
			held[i] = c
			delete(parts, c)
		}
	}
	if len(parts) == 0 {
		return held, nil
	}
	return held, j.findHeld(ctx, parts, held)
}

// findHeld regenerates the shards that are not in held, and adds those that
// are among the parts.
func (j *job) findHeld(ctx context.Context, parts map[cid.Cid]bool, held map[int]cid.Cid) error {
	u := j.u
	cids := make([]cid.Cid, len(j.plan.Shards))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(u.opts.Transfers)
	for i := range j.plan.Shards {
		if _, ok := held[i]; ok {
			continue
		}
		if ctx.Err() != nil || u.stopping() {
			break
		}
		g.Go(func() error {
			s := u.packer.Open(ctx, j.plan.Archive(i))
			_, err := io.Copy(io.Discard, s)
			if err = errors.Join(err, s.Close()); err != nil {
				return err
			}
			cids[i], _ = s.CID()
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, c := range cids {
		if c.Defined() && parts[c] {
			held[i] = c
			if err := u.opts.Ledger.Record(ctx, j.key, i, c); err != nil {
				return fmt.Errorf("ledger: %w", err)
			}
		}
	}
	return nil
}

// send ships shard i: it tries until there is a receipt, records it, and only
// then counts the shard as done.
func (j *job) send(ctx context.Context, i int) error {
	u := j.u
	s := &Shard{
		Root: j.root, Name: j.name, Index: i, Count: len(j.plan.Shards), Size: j.plan.Shards[i].Size,
		archive: j.plan.Archive(i), packer: &u.packer, limiter: u.limiter, sent: &u.progress.sent, resent: &u.progress.resent,
	}
	attempts, err := u.retry(ctx, j.name, i, func() error { return u.attempt(ctx, s) })
	if err != nil {
		s.discredit()
		return &ShardError{Name: j.name, Index: i, Count: s.Count, Attempts: attempts, Err: err}
	}
	archive, _ := s.last.CID()
	if err := u.opts.Ledger.Record(ctx, j.key, i, archive); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	j.sent.Add(s.Size)
	j.done.Add(1)
	u.progress.shardsDone.Add(1)
	u.observe(ShardSent{Name: j.name, Root: j.root, Index: i, Count: s.Count, Archive: archive, Bytes: s.Size, Attempts: attempts})
	return nil
}

// attempt sends a shard once and checks the receipt.
func (u *Uploader) attempt(ctx context.Context, s *Shard) error {
	receipt, err := u.target.Put(ctx, s)
	if s.last != nil && s.last.err != nil {
		// The target saw its transport fail; this is why.
		return s.last.err
	}
	if err != nil {
		return err
	}
	return s.check(receipt)
}

// check tells whether the receipt is for this root and lists these very bytes.
func (s *Shard) check(r Receipt) error {
	if s.last == nil {
		return fmt.Errorf("%w: the target did not read the shard", ErrRootMismatch)
	}
	archive, ok := s.last.CID()
	if !ok {
		return fmt.Errorf("%w: the target answered before the shard's last byte", ErrRootMismatch)
	}
	if !r.Root.Defined() || !bytes.Equal(r.Root.Hash(), s.Root.Hash()) {
		return fmt.Errorf("%w: it names root %s, ours is %s", ErrRootMismatch, r.Root, s.Root)
	}
	for _, c := range r.Parts {
		if c == archive {
			return nil
		}
	}
	return partMissing{fmt.Errorf("%w: archive %s is not among the %d it lists", ErrRootMismatch, archive, len(r.Parts))}
}

// partMissing is a receipt for the right root that does not list the archive.
// The bytes may have been damaged on the way, so they are worth another try.
type partMissing struct{ error }

func (e partMissing) Unwrap() error                    { return e.error }
func (e partMissing) Temporary() (bool, time.Duration) { return true, 0 }

// Waits between tries.
const (
	firstWait = time.Second
	mostWait  = time.Minute
	// mostAsked caps what a service can ask for by Retry-After.
	mostAsked = 5 * time.Minute
)

// retry calls f until it succeeds, fails for good, or the tries are used up.
func (u *Uploader) retry(ctx context.Context, name string, index int, f func() error) (attempts int, err error) {
	waits := backoff.ExponentialBackOff{InitialInterval: firstWait, RandomizationFactor: 1, Multiplier: 2, MaxInterval: mostWait}
	waits.Reset()
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil {
			u.breaker.succeeded()
			return attempt, nil
		}
		if ctx.Err() != nil {
			return attempt, context.Cause(ctx)
		}
		again, asked := Retryable(err)
		if !again {
			return attempt, err
		}
		if attempt > u.opts.Retries || u.breaker.failed() {
			return attempt, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		wait := max(waits.NextBackOff(), min(asked, mostAsked))
		u.progress.retries.Add(1)
		u.observe(Retrying{Name: name, Index: index, Attempt: attempt, Wait: wait, Err: err})
		u.opts.Logger.Warn("retrying", "upload", name, "shard", index, "attempt", attempt, "wait", wait, "err", err)
		if err := u.wait(ctx, wait); err != nil {
			return attempt, err
		}
	}
}

// wait returns after d, or sooner with the reason to stop.
func (u *Uploader) wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-u.draining.Done():
		return ErrStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// breaker ends the retries of everything once so many tries in a row have
// failed that the service as a whole must be down.
type breaker struct {
	limit int64
	fails atomic.Int64
}

func (b *breaker) succeeded()   { b.fails.Store(0) }
func (b *breaker) failed() bool { return b.fails.Add(1) >= b.limit }

var _ Body = (*body)(nil)
var _ car.List = (DAG)(nil)
