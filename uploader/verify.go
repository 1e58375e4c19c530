package uploader

import (
	"context"
	"encoding"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
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
	Blocks int // of the DAG
	Sample int // fetched and found right
}

// Waits between two questions for a status.
const (
	firstPoll = 50 * time.Millisecond
	mostPoll  = 5 * time.Second
)

// verify checks what the level asks for, after all receipts.
func (u *Uploader) verify(ctx context.Context, j *job) error {
	if u.opts.Verify == VerifyReceipt {
		return nil
	}
	if checker, ok := u.target.(StatusChecker); ok {
		if err := u.waitPinned(ctx, checker, j.root); err != nil {
			return err
		}
	}
	return nil
}

// waitPinned asks until the target says that the DAG is complete.
func (u *Uploader) waitPinned(ctx context.Context, checker StatusChecker, root cid.Cid) error {
	deadline := time.Now().Add(u.opts.VerifyTimeout)
	for poll := firstPoll; ; poll = min(2*poll, mostPoll) {
		status, err := u.status(ctx, checker, root)
		switch {
		case errors.Is(err, ErrNotFound):
			status.State = "not known to the service"
		case err != nil:
			return err
		case status.State == StatePinned:
			return nil
		}
		if status.State == StateFailed || time.Now().Add(poll).After(deadline) {
			return fmt.Errorf("%w: the service reports the DAG as %s", ErrIncomplete, status.State)
		}
		if err := u.wait(ctx, poll); err != nil {
			return err
		}
	}
}

// status asks the target, and again if that can help.
func (u *Uploader) status(ctx context.Context, checker StatusChecker, root cid.Cid) (Status, error) {
	var status Status
	_, err := u.retry(ctx, root.String(), -1, func() (err error) {
		status, err = checker.Status(ctx, root)
		return err
	})
	return status, err
}
