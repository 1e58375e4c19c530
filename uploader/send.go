package uploader

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
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
	Left   int64       // entries of a tree that were left out because they could not be taken
	Level  VerifyLevel // what was verified, if there was no error
	Sample *SampleReport
	Pieces []ShardPiece // of all shards, if [Options.PieceCIDs] is set and there was no error

	// DAG is what the input was described as, nil if it was not, or in a batch. It
	// keeps the digests of all blocks in memory for as long as it is kept.
	DAG DAG

	// Batch is the root of the batch that the input is in, and Entry its name
	// there. Shards are those of the batch, and counted in its own result.
	Batch cid.Cid
	Entry string
	// Members is how many inputs a batch had. It is 0 in the result of an input.
	Members int
}

// Send is pass 2 alone: it ships the shards of a plan that the target does not
// hold yet, under this name, and verifies the outcome. The plan's sources must
// still be there.
func (u *Uploader) Send(ctx context.Context, name string, plan *splitter.Plan) (Result, error) {
	if len(plan.Shards) == 0 {
		return Result{Name: name}, fmt.Errorf("%q: the plan has no blocks", name)
	}
	if err := u.limits.check(plan); err != nil {
		return Result{Name: name}, fmt.Errorf("%q: %w", name, err)
	}
	l := layout{all: plan.Blocks, plan: plan, key: UploadKey{Target: u.target.String(), Root: plan.Blocks.At(0).Cid, MaxShardBytes: plan.MaxShardBytes}}
	return u.send(ctx, name, name, "", l)
}

// send is Send with a name for messages and one for the target, and where the
// source is, if that is known.
func (u *Uploader) send(ctx context.Context, name, uploadName, source string, l layout) (r Result, err error) {
	root := l.key.Root
	defer u.fan.leave(u, root)
	r = Result{Name: name, Root: root, Blocks: l.all.Len(), Shards: len(l.plan.Shards), Level: u.opts.Verify}
	if u.opts.UploadName != "" {
		uploadName = u.opts.UploadName
	}
	job := newJob(u, name, uploadName, l, &r)
	receipts, err := job.known(ctx)
	if receipts == nil && err == nil {
		var end func()
		if end, err = job.begin(ctx); err != nil {
			return r, err
		}
		defer end()
		receipts, err = job.resume(ctx)
	}
	if err != nil {
		return r, fmt.Errorf("%q (%s): %w", name, root, err)
	}
	if err = job.run(ctx, receipts); err != nil {
		return r, err
	}
	if err = job.finish(ctx); err != nil {
		return r, fmt.Errorf("%q (%s): %w", name, root, err)
	}
	if r.Sample, err = u.verify(ctx, name, l, job.pinned.Load(), job.mend); err != nil {
		return r, fmt.Errorf("%q (%s): %w", name, root, err)
	}
	if _, ok := u.target.(StatusChecker); !ok && r.Level == VerifyPinned {
		r.Level = VerifyReceipt // nobody can be asked for more
	}
	if err := u.opts.Ledger.Finish(ctx, l.key, Finished{Source: source, Bytes: l.bytes, Level: r.Level}); err != nil {
		return r, ledgerError(err)
	}
	said := Status{Parts: job.archives}
	if u.opts.Verify != VerifyReceipt {
		said.State = StatePinned
	}
	u.roster.note(u, root, said)
	r.Pieces = job.pieces
	u.observe(Verified{Name: name, Root: root, Level: r.Level, Sample: r.Sample})
	return r, nil
}

// job is one upload.
type job struct {
	u    *Uploader
	name string // in messages

	uploadName string // at the target

	layout
	root   cid.Cid
	result *Result
	sent   atomic.Int64 // bytes of shards sent
	done   atomic.Int64 // shards that have their receipt
	held   atomic.Int64 // those of them that were there already
	pinned atomic.Bool  // a receipt says that the DAG is complete

	archives []cid.Cid    // of the shards that have their receipt; each written by one goroutine
	pieces   []ShardPiece // the same, if they are asked for

	resend map[int]bool // shards with suspect blocks
	stray  []cid.Cid    // suspect blocks that are in no shard, since the base has them
	there  map[int]bool // shards that were held
	again  map[int]bool // shards that were sent again
	rest   *job         // sends what the base has, if it has to be sent after all

	mu    sync.Mutex
	parts map[cid.Cid]bool // archives that the target lists and no receipt accounts for
}

func newJob(u *Uploader, name, uploadName string, l layout, r *Result) *job {
	u.progress.toSend.Add(l.plan.Size())
	u.progress.shards.Add(int64(len(l.plan.Shards)))
	j := &job{
		u: u, name: name, uploadName: uploadName, layout: l, root: l.key.Root, result: r,
		archives: make([]cid.Cid, len(l.plan.Shards)), there: map[int]bool{}, again: map[int]bool{},
	}
	if u.opts.PieceCIDs {
		j.pieces = make([]ShardPiece, len(l.plan.Shards))
	}
	return j
}

// begin waits until nobody else sends this root to this target: what they have
// sent need not be sent twice.
func (j *job) begin(ctx context.Context) (end func(), err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(j.u.draining, func() { cancel(ErrStopped) })()
	end, err = j.u.opts.Ledger.Begin(ctx, j.key, func() { j.u.observe(Waiting{Name: j.name, Root: j.root}) })
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return nil, cause
	}
	return end, ledgerError(err)
}

// known is the receipts of all shards, if the ledger has them and the target
// holds the shards still: nothing is to be sent, so that nobody need wait for
// it. It is nil otherwise.
func (j *job) known(ctx context.Context) (map[int]cid.Cid, error) {
	if j.u.opts.NoResume {
		return nil, nil
	}
	receipts, err := j.u.opts.Ledger.Receipts(ctx, j.key)
	if err != nil || len(receipts) < len(j.plan.Shards) {
		return nil, ledgerError(err)
	}
	if receipts, err = j.resume(ctx); err != nil || len(receipts) < len(j.plan.Shards) {
		return nil, err
	}
	return receipts, nil
}

// run sends every shard that has no receipt.
func (j *job) run(ctx context.Context, receipts map[int]cid.Cid) error {
	err := j.each(ctx, func(yield func(int) bool) {
		for i := range j.plan.Shards {
			if c, ok := receipts[i]; ok && j.pieces == nil {
				j.isHeld(i, c)
			} else if !yield(i) {
				return
			}
		}
	}, func(ctx context.Context, i int) error {
		if c, ok := receipts[i]; ok {
			return j.readHeld(ctx, i, c)
		}
		return j.ship(ctx, i)
	})
	j.result.Sent, j.result.Held = j.sent.Load(), int(j.held.Load())
	switch {
	case err != nil:
		return err
	case int(j.done.Load()) < len(j.plan.Shards):
		return ErrStopped // the only way to leave shards out without an error
	}
	if len(j.stray) > 0 {
		if _, err := j.sendAgain(ctx, j.stray); err != nil {
			return err
		}
	}
	if _, ok := j.u.target.(Finisher); j.key.Base.Defined() && !j.pinned.Load() && !ok {
		return j.sendRest(ctx)
	}
	return nil
}

// resume finds the shards that need not be sent: those that the ledger has a
// receipt for and, if the target can be asked, that it still holds. What the
// target lists beyond them is left in j.parts: shards are deterministic, so
// their CIDs tell which they are.
func (j *job) resume(ctx context.Context) (map[int]cid.Cid, error) {
	u := j.u
	if u.opts.NoResume {
		return nil, ledgerError(u.opts.Ledger.Forget(ctx, j.key))
	}
	receipts, err := u.opts.Ledger.Receipts(ctx, j.key)
	if err != nil {
		return nil, ledgerError(err)
	}
	suspects, err := u.opts.Ledger.Suspects(ctx, j.key)
	if err != nil {
		return nil, ledgerError(err)
	}
	j.resend, j.stray = shardsOf(j.plan, suspects)
	for i := range j.resend {
		delete(receipts, i)
	}
	checker, ok := u.target.(StatusChecker)
	if !ok {
		return receipts, j.dropLost(ctx, receipts)
	}
	// One shard is sent sooner than it is asked for.
	if len(receipts) == 0 && len(j.plan.Shards) == 1 {
		return receipts, nil
	}
	var status Status
	if len(receipts) > 0 {
		status, err = u.statusOf(ctx, checker, j.name, j.root, len(j.plan.Shards) == 1)
	} else {
		status, err = u.status(ctx, checker, j.name, j.root)
	}
	switch {
	case errors.Is(err, ErrStopped):
		return nil, err
	case errors.Is(err, ErrNotFound):
		if len(receipts) > 0 {
			u.opts.Logger.Warn("the service no longer knows this upload: all of it is sent again", "upload", j.name, "root", j.root)
		}
		return nil, ledgerError(u.opts.Ledger.Forget(ctx, j.key))
	case err != nil:
		return nil, fmt.Errorf("ask what the service holds: %w", err)
	}
	if status.Parts == nil {
		receipts = j.whole(receipts, status.State)
		j.said(status, receipts)
		return receipts, nil
	}
	parts := make(map[cid.Cid]bool, len(status.Parts))
	for _, c := range status.Parts {
		parts[c] = true
	}
	for i, c := range receipts {
		if i < 0 || i >= len(j.plan.Shards) || !parts[c] {
			delete(receipts, i)
			continue
		}
		delete(parts, c)
	}
	j.parts = parts
	j.said(status, receipts)
	return receipts, nil
}

// said takes the target at its word that the DAG is complete, if nothing is sent
// after it.
func (j *job) said(s Status, receipts map[int]cid.Cid) {
	if len(receipts) < len(j.plan.Shards) {
		j.u.roster.drop(j.root)
	} else if s.State == StatePinned {
		j.pinned.Store(true)
	}
}

// whole tells what need not be sent to a target that does not tell which shards
// it holds: all that it is not suspected to lack, if it says that the DAG is
// complete, and otherwise what the ledger has.
func (j *job) whole(receipts map[int]cid.Cid, state State) map[int]cid.Cid {
	for i := range j.plan.Shards {
		if _, ok := receipts[i]; !ok && state == StatePinned && !j.resend[i] {
			receipts[i] = cid.Undef
		}
	}
	return receipts
}

// dropLost drops the receipts of shards that the target has no more, if it can
// tell.
func (j *job) dropLost(ctx context.Context, receipts map[int]cid.Cid) error {
	checker, ok := j.u.target.(ShardChecker)
	if !ok {
		return nil
	}
	for i := range j.plan.Shards {
		if _, ok := receipts[i]; !ok {
			continue
		}
		held, err := checker.Holds(ctx, j.root, i, len(j.plan.Shards), j.plan.Shards[i].Size)
		if err != nil {
			return fmt.Errorf("look whether shard %d of %d is there still: %w", i+1, len(j.plan.Shards), err)
		}
		if !held {
			delete(receipts, i)
			j.u.opts.Logger.Warn("a shard that was sent is no longer there: it is sent again", "upload", j.name, "shard", i+1)
		}
	}
	return nil
}

// shardsOf tells which shards the blocks are new in, and which blocks are in
// none.
func shardsOf(plan *splitter.Plan, blocks []cid.Cid) (shards map[int]bool, stray []cid.Cid) {
	if len(blocks) == 0 {
		return nil, nil
	}
	wanted := make(map[cid.Cid]bool, len(blocks))
	for _, c := range blocks {
		wanted[c] = true
	}
	shards = make(map[int]bool)
	for i := range plan.Shards {
		for k := plan.Shards[i].First; k < plan.Shards[i].End; k++ {
			if c := plan.Blocks.At(k).Cid; wanted[c] {
				shards[i] = true
				delete(wanted, c)
			}
		}
	}
	return shards, slices.Collect(maps.Keys(wanted))
}

// ship makes sure that the target has shard i.
func (j *job) ship(ctx context.Context, i int) error {
	if j.resend[i] {
		return j.send(ctx, i)
	}
	archive, ok, err := j.find(ctx, i)
	if err != nil {
		return &ShardError{Name: j.name, Index: i, Count: len(j.plan.Shards), Err: err}
	}
	if !ok {
		return j.send(ctx, i)
	}
	if err := j.u.opts.Ledger.Record(ctx, j.key, i, archive); err != nil {
		return ledgerError(err)
	}
	if err := j.savePiece(ctx, i); err != nil {
		return err
	}
	j.isHeld(i, archive)
	return nil
}

// find makes the CID of shard i and looks whether the target lists it.
func (j *job) find(ctx context.Context, i int) (cid.Cid, bool, error) {
	j.mu.Lock()
	n := len(j.parts)
	j.mu.Unlock()
	if n == 0 {
		return cid.Undef, false, nil
	}
	c, err := j.read(ctx, i)
	if err != nil {
		return cid.Undef, false, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	found := j.parts[c]
	delete(j.parts, c)
	return c, found, nil
}

// read makes the CID of shard i, and its piece if that is asked for.
func (j *job) read(ctx context.Context, i int) (cid.Cid, error) {
	s := j.u.packer.Open(ctx, j.plan.Archive(i))
	_, err := io.Copy(io.Discard, s)
	if err != nil && ctx.Err() == nil {
		err = &SourceError{err}
	}
	if err = errors.Join(err, s.Close()); err != nil {
		return cid.Undef, err
	}
	j.keepPiece(i, s)
	c, _ := s.CID()
	return c, nil
}

// isHeld counts a shard that was there already.
func (j *job) isHeld(i int, archive cid.Cid) {
	size := j.plan.Shards[i].Size
	j.archives[i] = archive
	j.mu.Lock()
	j.there[i] = true
	j.mu.Unlock()
	j.u.fan.pass(j.u, j.shardName(i))
	j.held.Add(1)
	j.done.Add(1)
	j.u.progress.sent.Add(size)
	j.u.progress.shardsDone.Add(1)
	j.u.observe(ShardSent{Name: j.name, Root: j.root, Index: i, Count: len(j.plan.Shards), CID: archive, Piece: j.piece(i), Bytes: size, Held: true})
}

// shardName is that of shard i.
func (j *job) shardName(i int) shardName {
	s := &j.plan.Shards[i]
	return shardName{root: j.root, base: j.key.Base, limit: j.plan.MaxShardBytes, index: i, first: s.First, end: s.End, size: s.Size}
}

// send ships shard i: it tries until there is a receipt, records it, and only
// then counts the shard as done.
func (j *job) send(ctx context.Context, i int) error {
	u := j.u
	s := &Shard{
		Root: j.root, Name: j.uploadName, Index: i, Count: len(j.plan.Shards), Size: j.plan.Shards[i].Size,
		Again:   u.opts.NoResume || j.resend[i] || j.again[i],
		archive: j.plan.Archive(i), u: u, shared: j.shardName(i), alone: j.again[i], line: u.line, sent: &u.progress.sent, resent: &u.progress.resent,
	}
	var archive cid.Cid
	attempts, err := u.retry(ctx, j.name, i, func() error {
		receipt, err := u.attempt(ctx, s)
		if err != nil {
			return err
		}
		archive, _ = s.last.CID()
		j.keepPiece(i, s.last.stream)
		if receipt.State == StatePinned {
			j.pinned.Store(true)
		}
		return nil
	})
	if err != nil {
		return &ShardError{Name: j.name, Index: i, Count: s.Count, Attempts: attempts, Err: err}
	}
	if err := u.opts.Ledger.Record(ctx, j.key, i, archive); err != nil {
		return ledgerError(err)
	}
	if err := j.savePiece(ctx, i); err != nil {
		return err
	}
	j.archives[i] = archive
	j.sent.Add(s.Size)
	j.done.Add(1)
	u.progress.shardsDone.Add(1)
	u.observe(ShardSent{Name: j.name, Root: j.root, Index: i, Count: s.Count, CID: archive, Piece: j.piece(i), Bytes: s.Size, Attempts: attempts})
	return nil
}

// attempt sends a shard once, and checks the receipt.
func (u *Uploader) attempt(ctx context.Context, s *Shard) (receipt Receipt, err error) {
	if s.leave, err = u.line.enter(ctx, s.Size); err != nil {
		return Receipt{}, err
	}
	defer s.leave()
	ctx, cancel := context.WithCancel(ctx)
	receipt, err = u.target.Put(ctx, s)
	// A transport may read on after an early answer, until it sees that nobody
	// listens. What it read is only looked at when it is done.
	cancel()
	s.open.Wait()
	if s.last != nil {
		defer func() {
			if err != nil {
				s.last.discredit()
			}
		}()
		if s.last.err != nil {
			// The target saw its transport fail; this is why.
			return Receipt{}, s.last.err
		}
	}
	if err != nil {
		return Receipt{}, err
	}
	return receipt, s.check(receipt)
}

// check tells whether the receipt is for this root and these very bytes.
func (s *Shard) check(r Receipt) error {
	if s.last == nil {
		return fmt.Errorf("%w: the target did not read the shard", ErrRootMismatch)
	}
	archive, ok := s.last.CID()
	if !ok {
		return fmt.Errorf("%w: the target answered before the shard's last byte", ErrRootMismatch)
	}
	if r.Root.Defined() && !bytes.Equal(r.Root.Hash(), s.Root.Hash()) {
		return fmt.Errorf("%w: it names root %s, ours is %s", ErrRootMismatch, r.Root, s.Root)
	}
	counted := r.Blocks != 0 || r.BlockBytes != 0
	if r.Parts == nil && !counted {
		return fmt.Errorf("%w: it says nothing of what it took", ErrRootMismatch)
	}
	if r.Parts != nil && !slices.Contains(r.Parts, archive) {
		return damaged{fmt.Errorf("%w: archive %s is not among the %d it lists", ErrRootMismatch, archive, len(r.Parts))}
	}
	if counted {
		blocks, payload := s.Blocks()
		if r.Blocks != 0 && r.Blocks != blocks || r.BlockBytes != 0 && r.BlockBytes != payload {
			return damaged{fmt.Errorf("%w: it counted %d blocks with %d bytes, the shard has %d with %d", ErrRootMismatch, r.Blocks, r.BlockBytes, blocks, payload)}
		}
	}
	return nil
}

// damaged is a receipt for the right root and for other bytes than ours. They
// may have been damaged on the way, so they are worth another try.
type damaged struct{ error }

func (e damaged) Unwrap() error                            { return e.error }
func (e damaged) Retry() (again bool, after time.Duration) { return true, 0 }

// finish commits a DAG at a target that wants that, and sends shards again
// whose blocks it has lost by then.
func (j *job) finish(ctx context.Context) error {
	f, ok := j.u.target.(Finisher)
	if !ok {
		return nil
	}
	d := Upload{Root: j.root, Name: j.uploadName, Blocks: j.all.Len(), Shards: make([]UploadedShard, len(j.plan.Shards))}
	for i := range d.Blocks {
		b := j.all.At(i)
		d.BlockBytes += int64(b.Size())
	}
	for {
		for i, c := range j.archives {
			shard := &j.plan.Shards[i]
			d.Shards[i] = UploadedShard{CID: c, Size: shard.Size, First: j.plan.Blocks.At(shard.First).Cid}
		}
		_, err := j.u.retry(ctx, j.name, NoShard, func() error { return f.Finish(ctx, d) })
		var missing *MissingError
		if !errors.As(err, &missing) {
			return err
		}
		j.u.opts.Logger.Warn("the target has lost blocks: their shards are sent again", "upload", j.name, "err", err)
		if n, errAgain := j.sendAgain(ctx, missing.Blocks); n == 0 || errAgain != nil {
			return cmp.Or(errAgain, err)
		}
	}
}

// mend sends the shards again in which verification found blocks that are
// missing or wrong. If that was done already, that is the end of it.
func (j *job) mend(ctx context.Context, found *VerifyError) (mended, pinned bool, err error) {
	j.pinned.Store(false)
	j.u.observe(Mending{Name: j.name, Root: j.root, Missing: len(found.Missing), Wrong: len(found.Wrong)})
	n, err := j.sendAgain(ctx, found.blocks())
	if n == 0 || err != nil {
		return false, false, err
	}
	return true, j.pinned.Load(), j.finish(ctx)
}

// sendAgain sends the shards that the blocks are in, unless they were sent
// again before, and tells how many there were.
func (j *job) sendAgain(ctx context.Context, blocks []cid.Cid) (int, error) {
	wanted, stray := shardsOf(j.plan, blocks)
	var shards []int
	for _, i := range slices.Sorted(maps.Keys(wanted)) {
		if !j.again[i] {
			j.again[i] = true
			shards = append(shards, i)
			if j.there[i] {
				j.result.Held--
			}
		}
	}
	j.addShards(shards)
	if err := j.sendAll(ctx, shards); err != nil {
		return 0, err
	}
	if len(stray) == 0 || !j.key.Base.Defined() {
		return len(shards), nil
	}
	if err := j.makeWhole(); err != nil {
		return 0, err
	}
	n, err := j.rest.sendAgain(ctx, stray)
	j.addWhole(n)
	return n + len(shards), err
}

// baseWait is how long the target may take to see that it has all blocks, before
// those that the base was to have are sent, too.
const baseWait = 10 * time.Second

// sendRest sends what the base has, unless the target finds the DAG complete as
// it is.
func (j *job) sendRest(ctx context.Context) error {
	err := j.u.waitPinned(ctx, j.u.target.(StatusChecker), j.name, j.root, min(baseWait, j.u.opts.VerifyTimeout))
	if err == nil || !errors.Is(err, ErrIncomplete) {
		j.pinned.Store(err == nil)
		return err
	}
	j.u.opts.Logger.Warn("the target lacks what it had of an earlier upload: that is sent as well", "upload", j.name, "base", j.key.Base)
	if err := j.makeWhole(); err != nil {
		return err
	}
	sent := make(map[cid.Cid]bool, j.plan.Blocks.Len())
	for i := range j.plan.Blocks.Len() {
		sent[j.plan.Blocks.At(i).Cid] = true
	}
	var rest []int
	w := j.rest
	for i := range w.plan.Shards {
		shard := &w.plan.Shards[i]
		for k := shard.First; k < shard.End; k++ {
			if !sent[w.all.At(k).Cid] {
				rest = append(rest, i)
				w.again[i] = true
				break
			}
		}
	}
	w.addShards(rest)
	err = w.sendAll(ctx, rest)
	j.addWhole(len(rest))
	return err
}

// makeWhole makes the job that knows the shards of a DAG without a base.
func (j *job) makeWhole() error {
	if j.rest != nil {
		return nil
	}
	l, err := j.u.whole(j.layout)
	if err != nil {
		return err
	}
	j.rest = &job{
		u: j.u, name: j.name, uploadName: j.uploadName, layout: l, root: j.root, result: j.result,
		archives: make([]cid.Cid, len(l.plan.Shards)), there: map[int]bool{}, again: map[int]bool{},
	}
	return nil
}

// addWhole takes over what became of shards of the whole.
func (j *job) addWhole(shards int) {
	j.result.Shards += shards
	j.result.Sent = j.sent.Load() + j.rest.sent.Load()
	if j.rest.pinned.Load() {
		j.pinned.Store(true)
	}
}

// addShards counts shards that are to be sent.
func (j *job) addShards(shards []int) {
	for _, i := range shards {
		j.u.progress.toSend.Add(j.plan.Shards[i].Size)
		j.u.progress.shards.Add(1)
	}
}

// sendAll sends shards, whatever the target holds.
func (j *job) sendAll(ctx context.Context, shards []int) error {
	err := j.each(ctx, slices.Values(shards), j.send)
	j.result.Sent = j.sent.Load()
	if err == nil && j.u.stopping() {
		return ErrStopped
	}
	return err
}

// each does something to shards, as many at a time as there may be in flight. A
// stop leaves out those that were not begun, and is no error.
func (j *job) each(ctx context.Context, shards iter.Seq[int], do func(context.Context, int) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(j.u.opts.Transfers)
	for i := range shards {
		if gctx.Err() != nil || j.u.stopping() {
			break
		}
		g.Go(func() error {
			// The slots are shared with other inputs, hence not the group's limit alone.
			weight := j.u.weight(j.layout)
			if err := j.u.slots.Acquire(gctx, weight); err != nil {
				return context.Cause(gctx)
			}
			defer j.u.slots.Release(weight)
			j.u.breaker.flying.Add(1)
			defer j.u.breaker.flying.Add(-1)
			if j.u.stopping() {
				return nil
			}
			err := do(gctx, i)
			if errors.Is(err, ErrStopped) {
				return nil // an error would cancel the shards that are still in flight
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// ledgerError says what failed; nil stays nil.
func ledgerError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ledger: %w", err)
}

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
		wait := waits.NextBackOff()
		if asked > 0 {
			// Some later than asked for, so that not all come back at once.
			wait = max(wait, min(asked, mostAsked)+rand.N(firstWait))
		}
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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(u.draining, func() { cancel(ErrStopped) })()
	return u.opts.Clock.Sleep(ctx, d)
}

// breaker ends the retries of everything once so many tries in a row have
// failed that the service as a whole must be down.
type breaker struct {
	tries  int64        // of a shard
	most   int64        // shards in flight that are not small
	flying atomic.Int64 // shards in flight
	fails  atomic.Int64
}

func (b *breaker) succeeded() { b.fails.Store(0) }

func (b *breaker) failed() bool {
	return b.fails.Add(1) >= b.tries*max(b.most, b.flying.Load())
}

var (
	_ Body     = (*body)(nil)
	_ car.List = DAG(nil)
)
