package uploader

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
)

// Batchable is an [Input] of one file that can also be an entry of a directory,
// with the same CID.
type Batchable interface {
	Input
	Sized
	Source() car.Source
	Options() chunker.Options
}

// Limits of a batch. All of it is described at once, and takes a few hundred
// bytes of memory for each entry.
const (
	mostBatched    = 1 << 14
	mostBatchBytes = 1 << 30
)

// Batch is an [Input] of several files that are uploaded together, as entries
// of one directory, in a few requests instead of one or more for each file.
// Each file has the CID that it would have by itself, and is verified as part
// of the batch.
//
// The ledger remembers which batch a file went into. If the file has not
// changed and the target still holds that batch, the file is not sent again;
// the others form a new batch. Files that cannot be entries, and files that
// change while they are sent, are uploaded one by one.
type Batch struct {
	members []Batchable
	names   []string // of the entries
	bytes   int64
	taken   map[string]int // entry names, and how often each was asked for
}

// Batches groups files smaller than below into batches, and passes other inputs
// through unchanged. A batch comes after all inputs that came before its last
// file.
func Batches(inputs iter.Seq[Input], below int64) iter.Seq[Input] {
	return func(yield func(Input) bool) {
		b := new(Batch)
		for in := range inputs {
			f, ok := in.(Batchable)
			small := ok && f.Size() < below
			if small && b.takes(f) {
				b.add(f)
				continue
			}
			if small { // it starts the next batch
				in, b = b, new(Batch)
				b.add(f)
			}
			if !yield(in) {
				_ = b.Close() // unused so far
				return
			}
		}
		if len(b.members) > 0 {
			yield(b)
		}
	}
}

func (b *Batch) takes(f Batchable) bool {
	if len(b.members) == 0 {
		return true
	}
	ours, its := b.members[0].Options(), f.Options()
	return ours.Profile == its.Profile && ours.Mode == its.Mode && ours.ModTime == its.ModTime &&
		len(b.members) < mostBatched && b.bytes+f.Size() <= mostBatchBytes
}

func (b *Batch) add(f Batchable) {
	b.members = append(b.members, f)
	b.names = append(b.names, b.entryName(f.UploadName()))
	b.bytes += f.Size()
}

// entryName returns a name that no other entry has.
func (b *Batch) entryName(name string) string {
	if b.taken == nil {
		b.taken = map[string]int{}
	}
	if name == "" {
		name = "file"
	}
	free := name
	for b.taken[free] > 0 {
		b.taken[name]++
		ext := filepath.Ext(name)
		free = strings.TrimSuffix(name, ext) + "-" + strconv.Itoa(b.taken[name]) + ext
	}
	b.taken[free]++
	return free
}

// Name implements [Input].
func (b *Batch) Name() string { return fmt.Sprintf("batch of %d files", len(b.members)) }

// UploadName implements [Input].
func (b *Batch) UploadName() string {
	if len(b.names) < 2 {
		return strings.Join(b.names, "")
	}
	return fmt.Sprintf("%s and %d more", b.names[0], len(b.names)-1)
}

// Close implements [Input].
func (b *Batch) Close() error {
	var errs []error
	for _, m := range b.members {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Describe implements [Input]. Files that cannot be entries are left out.
func (b *Batch) Describe(ctx context.Context, read *atomic.Int64) (DAG, error) {
	if len(b.members) == 0 {
		return nil, errors.New("the batch is empty")
	}
	tree := chunker.NewTree()
	for i, m := range b.members {
		if err := tree.AddFile(b.names[i], m.Source(), chunker.Stat{}); err != nil {
			return nil, err
		}
	}
	opts := b.members[0].Options()
	opts.Read, opts.SkipRefused = read, true
	opts.Refused = func(chunker.Refusal) {}
	dag, err := tree.Build(ctx, opts)
	if err != nil {
		return nil, err
	}
	return batchDAG{dag}, nil
}

// only returns a batch of the chosen members, with the same names.
func (b *Batch) only(takes func(i int) bool) *Batch {
	some := new(Batch)
	for i, m := range b.members {
		if takes(i) {
			some.members, some.names, some.bytes = append(some.members, m), append(some.names, b.names[i]), some.bytes+m.Size()
		}
	}
	return some
}

// batchDAG is the DAG of a batch.
type batchDAG struct{ *chunker.DAG }

// roots returns the roots of the members, undefined for those left out.
func (d batchDAG) roots(b *Batch) []cid.Cid {
	by := make(map[string]cid.Cid, len(b.names))
	for e := range d.Entries() {
		by[e.Name] = e.Cid
	}
	roots := make([]cid.Cid, len(b.names))
	for i, name := range b.names {
		roots[i] = by[name]
	}
	return roots
}

// batchOf returns the batch behind an input, or nil.
func batchOf(in Input) *Batch {
	switch in := in.(type) {
	case *Batch:
		return in
	case part:
		return batchOf(in.Input)
	}
	return nil
}

// batchRun is the upload of a batch.
type batchRun struct {
	u     *Uploader
	in    Input  // closed at the end
	whole *Batch // all members

	rest  *Batch // members that are sent together
	dag   batchDAG
	roots []cid.Cid // of the rest
	alone []Batchable
	held  []Result // members that are in an earlier batch
	sum   Result   // result of the batch itself
	err   error    // applies to all of rest
}

// describeBatch runs pass 1 of a batch, and looks for members that the target
// has in earlier batches.
func (u *Uploader) describeBatch(ctx context.Context, in Input, b *Batch) *batchRun {
	u.progress.inputs.Add(int64(len(b.members)))
	u.progress.toHash.Add(b.bytes)
	run := &batchRun{u: u, in: in, whole: b, rest: b, sum: Result{Name: b.Name(), Members: len(b.members), Level: u.opts.Verify}}
	ctx, stop := u.untilDrained(ctx)
	defer stop()
	if run.describe(ctx, in, &u.progress.hashed); run.err != nil {
		return run
	}
	known, err := run.known(ctx)
	if err != nil {
		run.err = err
		return run
	}
	run.keep(ctx, func(i int) bool {
		batch, ok := known[i]
		if ok {
			m := b.members[i]
			run.held = append(run.held, Result{Name: m.Name(), Root: run.roots[i], Bytes: m.Size(), Level: u.opts.Verify, Batch: batch, Entry: b.names[i]})
		}
		return !ok
	})
	return run
}

// describe describes the rest.
func (r *batchRun) describe(ctx context.Context, in Input, read *atomic.Int64) {
	r.roots = nil
	dag, err := in.Describe(ctx, read)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		} else {
			err = &SourceError{err}
		}
		r.err = fmt.Errorf("describe %q: %w", in.Name(), err)
		return
	}
	r.dag = dag.(batchDAG)
	r.roots = r.dag.roots(r.rest)
}

// keep keeps the chosen members of the rest, and describes it again if any were
// dropped. Members that were refused as entries, and a single remaining member,
// are moved to alone.
func (r *batchRun) keep(ctx context.Context, takes func(i int) bool) {
	for r.err == nil {
		before, roots := r.rest, r.roots
		rest := before.only(func(i int) bool {
			if !takes(i) {
				return false
			}
			if !roots[i].Defined() || r.u.opts.checkSize("", before.members[i].Size()) != nil {
				r.alone = append(r.alone, before.members[i])
				return false
			}
			return true
		})
		if len(rest.members) == len(before.members) && len(rest.members) > 1 {
			return
		}
		r.u.fan.leave(r.u, r.dag.Root())
		if r.rest = rest; len(rest.members) < 2 {
			r.alone = append(r.alone, rest.members...)
			r.rest = new(Batch)
			return
		}
		r.describe(ctx, rest, new(atomic.Int64))
		takes = func(int) bool { return true }
	}
}

// ofBatch is the ledger's key for a member of a batch: an upload without shards
// of its own, whose blocks are all in the base, the batch.
func (u *Uploader) ofBatch(member, batch cid.Cid) UploadKey {
	return UploadKey{Target: u.target.String(), Root: member, Base: batch}
}

// known finds the members that have not changed since they were sent in a batch
// that the target still holds. It returns their batches by index.
func (r *batchRun) known(ctx context.Context) (map[int]cid.Cid, error) {
	u := r.u
	if _, ok := u.target.(StatusChecker); !ok || u.opts.NoResume || u.opts.PieceCIDs {
		return nil, nil
	}
	known := map[int]cid.Cid{}
	holds := map[cid.Cid]bool{}
	for i, m := range r.rest.members {
		at := location(m)
		if at == "" || !r.roots[i].Defined() {
			continue
		}
		last, err := u.opts.Ledger.Last(ctx, u.target.String(), at)
		if err != nil {
			return nil, ledgerError(err)
		}
		batch := last.Base
		if !batch.Defined() || last != u.ofBatch(r.roots[i], batch) {
			continue
		}
		if _, ok := holds[batch]; !ok {
			n, err := u.holdsBatch(ctx, r.rest.Name(), batch)
			if err != nil {
				return nil, fmt.Errorf("%q (%s): %w", r.rest.Name(), batch, err)
			}
			holds[batch] = n > 0
			r.sum.Shards += n
			r.sum.Held += n
		}
		if holds[batch] {
			known[i] = batch
		}
	}
	return known, nil
}

// holdsBatch returns how many shards of an uploaded batch the target holds, or
// 0 if any is missing.
func (u *Uploader) holdsBatch(ctx context.Context, name string, root cid.Cid) (int, error) {
	key := UploadKey{Target: u.target.String(), Root: root, MaxShardBytes: u.opts.MaxShardBytes}
	receipts, err := u.opts.Ledger.Receipts(ctx, key)
	if err != nil || len(receipts) == 0 {
		return 0, ledgerError(err)
	}
	suspects, err := u.opts.Ledger.Suspects(ctx, key)
	if err != nil || len(suspects) > 0 {
		return 0, ledgerError(err)
	}
	status, err := u.statusOf(ctx, u.target.(StatusChecker), name, root, false)
	switch {
	case errors.Is(err, ErrNotFound):
		u.opts.Logger.Warn("the service no longer knows a batch: sending its files again", "batch", root)
		return 0, ledgerError(u.opts.Ledger.Forget(ctx, key))
	case err != nil:
		return 0, fmt.Errorf("ask what the service holds: %w", err)
	case status.State != StatePinned:
		return 0, nil
	}
	for _, archive := range receipts {
		if status.Parts != nil && !slices.Contains(status.Parts, archive) {
			return 0, nil
		}
	}
	if u.opts.Verify > VerifyReceipt {
		_, err = u.verify(ctx, name, layout{key: key}, true, nil)
	}
	var found *VerifyError
	if errors.As(err, &found) {
		u.observe(Mending{Name: name, Root: root, Missing: len(found.Missing), Wrong: len(found.Wrong)})
		return 0, nil // the ledger knows the blocks, so they are sent again
	}
	return len(receipts), err
}

// send runs pass 2, and reports the outcome of each member and of the batch.
func (r *batchRun) send(ctx context.Context, outcomes chan<- outcome) {
	u := r.u
	tell := func(res Result, err error) {
		u.progress.inputsDone.Add(1)
		outcomes <- outcome{res, err}
	}
	for _, res := range r.held {
		tell(res, nil)
	}
	for r.err == nil && len(r.rest.members) > 0 {
		changed := r.sendRest(ctx)
		if len(changed) == 0 || !errors.Is(r.err, ErrSourceChanged) {
			for _, m := range r.rest.members {
				if changed[m.Source().Name()] {
					r.alone = append(r.alone, m)
				}
			}
			r.tellRest(ctx, changed, tell)
			r.rest = new(Batch)
			break
		}
		// The upload does not count: send the others without what changed.
		r.err = nil
		rest := r.rest
		r.keep(ctx, func(i int) bool {
			if changed[rest.members[i].Source().Name()] {
				r.alone = append(r.alone, rest.members[i])
				return false
			}
			return true
		})
	}
	for i, m := range r.rest.members { // that were not even sent
		res := Result{Name: m.Name(), Bytes: m.Size()}
		if i < len(r.roots) {
			res.Root = r.roots[i]
		}
		tell(res, r.err)
	}
	for _, m := range r.alone {
		l, dag, res, err := u.describe(ctx, m)
		if err == nil {
			res, err = u.ship(ctx, m, l, dag)
		}
		tell(res, err)
	}
	outcomes <- outcome{r.sum, errors.Join(r.err, r.in.Close())}
}

// sendRest sends the rest as one upload, and returns the names of the sources
// that changed after they were described.
func (r *batchRun) sendRest(ctx context.Context) map[string]bool {
	u := r.u
	changed := map[string]bool{}
	note := func(err error) {
		var s *car.SourceChangedError
		if errors.As(err, &s) {
			changed[s.Name] = true
		}
	}
	root := r.dag.Root()
	l, err := u.plan(ctx, r.rest, r.dag, false)
	if err != nil {
		u.fan.leave(u, root)
		r.err = err
		return nil
	}
	for i, m := range r.rest.members {
		u.observe(Described{Name: m.Name(), Root: r.roots[i], Bytes: m.Size(), Batch: root})
	}
	res, err := u.send(ctx, r.rest.Name(), r.rest.UploadName(), "", l)
	r.sum.Root, r.sum.Bytes, r.sum.Blocks, r.sum.Sample, r.sum.Pieces = root, r.dag.Size(), res.Blocks, res.Sample, res.Pieces
	r.sum.Level = res.Level
	r.sum.Sent += res.Sent
	if err != nil {
		r.err = err
		note(err)
		return changed
	}
	r.sum.Shards += res.Shards
	r.sum.Held += res.Held
	for err := range r.dag.Changes(ctx) {
		if note(err); !errors.Is(err, ErrSourceChanged) {
			r.err = err
		}
	}
	return changed
}

// finishers is how many members are written to the ledger at the same time, so
// that they share its sync.
const finishers = 64

// tellRest reports the outcome of the rest, except for members that changed.
func (r *batchRun) tellRest(ctx context.Context, changed map[string]bool, tell func(Result, error)) {
	u := r.u
	root := r.dag.Root()
	errs := make([]error, len(r.rest.members))
	var g errgroup.Group
	g.SetLimit(finishers)
	for i, m := range r.rest.members {
		at := location(m)
		if errs[i] = r.err; r.err != nil || at == "" || changed[m.Source().Name()] {
			continue
		}
		g.Go(func() error {
			errs[i] = ledgerError(u.opts.Ledger.Finish(ctx, u.ofBatch(r.roots[i], root), nil, Finished{Source: at, Bytes: m.Size(), Level: r.sum.Level}))
			return nil
		})
	}
	_ = g.Wait() // each member has its own error
	for i, m := range r.rest.members {
		if changed[m.Source().Name()] {
			continue
		}
		if errs[i] == nil {
			u.observe(Verified{Name: m.Name(), Root: r.roots[i], Level: r.sum.Level})
		}
		tell(Result{Name: m.Name(), Root: r.roots[i], Bytes: m.Size(), Level: r.sum.Level, Batch: root, Entry: r.rest.names[i]}, errs[i])
	}
}

var (
	_ Input     = (*Batch)(nil)
	_ Batchable = (*fileInput)(nil)
)
