// Package uploader is the engine and the entry point of the library: sources go
// in, verified roots come out.
//
// Make an [Uploader] for a [Target] and give it [Input]s:
//
//	u, err := uploader.New(target, uploader.Options{})
//	in, err := uploader.File("movie.mkv", chunker.Options{})
//	for result, err := range u.Upload(ctx, slices.Values([]uploader.Input{in})) {
//		fmt.Println(result.Root, err)
//	}
//
// Packages below this one provide targets: nftstorage for a service with the
// NFT.Storage API, kubo for an IPFS node, cluster for an IPFS Cluster, bucket
// for S3, and dirtarget for a directory of CAR files. Inputs are made by
// [File], [Path], [Tree], [Stream], [Source] and [CAR].
//
// An upload has two passes. Pass 1 describes an input: it reads and hashes each
// byte once, and keeps digests. Pass 2 sends the shards: it reads the source
// again, sends several shards in parallel, retries, checks the receipt of each
// shard, and records it in the [Ledger], so that an interrupted upload can go
// on. Then the target has to confirm that it holds the whole DAG;
// [Options.Verify] can ask for more. While one input is sent, the next one is
// described.
//
// Memory does not depend on the size of an input, except for about 60 bytes for
// each block. The package prints nothing and has no global state. An [Observer]
// receives events, and [Uploader.Progress] can be polled.
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

// Options configure [New]. The zero value is a good default.
type Options struct {
	// Transfers is how many shards may be in flight; 0 means DefaultTransfers.
	// If it is more than 1, an upload of at most 256 KiB counts as an eighth,
	// since it mostly waits.
	Transfers      int
	UploadName     string // name of every upload at the target; empty means the name of each input
	MaxShardBytes  int64  // 0 means splitter.DefaultMaxShardBytes, or the target's limit if that is smaller or each DAG has to fit into one shard
	MaxUploadBytes int64  // limit for the payload of an input; 0 means DefaultMaxUploadBytes, negative no limit
	Retries        int    // attempts for a shard after the first; 0 means DefaultRetries, negative none
	BytesPerSecond int64  // rate limit for all shards together; 0 means no limit
	Verify         VerifyLevel
	VerifyTimeout  time.Duration // how long the target may take to report the DAG as complete; 0 means DefaultVerifyTimeout
	SampleBlocks   int           // number of blocks that VerifySample fetches; 0 means DefaultSampleBlocks
	NoResume       bool          // send everything, whatever the ledger says and the target holds
	// Base is a root that the target holds. Its blocks are not sent to a
	// [BlockSharer]. If Base is undefined, the base is what was last uploaded
	// from the input's location, according to the ledger. NoBase turns this
	// off.
	Base   cid.Cid
	NoBase bool
	// PieceCIDs computes the Filecoin pieces of shards as they are sent. Shards
	// that the target already holds are read for this. It implies NoBase, so
	// that the pieces contain all of the DAG.
	PieceCIDs bool

	Rehash   bool         // describe again, even if the ledger has the description of an unchanged source
	Ledger   Ledger       // nil means a ledger in memory that is lost with the Uploader
	Observer Observer     // nil means none
	Logger   *slog.Logger // nil means none
	Clock    Clock        // nil means the system clock
}

// Clock measures the waits between attempts and between status requests.
type Clock interface {
	Now() time.Time
	// Sleep returns nil after d, or the cause if ctx ends first.
	Sleep(ctx context.Context, d time.Duration) error
}

// MachineClock is the system clock.
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

// Validate reports everything that is wrong with the options.
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

// Uploader sends inputs to a target. It is safe for concurrent use, and does
// not need to be closed.
type Uploader struct {
	target   Target
	opts     Options
	limits   Limits // of the target
	packer   car.Packer
	fan      *fan                // nil if not in a group
	slots    *semaphore.Weighted // for transfers; shared by all inputs
	line     *line
	roster   roster
	progress counters
	breaker  breaker

	// draining is done after Drain.
	draining context.Context //nolint:containedctx // it is the Uploader's own state
	drain    context.CancelCauseFunc
}

// New makes an uploader. It returns an error if the options are invalid, or if
// they ask for something that the target cannot do.
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

// Drain asks for a stop: no new shard is started, shards in flight are
// finished, and incomplete uploads end with [ErrStopped]. To stop at once,
// cancel the context instead. Drain may be called repeatedly.
func (u *Uploader) Drain() { u.drain(ErrStopped) }

func (u *Uploader) stopping() bool { return u.draining.Err() != nil }
