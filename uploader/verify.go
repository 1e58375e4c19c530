package uploader

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
)

// VerifyLevel is how much is checked before an upload counts as done.
type VerifyLevel int

const (
	// VerifyPinned checks the receipt of each shard, and then waits until the
	// target reports the DAG as complete. It is the default.
	VerifyPinned VerifyLevel = iota
	// VerifyReceipt checks only the receipts.
	VerifyReceipt
	// VerifySample additionally fetches random blocks and hashes them.
	VerifySample
	// VerifyFull additionally fetches the whole DAG and hashes all of it.
	VerifyFull
)

// DefaultSampleBlocks detects a loss of 1 % of the blocks with a probability of
// 95 %.
const DefaultSampleBlocks = 300

var verifyLevels = [...]string{VerifyPinned: "pinned", VerifyReceipt: "receipt", VerifySample: "sample", VerifyFull: "full"}

// String returns "receipt", "pinned", "sample" or "full".
func (v VerifyLevel) String() string {
	if v < 0 || int(v) >= len(verifyLevels) {
		return fmt.Sprintf("VerifyLevel(%d)", int(v))
	}
	return verifyLevels[v]
}

// MarshalText implements encoding.TextMarshaler.
func (v VerifyLevel) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (v *VerifyLevel) UnmarshalText(text []byte) error {
	for i, name := range verifyLevels {
		if name == string(text) {
			*v = VerifyLevel(i)
			return nil
		}
	}
	return fmt.Errorf("unknown verification level %q: use receipt, pinned, sample or full", text)
}

var _ encoding.TextUnmarshaler = (*VerifyLevel)(nil)

// SampleReport is the result of [VerifySample].
type SampleReport struct {
	Blocks int `json:"blocks"` // number of blocks in the DAG
	Sample int `json:"sample"` // number of blocks fetched and found correct
}

// confidence is the probability for which Loss holds.
const confidence = 0.95

// Loss is the smallest fraction of the blocks, between 0 and 1, whose loss the
// sample would have detected with a probability of 95 %.
func (r *SampleReport) Loss() float64 {
	if r.Sample >= r.Blocks {
		return 0
	}
	// Sampling without repetition is slightly better than this formula.
	return 1 - math.Pow(1-confidence, 1/float64(r.Sample))
}

func (r *SampleReport) String() string {
	if r.Sample >= r.Blocks {
		return fmt.Sprintf("all %d blocks", r.Blocks)
	}
	return fmt.Sprintf("%d of %d blocks: any loss above %.2g %% would have been seen with 95 %% probability", r.Sample, r.Blocks, 100*r.Loss())
}

// VerifyError lists the blocks that a target did not return as they were sent.
// It matches [ErrIncomplete], and also [car.ErrCorrupt] if there are wrong
// blocks.
type VerifyError struct {
	Root    cid.Cid
	Missing []cid.Cid // not found, or not available although others were
	Wrong   []cid.Cid // blocks whose bytes do not match
	Shards  []int     // indexes of the shards that would repair it; nil if the plan is unknown
}

func (e *VerifyError) blocks() []cid.Cid { return slices.Concat(e.Missing, e.Wrong) }

func (e *VerifyError) Error() string {
	first := e.blocks()[0]
	s := fmt.Sprintf("the service lacks %d blocks and has %d with wrong bytes, first %s", len(e.Missing), len(e.Wrong), first)
	if n := len(e.Shards); n > 0 {
		s += fmt.Sprintf("; sending %d shards again repairs it, first shard %d", n, e.Shards[0]+1)
	}
	return s
}

// Is reports whether e matches target.
func (e *VerifyError) Is(target error) bool {
	return target == ErrIncomplete || target == car.ErrCorrupt && len(e.Wrong) > 0
}

// Waits between status requests.
const (
	firstPoll = 50 * time.Millisecond
	mostPoll  = 5 * time.Second
)

// canVerify returns an error if the target cannot do what the level needs.
func canVerify(target Target, level VerifyLevel) error {
	_, ok := target.(BlockFetcher)
	if !ok && level >= VerifySample {
		return fmt.Errorf("target %s does not return blocks: it can't be verified at level %s", target, level)
	}
	return nil
}

// Verify checks what the target has of a DAG, without its source. It checks
// that the target reports the DAG as complete and, if [Options.Verify] asks for
// it, fetches a sample of its blocks or all of them. If that fails, the error
// matches [ErrIncomplete]. For bad blocks it is a [*VerifyError], and the
// ledger remembers them, so that the next upload sends their shards again, even
// if the verification then failed for another reason. It is an error if the
// target cannot do what the level needs.
func (u *Uploader) Verify(ctx context.Context, root cid.Cid) (*SampleReport, error) {
	if _, ok := u.target.(StatusChecker); !ok && u.opts.Verify < VerifySample {
		return nil, fmt.Errorf("%s: target %s does not report what it holds: at level %s nothing would be verified", root, u.target, u.opts.Verify)
	}
	key := UploadKey{Target: u.target.String(), Root: root}
	report, err := u.verify(ctx, root.String(), layout{key: key}, false, nil)
	if err != nil {
		return report, fmt.Errorf("%s: %w", root, err)
	}
	if u.opts.Verify == VerifyFull {
		err = ledgerError(u.opts.Ledger.Suspect(ctx, key, nil))
	}
	return report, err
}

// verify checks what the level asks for. If the blocks are unknown, the layout
// has only a key. pinned says that the target has just reported the DAG as
// complete. If mend is not nil, it is called with the bad blocks, which are
// then checked again, until all is well or mend changed nothing.
func (u *Uploader) verify(ctx context.Context, name string, l layout, pinned bool, mend func(context.Context, *VerifyError) (mended, pinned bool, err error)) (*SampleReport, error) {
	if u.opts.Verify == VerifyReceipt && l.all != nil {
		return nil, nil //nolint:nilnil // there is no sample to report
	}
	w := newWalk(u, name, l.all)
	var report *SampleReport
	var found *VerifyError
	for round := 0; ; round++ {
		if checker, ok := u.target.(StatusChecker); ok && !pinned {
			if err := u.waitPinned(ctx, checker, name, l.key.Root, u.opts.VerifyTimeout); err != nil {
				return nil, err
			}
		}
		var err error
		if round == 0 {
			report, err = w.look(ctx, l)
		} else {
			err = w.lookAgain(ctx, found.blocks())
		}
		if w.bad == nil {
			return report, err
		}
		found, w.bad = w.bad, nil
		found.Root = l.key.Root
		if l.plan != nil {
			shards, _ := shardsOf(l.plan, found.blocks())
			found.Shards = slices.Sorted(maps.Keys(shards))
		}
		all := round == 0 && err == nil && u.opts.Verify == VerifyFull
		if err := u.suspect(ctx, l.key, found.blocks(), all); err != nil {
			return report, errors.Join(found, ledgerError(err))
		}
		if err != nil {
			return report, fmt.Errorf("%w; the rest could not be checked: %w", found, err)
		}
		if mend == nil {
			return report, found
		}
		mended, pin, err := mend(ctx, found)
		if err != nil {
			return report, fmt.Errorf("%w; repairing it failed: %w", found, err)
		}
		if !mended {
			return report, found
		}
		pinned = pin
	}
}

// look checks what the level asks for.
func (w *walk) look(ctx context.Context, l layout) (*SampleReport, error) {
	switch {
	case w.u.opts.Verify == VerifyFull:
		return nil, w.all(ctx, l.key.Root)
	case w.u.opts.Verify == VerifySample && l.all != nil:
		return w.sample(ctx, l.all.Len(), func(i int) (cid.Cid, int) {
			b := l.all.At(i)
			return b.Cid, b.Size()
		})
	case w.u.opts.Verify == VerifySample:
		list, err := w.list(ctx, l.key.Root)
		if err != nil || w.bad != nil {
			return nil, err
		}
		return w.sample(ctx, len(list), func(i int) (cid.Cid, int) { return list[i], car.MaxBlockBytes })
	}
	return nil, nil //nolint:nilnil // nothing more is asked for
}

// lookAgain fetches bad blocks again. At level full it also fetches everything
// below them that could not be reached before.
func (w *walk) lookAgain(ctx context.Context, blocks []cid.Cid) error {
	if w.u.opts.Verify == VerifyFull {
		return w.all(ctx, blocks...)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(w.u.opts.Transfers)
	for _, c := range blocks {
		g.Go(func() error {
			_, err := w.fetch(ctx, c, car.MaxBlockBytes)
			return err
		})
	}
	return g.Wait()
}

// suspect stores bad blocks in the ledger, even if ctx is done. Unless all
// blocks were checked, it keeps the suspects that the ledger has already, since
// they may still be bad.
func (u *Uploader) suspect(ctx context.Context, key UploadKey, blocks []cid.Cid, all bool) error {
	ctx = context.WithoutCancel(ctx)
	if !all {
		known, err := u.opts.Ledger.Suspects(ctx, key)
		if err != nil {
			return err
		}
		have := make(map[cid.Cid]bool, len(blocks))
		for _, c := range blocks {
			have[c] = true
		}
		for _, c := range known {
			if len(blocks) < mostSuspects && !have[c] {
				blocks = append(blocks, c)
			}
		}
	}
	return u.opts.Ledger.Suspect(ctx, key, blocks)
}

// waitPinned asks until the target reports the DAG as complete.
func (u *Uploader) waitPinned(ctx context.Context, checker StatusChecker, name string, root cid.Cid, timeout time.Duration) error {
	deadline := u.opts.Clock.Now().Add(timeout)
	for poll := firstPoll; ; poll = min(2*poll, mostPoll) {
		status, err := u.status(ctx, checker, name, root)
		switch {
		case errors.Is(err, ErrNotFound):
			status.State = "unknown"
		case err != nil:
			return err
		case status.State == StatePinned:
			return nil
		}
		if status.State == StateFailed || u.opts.Clock.Now().Add(poll).After(deadline) {
			return fmt.Errorf("%w: the service reports the DAG as %s", ErrIncomplete, strconv.Quote(string(status.State)))
		}
		if err := u.wait(ctx, poll); err != nil {
			return err
		}
	}
}

// status asks the target for the status of a DAG, with retries.
func (u *Uploader) status(ctx context.Context, checker StatusChecker, name string, root cid.Cid) (Status, error) {
	var status Status
	_, err := u.retry(ctx, name, NoShard, func() (err error) {
		status, err = checker.Status(ctx, root)
		return err
	})
	return status, err
}
