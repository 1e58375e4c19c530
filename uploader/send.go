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

// Result is the outcome of one input.
type Result struct {
	Name   string  // of the input
	Root   cid.Cid // undefined if the input was not described
	Bytes  int64   // of payload
	Blocks int
	Shards int
	Held   int // shards that the target had already
	Sent   int64
	Left   int64       // entries of a tree that could not be taken
	Level  VerifyLevel // what was verified, if there was no error
	Sample *SampleReport
	Pieces []ShardPiece // of all shards, if [Options.PieceCIDs] is set and there was no error

	// DAG describes the input. It is nil if describing failed, and in a batch.
	// While it is kept, the digests of all blocks stay in memory.
	DAG DAG

	// Batch is the root of the batch that the input is part of, and Entry its
	// name there. The shards are counted in the result of the batch.
	Batch cid.Cid
	Entry string
	// Members is the number of inputs in a batch, and 0 if this is not a batch.
	Members int
}

// Send runs pass 2 alone: it sends those shards of a plan that the target does
// not hold yet, and verifies the outcome. The name is used in messages and as
// the upload name. The plan's sources must still be there.
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

// send is Send with one name for messages and one for the target, and with the
// location of the source, if known.
func (u *Uploader) send(ctx context.Context, name, uploadName, source string, l layout) (r Result, err error) {
	root := l.key.Root
	defer u.fan.leave(u, root)
	r = Result{Name: name, Root: root, Blocks: l.all.Len(), Shards: len(l.plan.Shards), Level: u.opts.Verify}
	if u.opts.UploadName != "" {
		uploadName = u.opts.UploadName
	}
	job := newJob(u, name, uploadName, l, &r)
	job.late = map[int]cid.Cid{}
	u.progress.toSend.Add(l.plan.Size())
	u.progress.shards.Add(int64(len(l.plan.Shards)))
	end, receipts, err := job.begin(ctx)
	if err != nil {
		return r, err
	}
	defer end()
	if receipts == nil {
		if receipts, err = job.resume(ctx); err != nil {
			return r, fmt.Errorf("%q (%s): %w", name, root, err)
		}
	}
	if err = job.run(ctx, receipts); err != nil {
		return r, errors.Join(err, job.recordLate(ctx))
	}
	if err = job.finish(ctx); err != nil {
		return r, fmt.Errorf("%q (%s): %w", name, root, err)
	}
	if r.Sample, err = u.verify(ctx, name, l, job.pinned.Load(), job.mend); err != nil {
		return r, errors.Join(fmt.Errorf("%q (%s): %w", name, root, err), job.recordLate(ctx))
	}
	if _, ok := u.target.(StatusChecker); !ok && r.Level == VerifyPinned {
		r.Level = VerifyReceipt // the target can't be asked for more
	}
	if err := u.opts.Ledger.Finish(ctx, l.key, job.late, Finished{Source: source, Bytes: l.bytes, Level: r.Level}); err != nil {
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
	done   atomic.Int64 // shards with a receipt
	held   atomic.Int64 // shards that the target had already
	pinned atomic.Bool  // a receipt said that the DAG is complete

	archives []cid.Cid       // of the shards with a receipt; each is written by one goroutine
	late     map[int]cid.Cid // of the only shard, if it is recorded when the upload is finished; nil if it never is
	pieces   []ShardPiece    // like archives; nil if pieces are not wanted

	resend map[int]bool // shards with suspect blocks
	stray  []cid.Cid    // suspect blocks in no shard, because the base has them
	there  map[int]bool // shards that the target had already
	again  map[int]bool // shards that were sent again
	rest   *job         // sends blocks of the base, if that is needed after all

	mu    sync.Mutex
	parts map[cid.Cid]bool // archives that the target lists but no receipt accounts for
}

func newJob(u *Uploader, name, uploadName string, l layout, r *Result) *job {
	j := &job{
		u: u, name: name, uploadName: uploadName, layout: l, root: l.key.Root, result: r,
		archives: make([]cid.Cid, len(l.plan.Shards)), there: map[int]bool{}, again: map[int]bool{},
	}
	if u.opts.PieceCIDs {
		j.pieces = make([]ShardPiece, len(l.plan.Shards))
	}
	return j
}

// begin waits until nobody else is sending this root to this target, so that
// nothing is sent twice. There is no need to wait if nothing has to be sent:
// then it returns all receipts.
func (j *job) begin(ctx context.Context) (end func(), known map[int]cid.Cid, err error) {
	claiming, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(j.u.draining, func() { cancel(ErrStopped) })()
	var failed error
	end, err = j.u.opts.Ledger.Begin(claiming, j.key, func() {
		if known, failed = j.known(ctx); known != nil || failed != nil {
			cancel(nil)
			return
		}
		j.u.observe(Waiting{Name: j.name, Root: j.root})
	})
	if err != nil {
		end = func() {}
	}
	switch cause := context.Cause(claiming); {
	case failed != nil:
		end()
		return nil, nil, fmt.Errorf("%q (%s): %w", j.name, j.root, failed)
	case known != nil:
		return end, known, nil
	case err != nil && cause != nil:
		return nil, nil, cause
	}
	return end, nil, ledgerError(err)
}

// known returns the receipts of all shards, if the ledger has them and the
// target still holds the shards. Otherwise it returns nil.
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
		return ErrStopped // only a stop leaves shards out without an error
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

// resume finds the shards that need not be sent: those with a receipt in the
// ledger that the target still holds, if it can be asked. Archives that the
// target lists in addition are left in j.parts. Shards are deterministic, so
// their CIDs identify them.
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
	// Sending one shard is faster than asking for it.
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
			u.opts.Logger.Warn("the service no longer knows this upload: sending all of it again", "upload", j.name, "root", j.root)
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

// said trusts the target's word that the DAG is complete, if nothing is sent
// afterwards.
func (j *job) said(s Status, receipts map[int]cid.Cid) {
	if len(receipts) < len(j.plan.Shards) {
		j.u.roster.drop(j.root)
	} else if s.State == StatePinned {
		j.pinned.Store(true)
	}
}

// whole returns the shards that need not be sent to a target that does not list
// its shards. If it says that the DAG is complete, these are all shards without
// suspect blocks; otherwise they are those in the ledger.
func (j *job) whole(receipts map[int]cid.Cid, state State) map[int]cid.Cid {
	for i := range j.plan.Shards {
		if _, ok := receipts[i]; !ok && state == StatePinned && !j.resend[i] {
			receipts[i] = cid.Undef
		}
	}
	return receipts
}

// dropLost drops the receipts of shards that the target no longer has, if it
// can tell.
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
			return fmt.Errorf("check whether shard %d of %d is still there: %w", i+1, len(j.plan.Shards), err)
		}
		if !held {
			delete(receipts, i)
			j.u.opts.Logger.Warn("a shard that was sent is no longer there: sending it again", "upload", j.name, "shard", i+1)
		}
	}
	return nil
}

// shardsOf returns the shards in which the blocks are new, and the blocks that
// are in no shard.
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

// find computes the CID of shard i and checks whether the target lists it.
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

// read computes the CID of shard i, and its piece if pieces are wanted.
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

// isHeld counts a shard that the target had already.
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

// shardName returns the name of shard i.
func (j *job) shardName(i int) shardName {
	s := &j.plan.Shards[i]
	return shardName{root: j.root, base: j.key.Base, limit: j.plan.MaxShardBytes, index: i, first: s.First, end: s.End, size: s.Size}
}

// send sends shard i: it tries until there is a receipt, records it, and only
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
	if err := j.record(ctx, i, archive); err != nil {
		return err
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

// record records the archive of a shard that was sent. If nothing but the
// record of the finished upload comes next, they are recorded together.
func (j *job) record(ctx context.Context, i int, archive cid.Cid) error {
	if _, more := j.u.target.(Finisher); j.late != nil && len(j.plan.Shards) == 1 && j.pinned.Load() && !more && j.u.opts.Verify <= VerifyPinned {
		j.late[i] = archive
		return nil
	}
	return ledgerError(j.u.opts.Ledger.Record(ctx, j.key, i, archive))
}

// recordLate records what record left to the end of the upload.
func (j *job) recordLate(ctx context.Context) error {
	for i, archive := range j.late {
		if err := j.u.opts.Ledger.Record(ctx, j.key, i, archive); err != nil {
			return ledgerError(err)
		}
	}
	return nil
}

// attempt sends a shard once and checks the receipt.
func (u *Uploader) attempt(ctx context.Context, s *Shard) (receipt Receipt, err error) {
	if s.leave, err = u.line.enter(ctx, s.Size); err != nil {
		return Receipt{}, err
	}
	defer s.leave()
	ctx, cancel := context.WithCancel(ctx)
	receipt, err = u.target.Put(ctx, s)
	// After an early answer, a transport may read on until it notices that
	// nobody listens. Look at what it read only when it is done.
	cancel()
	s.open.Wait()
	if s.last != nil {
		defer func() {
			if err != nil {
				s.last.discredit()
			}
		}()
		if s.last.err != nil {
			// The target saw its transport fail. This is the cause.
			return Receipt{}, s.last.err
		}
	}
	if err != nil {
		return Receipt{}, err
	}
	return receipt, s.check(receipt)
}

// check reports whether the receipt is for this root and exactly these bytes.
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
		return fmt.Errorf("%w: it does not say what the target took", ErrRootMismatch)
	}
	if r.Parts != nil && !slices.Contains(r.Parts, archive) {
		return damaged{fmt.Errorf("%w: archive %s is not among the %d it lists", ErrRootMismatch, archive, len(r.Parts))}
	}
	if counted {
		blocks, payload := s.Blocks()
		if r.Blocks != 0 && r.Blocks != blocks || r.BlockBytes != 0 && r.BlockBytes != payload {
			return damaged{fmt.Errorf("%w: it counted %d blocks with %d bytes, but the shard has %d with %d", ErrRootMismatch, r.Blocks, r.BlockBytes, blocks, payload)}
		}
	}
	return nil
}

// damaged is a receipt for the right root but the wrong bytes. They may have
// been damaged on the way, so another try is worthwhile.
type damaged struct{ error }

func (e damaged) Unwrap() error                            { return e.error }
func (e damaged) Retry() (again bool, after time.Duration) { return true, 0 }

// finish commits a DAG at a target that requires it. If the target has lost
// blocks by then, finish sends their shards again.
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
		j.u.opts.Logger.Warn("the target has lost blocks: sending their shards again", "upload", j.name, "err", err)
		if n, errAgain := j.sendAgain(ctx, missing.Blocks); n == 0 || errAgain != nil {
			return cmp.Or(errAgain, err)
		}
	}
}

// mend sends the shards with missing or wrong blocks again, unless they were
// sent again before. It reports whether it sent any.
func (j *job) mend(ctx context.Context, found *VerifyError) (mended, pinned bool, err error) {
	j.pinned.Store(false)
	j.u.observe(Mending{Name: j.name, Root: j.root, Missing: len(found.Missing), Wrong: len(found.Wrong)})
	n, err := j.sendAgain(ctx, found.blocks())
	if n == 0 || err != nil {
		return false, false, err
	}
	return true, j.pinned.Load(), j.finish(ctx)
}

// sendAgain sends the shards with these blocks, except those that were sent
// again before, and returns how many it sent.
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

// baseWait is how long the target may take to notice that it has all blocks.
// After that, the blocks of the base are sent too.
const baseWait = 10 * time.Second

// sendRest sends the blocks of the base, unless the target finds the DAG
// complete without them.
func (j *job) sendRest(ctx context.Context) error {
	err := j.u.waitPinned(ctx, j.u.target.(StatusChecker), j.name, j.root, min(baseWait, j.u.opts.VerifyTimeout))
	if err == nil || !errors.Is(err, ErrIncomplete) {
		j.pinned.Store(err == nil)
		return err
	}
	j.u.opts.Logger.Warn("the target lacks blocks of an earlier upload: sending them too", "upload", j.name, "base", j.key.Base)
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

// makeWhole makes the job for the shards of the DAG without a base.
func (j *job) makeWhole() error {
	if j.rest != nil {
		return nil
	}
	l, err := j.u.whole(j.layout)
	if err != nil {
		return err
	}
	j.rest = newJob(j.u, j.name, j.uploadName, l, j.result)
	return nil
}

// addWhole adds the outcome of j.rest to that of j.
func (j *job) addWhole(shards int) {
	j.result.Shards += shards
	j.result.Sent = j.sent.Load() + j.rest.sent.Load()
	if j.rest.pinned.Load() {
		j.pinned.Store(true)
	}
}

// addShards counts shards that will be sent.
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

// each calls do for shards, as many at a time as may be in flight. After a stop
// it begins no more; that is not an error.
func (j *job) each(ctx context.Context, shards iter.Seq[int], do func(context.Context, int) error) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(j.u.opts.Transfers)
	for i := range shards {
		if gctx.Err() != nil || j.u.stopping() {
			break
		}
		g.Go(func() error {
			// The group's limit is not enough, because inputs share the slots.
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
				return nil // an error would cancel the shards in flight
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

// ledgerError wraps an error of the ledger; nil stays nil.
func ledgerError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("ledger: %w", err)
}

// Waits between attempts.
const (
	firstWait = time.Second
	mostWait  = time.Minute
	// mostAsked limits what a service can demand with Retry-After.
	mostAsked = 5 * time.Minute
)

// retry calls f until it succeeds, fails for good, or the attempts are used up.
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
			// A bit later than asked for, so that clients do not all return at
			// once.
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

// wait returns after d, or earlier with the reason to stop.
func (u *Uploader) wait(ctx context.Context, d time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(u.draining, func() { cancel(ErrStopped) })()
	return u.opts.Clock.Sleep(ctx, d)
}

// breaker ends all retries when so many attempts in a row have failed that the
// service as a whole must be down.
type breaker struct {
	tries  int64        // attempts for a shard
	most   int64        // how many shards that are not small may be in flight
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
