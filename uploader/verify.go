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

// VerifyLevel is how much is checked before an upload is called done.
type VerifyLevel int

const (
	// VerifyPinned checks the receipt of each shard, and then waits until the
	// target says that the DAG is complete. It is the default.
	VerifyPinned VerifyLevel = iota
	// VerifyReceipt stops at the receipts.
	VerifyReceipt
	// VerifySample fetches random blocks back as well, and hashes them.
	VerifySample
	// VerifyFull fetches the whole DAG back and hashes all of it.
	VerifyFull
)

// DefaultSampleBlocks finds a loss of 1 % of the blocks with a probability of
// 95 %.
const DefaultSampleBlocks = 300

var verifyLevels = [...]string{VerifyPinned: "pinned", VerifyReceipt: "receipt", VerifySample: "sample", VerifyFull: "full"}

// String is the name of the level on the command line.
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

// SampleReport is what [VerifySample] bought.
type SampleReport struct {
	Blocks int `json:"blocks"` // of the DAG
	Sample int `json:"sample"` // fetched and found right
}

// confidence is the probability that a SampleReport speaks of.
const confidence = 0.95

// Loss is the least share of the blocks, between 0 and 1, whose loss the
// sample would have shown with a probability of 95 %.
func (r *SampleReport) Loss() float64 {
	if r.Sample >= r.Blocks {
		return 0
	}
	// A sample without repetition finds a little more than this says.
	return 1 - math.Pow(1-confidence, 1/float64(r.Sample))
}

func (r *SampleReport) String() string {
	if r.Sample >= r.Blocks {
		return fmt.Sprintf("all %d blocks", r.Blocks)
	}
	return fmt.Sprintf("%d of %d blocks: any loss above %.2g %% would have been seen with 95 %% probability", r.Sample, r.Blocks, 100*r.Loss())
}

// VerifyError says what a target did not give back as it was sent. It matches
// [ErrIncomplete], and [car.ErrCorrupt] if there were blocks with other bytes.
type VerifyError struct {
	Root    cid.Cid
	Missing []cid.Cid // not there, or not to be had while others were
	Wrong   []cid.Cid // with bytes that do not match
	Shards  []int     // that would mend it, from 0; nil if the plan is not known
}

func (e *VerifyError) blocks() []cid.Cid { return slices.Concat(e.Missing, e.Wrong) }

func (e *VerifyError) Error() string {
	first := e.blocks()[0]
	s := fmt.Sprintf("of the blocks, the service lacks %d and has %d with other bytes, first %s", len(e.Missing), len(e.Wrong), first)
	if n := len(e.Shards); n > 0 {
		s += fmt.Sprintf("; sending %d of the shards again mends it, first shard %d", n, e.Shards[0]+1)
	}
	return s
}

// Is reports whether the finding means target.
func (e *VerifyError) Is(target error) bool {
	return target == ErrIncomplete || target == car.ErrCorrupt && len(e.Wrong) > 0
}

// Waits between two questions for a status.
const (
	firstPoll = 50 * time.Millisecond
	mostPoll  = 5 * time.Second
)

// canVerify tells whether a target has what a level needs.
func canVerify(target Target, level VerifyLevel) error {
	_, ok := target.(BlockFetcher)
	if !ok && level >= VerifySample {
		return fmt.Errorf("target %s gives no blocks back: it can't be verified at level %s", target, level)
	}
	return nil
}

// Verify checks what the target has of a DAG, without its source: that the
// target calls it complete and, as the options' level asks, samples of its
// blocks or all of them. The first finding that is not as it should be is an
// error matching [ErrIncomplete]; for blocks it is a [*VerifyError], and the
// ledger remembers them, so that the next upload sends their shards again; also
// those that were found before the verification failed for another reason. A
// target that can't be asked for what the level needs is an error, too.
func (u *Uploader) Verify(ctx context.Context, root cid.Cid) (*SampleReport, error) {
	if _, ok := u.target.(StatusChecker); !ok && u.opts.Verify < VerifySample {
		return nil, fmt.Errorf("%s: target %s does not tell what it holds: at level %s nothing would be verified", root, u.target, u.opts.Verify)
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

// verify checks what the level asks for. The layout has only its key if the
// blocks are not known. Pinned says that the target just said that the DAG is
// complete. If mend is not nil it is told what was found, and then that is
// looked at again, until all is well or mend did nothing
// about it.
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
			return report, fmt.Errorf("%w; then the rest could not be looked at: %w", found, err)
		}
		if mend == nil {
			return report, found
		}
		mended, pin, err := mend(ctx, found)
		if err != nil {
			return report, fmt.Errorf("%w; that could not be mended: %w", found, err)
		}
		if !mended {
			return report, found
		}
		pinned = pin
	}
}

// look does what the level asks for.
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

// lookAgain fetches blocks that were missing or wrong, and all below them that
// was not seen for that reason.
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

// suspect has the ledger remember blocks, also if ctx is done: what was found
// is true. Unless all blocks were looked at, those that it remembers already
// may be lacking still.
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

// waitPinned asks until the target says that the DAG is complete.
func (u *Uploader) waitPinned(ctx context.Context, checker StatusChecker, name string, root cid.Cid, timeout time.Duration) error {
	deadline := u.opts.Clock.Now().Add(timeout)
	for poll := firstPoll; ; poll = min(2*poll, mostPoll) {
		status, err := u.status(ctx, checker, name, root)
		switch {
		case errors.Is(err, ErrNotFound):
			status.State = "not known to it"
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

// status asks the target, and again if that can help.
func (u *Uploader) status(ctx context.Context, checker StatusChecker, name string, root cid.Cid) (Status, error) {
	var status Status
	_, err := u.retry(ctx, name, NoShard, func() (err error) {
		status, err = checker.Status(ctx, root)
		return err
	})
	return status, err
}
