// Package uploader is the engine, and the front door of the library: sources
// in, verified roots out.
//
// Make an [Uploader] of a [Target] (package nftstorage speaks to a service,
// package dirtarget writes shards into a directory) and give it [Input]s:
//
//	u, err := uploader.New(target, uploader.Options{})
//	in, err := uploader.File("movie.mkv", chunker.Options{})
//	for result, err := range u.Upload(ctx, slices.Values([]uploader.Input{in})) {
//		fmt.Println(result.Root, err)
//	}
//
// Pass 1 describes an input: each byte is read and hashed once, and digests
// are kept. Pass 2 ships it: shards are regenerated from the source, sent in
// parallel, retried, receipted, recorded in the [Ledger], and then the target
// has to say that it holds the whole DAG. While one input is sent the next one
// is described.
//
// Memory does not depend on the size of an input, except for its blocks: about
// 60 bytes for each. Nothing is printed and there is no global state; what happens
// is told to an [Observer], and [Uploader.Progress] can be polled.
package uploader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/semaphore"

	"github.com/carload/carload/car"
	"github.com/carload/carload/splitter"
)

// Defaults of [Options].
const (
	DefaultTransfers      = 4
	DefaultRetries        = 5
	DefaultVerifyTimeout  = 10 * time.Minute
	DefaultMaxUploadBytes = 31 << 30
)

// leastRate keeps the pauses of a slow line well below what looks like a stall.
const leastRate = 1 << 10

// Options are the knobs of [New]. The zero value is good.
type Options struct {
	// Transfers is how many shards are in flight; 0 means DefaultTransfers. Above
	// 1, an upload of less than 256 KiB counts as an eighth: it mostly waits.
	Transfers      int
	UploadName     string // what the target calls every upload; empty for the name of each input
	MaxShardBytes  int64  // 0 means splitter.DefaultMaxShardBytes, or less if the target takes less
	MaxUploadBytes int64  // payload of one input; 0 means DefaultMaxUploadBytes, negative no limit
	Retries        int    // of a shard, after its first try; 0 means DefaultRetries, negative none
	BytesPerSecond int64  // of all shards together; 0 means no limit
	Verify         VerifyLevel
	VerifyTimeout  time.Duration // for the target to report completeness; 0 means DefaultVerifyTimeout
	SampleBlocks   int           // blocks that VerifySample fetches; 0 means DefaultSampleBlocks
	NoResume       bool          // send everything, whatever ledger and target hold
	// Base is a root that the target holds: blocks that are in it are not sent
	// to a [BlockSharer]. If it is undefined, that is what was last sent from
	// where the input is, as far as the ledger knows; NoBase is for none.
	Base   cid.Cid
	NoBase bool
	// PieceCIDs has the Filecoin pieces of shards computed as they are sent.
	// Shards that are held are read for it, and there is no base: the pieces of
	// an upload have all of its DAG.
	PieceCIDs bool

	Rehash   bool         // describe again even if the ledger has the plan of an unchanged source
	Ledger   Ledger       // nil means one that is forgotten with the Uploader
	Observer Observer     // nil for none
	Logger   *slog.Logger // nil for none
	Clock    Clock        // nil means that of the machine
}

// Clock is what waits between tries and between questions go by.
type Clock interface {
	Now() time.Time
	// Sleep returns after d, or with the cause if ctx is done before.
	Sleep(ctx context.Context, d time.Duration) error
}

// MachineClock is the [Clock] of this machine.
type MachineClock struct{}

// Now implements [Clock].
func (MachineClock) Now() time.Time { return time.Now() }

// Sleep implements [Clock].
func (MachineClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Validate tells everything that is wrong with the options.
func (o Options) Validate() error {
	var errs []error
	if o.Transfers < 0 || o.Transfers > 1024 {
		errs = append(errs, fmt.Errorf("%d transfers: must be between 1 and 1024", o.Transfers))
	}
	if err := (splitter.Options{MaxShardBytes: o.MaxShardBytes}).Validate(); err != nil {
		errs = append(errs, err)
	}
	if n := o.BytesPerSecond; n < 0 || n > 0 && n < leastRate {
		errs = append(errs, fmt.Errorf("%d bytes per second: must be at least %d, or 0 for no limit", n, leastRate))
	}
	if o.SampleBlocks < 0 {
		errs = append(errs, fmt.Errorf("a sample of %d blocks: must not be negative", o.SampleBlocks))
	}
	if o.Verify < VerifyPinned || o.Verify > VerifyFull {
		errs = append(errs, fmt.Errorf("unknown verification level %d", o.Verify))
	}
	return errors.Join(errs...)
}

func (o Options) withDefaults() Options {
	set := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	set(&o.Transfers, DefaultTransfers)
	set(&o.Retries, DefaultRetries)
	set(&o.SampleBlocks, DefaultSampleBlocks)
	if o.MaxUploadBytes == 0 {
		o.MaxUploadBytes = DefaultMaxUploadBytes
	}
	if o.VerifyTimeout == 0 {
		o.VerifyTimeout = DefaultVerifyTimeout
	}
	if o.PieceCIDs {
		o.Base, o.NoBase = cid.Undef, true
	}
	if o.Ledger == nil {
		o.Ledger = shortLedger{new(MemoryLedger)}
	}
	if o.Clock == nil {
		o.Clock = MachineClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Uploader sends inputs to a target. It is safe for concurrent use, and needs
// no closing.
type Uploader struct {
	target   Target
	opts     Options
	limits   Limits // of the target
	packer   car.Packer
	fan      *fan                // nil outside of a group
	slots    *semaphore.Weighted // transfers, shared by all inputs
	line     *line
	roster   roster
	progress counters
	breaker  breaker

	// draining is done once Drain was called.
	draining context.Context //nolint:containedctx // it is the Uploader's own state
	drain    context.CancelCauseFunc
}

// New makes an uploader.
func New(target Target, opts Options) (*Uploader, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("uploader options: %w", err)
	}
	if err := canVerify(target, opts.Verify); err != nil {
		return nil, err
	}
	opts = opts.withDefaults()
	limits, err := opts.limit(target)
	if err != nil {
		return nil, err
	}
	u := &Uploader{target: target, opts: opts, limits: limits}
	u.draining, u.drain = context.WithCancelCause(context.Background())
	u.slots = semaphore.NewWeighted(int64(u.opts.Transfers) * wholeSlot)
	u.packer.Pieces = opts.PieceCIDs
	u.breaker.tries, u.breaker.most = int64(max(u.opts.Retries, 0)+1), int64(u.opts.Transfers)
	u.line = newLine(u.draining, u.opts.BytesPerSecond)
	return u, nil
}

// Drain asks for a stop: no new shard is started, those in flight are
// finished, and uploads that are not complete end with [ErrStopped]. To stop
// at once, cancel the context. Drain may be called more than once.
func (u *Uploader) Drain() { u.drain(ErrStopped) }

func (u *Uploader) stopping() bool { return u.draining.Err() != nil }
