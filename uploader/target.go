package uploader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/fetch"
)

// Target is where shards go. Put sends one shard and returns what the far side
// says it received. For every time it sends the body, it calls [Shard.Open],
// sends all bytes, and closes the body. Put does not retry: the Retry method of
// an error says whether trying again may help (see [Retryable]). Put must be
// safe for concurrent use.
//
// A target can do more by implementing the optional interfaces, which the
// engine finds by type assertion: [StatusChecker], [ShardChecker],
// [BlockFetcher], [ArchiveFetcher], [RangeFetcher], [DirectoryFetcher],
// [Finisher], [Limited], [BlockSharer], [Lister], [Pager], [Deleter].
type Target interface {
	// String identifies the target in messages and in the ledger. It must not
	// contain secrets.
	String() string
	Put(ctx context.Context, s *Shard) (Receipt, error)
}

// StatusChecker is a target that can say what it holds of a DAG.
type StatusChecker interface {
	// Status returns an error that matches [ErrNotFound] if the target does not
	// know the root.
	Status(ctx context.Context, root cid.Cid) (Status, error)
}

// ShardChecker is a target without a [StatusChecker] that can say whether it
// still has a shard. If a target implements neither, the ledger is trusted:
// shards that the target has lost since are not sent again.
type ShardChecker interface {
	// Holds reports whether the shard with this index, counted from 0, is there
	// with the right size in bytes. It need not read the shard.
	Holds(ctx context.Context, root cid.Cid, index, count int, size int64) (bool, error)
}

// BlockFetcher is a target that returns single blocks. FetchBlock returns at
// most limit bytes. If the target has more, the bytes cannot be the block's,
// and the error matches [car.ErrCorrupt]. The caller checks the bytes.
type BlockFetcher interface {
	FetchBlock(ctx context.Context, c cid.Cid, limit int) ([]byte, error)
}

// ArchiveFetcher is a target that returns a whole DAG as a CAR stream. The
// caller closes the stream and checks the bytes.
type ArchiveFetcher interface {
	FetchArchive(ctx context.Context, root cid.Cid) (io.ReadCloser, error)
}

// RangeFetcher is an [ArchiveFetcher] that can also return part of a file: the
// blocks for the bytes from..to-1 of the file under c, as a CAR stream that
// begins with c. Returning more or fewer blocks costs nothing but speed.
type RangeFetcher interface {
	FetchRange(ctx context.Context, c cid.Cid, from, to int64) (io.ReadCloser, error)
}

// Lister is a target that lists what it holds.
type Lister interface {
	// List yields DAGs in any order. If it yields an error, that is the last
	// thing.
	List(ctx context.Context) iter.Seq2[Held, error]
}

// Pager is a target with a [StatusChecker] that reports many DAGs at a time. A
// few pages then replace many status requests.
type Pager interface {
	// Page returns the page at a cursor, which is "" for the first page, and
	// the cursor of the next page, which is "" after the last. State and Parts
	// of each DAG are as Status reports them. DAGs that arrive meanwhile may be
	// missing, and DAGs may occur twice.
	Page(ctx context.Context, cursor string) (held []Held, next string, err error)
}

// Held is a DAG that a target holds. What the target does not report is zero.
type Held struct {
	Root    cid.Cid
	Name    string // as stored by the target; not safe to print to a terminal
	Bytes   int64
	Created time.Time
	State   State
	Parts   []cid.Cid // as in [Status]
}

// Deleter is a target that can delete a DAG. If it does not hold the DAG, the
// error matches [ErrNotFound].
type Deleter interface {
	Delete(ctx context.Context, root cid.Cid) error
}

// DirectoryFetcher is a target that returns the nodes of a directory as a CAR
// stream, without its entries' contents. The caller closes the stream and
// checks the bytes.
type DirectoryFetcher interface {
	FetchDirectory(ctx context.Context, root cid.Cid) (io.ReadCloser, error)
}

// Finisher is a target that needs a commit once all shards of a DAG are there:
// a pin, or a manifest. It does not count an uncommitted DAG as held.
type Finisher interface {
	// Finish commits a DAG. All its shards have receipts. Calling it again has
	// no further effect. If blocks have been lost meanwhile, it returns a
	// [*MissingError]; their shards are sent again, and then Finish is called
	// again. Other errors are retried if [Retryable] says so.
	Finish(ctx context.Context, d Upload) error
}

// Upload is a DAG whose shards have all been sent.
type Upload struct {
	Root       cid.Cid
	Name       string // as in [Shard]
	Blocks     int    // number of distinct blocks
	BlockBytes int64  // total payload of the blocks
	Shards     []UploadedShard
}

// UploadedShard is a shard with a receipt.
type UploadedShard struct {
	CID   cid.Cid // CAR CID; undefined if the target held the DAG already
	Size  int64   // in bytes
	First cid.Cid // first block that is in no earlier shard
}

// MissingError names blocks of a DAG that a target once had and has lost. The
// list may be incomplete, but not empty. It matches [ErrIncomplete].
type MissingError struct {
	Root   cid.Cid
	Blocks []cid.Cid
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%d blocks of %s are missing, first %s", len(e.Blocks), e.Root, e.Blocks[0])
}

// Is reports whether target is [ErrIncomplete].
func (e *MissingError) Is(target error) bool { return target == ErrIncomplete }

// Retry returns false: asking again does not bring blocks back.
func (e *MissingError) Retry() (again bool, after time.Duration) { return false, 0 }

// Limited is a target that reports its limits. An input beyond them is refused
// before anything is sent, with an error that matches [ErrLimit].
type Limited interface{ Limits() Limits }

// Limits are the limits of a target. A zero field means no known limit.
type Limits struct {
	ShardBytes int64    // largest shard
	BlockBytes int      // largest payload of a block
	Hashes     []uint64 // multihash codes that blocks may use
	OneShard   bool     // a DAG has to fit into one shard
}

// Receipt is a target's answer to a shard: what the far side says it received.
// Fields that it does not report are zero. At least one of Parts, Blocks and
// BlockBytes must be set, and all that are set must be right. Otherwise the
// shard does not count as sent.
type Receipt struct {
	Root       cid.Cid   // the DAG that the shard was received for
	Parts      []cid.Cid // CIDs of all archives that the target holds for that DAG
	Blocks     int       // number of blocks in the shard
	BlockBytes int64     // total payload of the blocks
	State      State     // state of the DAG, including this shard
}

// Status is what a target reports about a DAG.
type Status struct {
	State State
	Parts []cid.Cid // as in Receipt; nil if the target does not report them
}

// State is the state of a DAG at a service.
type State string

// The states of a pin, as in the IPFS pinning service API.
const (
	StateQueued  State = "queued"
	StatePinning State = "pinning" // some blocks are missing
	StatePinned  State = "pinned"  // complete
	StateFailed  State = "failed"
)

var (
	// ErrSourceChanged is [car.ErrSourceChanged]: a source changed after it was
	// described.
	ErrSourceChanged = car.ErrSourceChanged
	// ErrRootMismatch means that the target took a shard for another DAG, or
	// does not list it among what it holds.
	ErrRootMismatch = errors.New("the service's receipt does not match what was sent")
	// ErrIncomplete means that everything was sent, but the service does not
	// report the DAG as complete.
	ErrIncomplete = errors.New("uploaded, but not verified")
	// ErrUnauthorized means that the service does not accept the token.
	ErrUnauthorized = errors.New("not authorized")
	// ErrQuotaExceeded means that the storage quota of the token is used up.
	ErrQuotaExceeded = errors.New("quota exceeded")
	// ErrLimit means that the target does not accept the input: a block or the
	// whole is too large, or uses an unsupported hash function. Nothing of it
	// was sent.
	ErrLimit = errors.New("the target does not accept this")
	// ErrNotFound means that the target does not know the DAG or block.
	ErrNotFound = fetch.ErrNotFound
	// ErrStopped means that [Uploader.Drain] stopped the upload.
	ErrStopped = errors.New("stopped before the end")
	// ErrLedgerLocked means that another process has the ledger open.
	ErrLedgerLocked = errors.New("the ledger is in use by another process")
	// ErrLedgerDamaged means that the ledger can't be read as it is.
	ErrLedgerDamaged = errors.New("the ledger is damaged")
	// ErrUnavailable means that all attempts failed.
	ErrUnavailable = fetch.ErrUnavailable
)

// ShardError says which shard failed, and how often it was tried.
type ShardError struct {
	Name     string // of the upload
	Index    int    // counted from 0
	Count    int
	Attempts int
	Err      error
}

func (e *ShardError) Error() string {
	s := fmt.Sprintf("shard %d of %d of %q", e.Index+1, e.Count, e.Name)
	if e.Attempts > 1 {
		s += fmt.Sprintf(", tried %d times", e.Attempts)
	}
	return s + ": " + e.Err.Error()
}

func (e *ShardError) Unwrap() error { return e.Err }

// SourceError is an error of reading an input, in either pass. Trying again
// does not help. Other inputs are not affected.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }

// Retryable reports whether trying again may help, and how long the far side
// asked to wait (0 if it did not say). It decides by type. An error may have a
// method Retry() (again bool, after time.Duration). Cancellation, errors of the
// source, wrong receipts and errors of local files are final. All other errors
// count as network errors, which may be retried.
func Retryable(err error) (bool, time.Duration) {
	var t interface {
		Retry() (again bool, after time.Duration)
	}
	var source *SourceError
	switch {
	case err == nil,
		errors.Is(err, context.Canceled),
		errors.As(err, &source),
		errors.Is(err, car.ErrSourceChanged),
		errors.Is(err, car.ErrCorrupt),
		errors.Is(err, ErrUnauthorized),
		errors.Is(err, ErrQuotaExceeded),
		errors.Is(err, ErrLimit),
		errors.Is(err, ErrNotFound),
		errors.Is(err, ErrStopped):
		return false, 0
	case errors.As(err, &t):
		return t.Retry()
	case errors.Is(err, ErrRootMismatch), isLocal(err):
		return false, 0
	default:
		return true, 0
	}
}
