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
// says it holds. It opens the body once for each time it sends it, sends every
// byte of it, and closes it. It does not retry: an error with a Retry
// method says whether trying again can help (see [Retryable]). Put is called by
// several goroutines at a time.
//
// What else a target can do is discovered by type assertion: [StatusChecker],
// [ShardChecker], [BlockFetcher], [ArchiveFetcher], [RangeFetcher], [Finisher], [Limited],
// [Lister], [Pager], [Deleter].
type Target interface {
	// String names the target in messages and in the ledger. It has no secrets.
	String() string
	Put(ctx context.Context, s *Shard) (Receipt, error)
}

// StatusChecker is a target that tells what it holds of a DAG.
type StatusChecker interface {
	// Status returns an error matching [ErrNotFound] for a root that the
	// target does not know.
	Status(ctx context.Context, root cid.Cid) (Status, error)
}

// ShardChecker is a target without a [StatusChecker] that tells of single
// shards whether they are there still. One that is neither is taken at the
// word of the ledger: what it lost since is not sent again.
type ShardChecker interface {
	// Holds tells whether shard index, from 0, of count is there with its size
	// in bytes. It need not read it.
	Holds(ctx context.Context, root cid.Cid, index, count int, size int64) (bool, error)
}

// BlockFetcher is a target that gives single blocks back. The caller checks
// the bytes. At most limit bytes are returned; an error matching
// [car.ErrCorrupt] means that the target has more of them, so that they are
// not the block's.
type BlockFetcher interface {
	FetchBlock(ctx context.Context, c cid.Cid, limit int) ([]byte, error)
}

// ArchiveFetcher is a target that gives a whole DAG back as a CAR stream. The
// caller closes it and checks the bytes.
type ArchiveFetcher interface {
	FetchArchive(ctx context.Context, root cid.Cid) (io.ReadCloser, error)
}

// RangeFetcher is an [ArchiveFetcher] that gives parts of files back, too: the
// DAG of the bytes from..to-1 of the content of the file under c, as a CAR stream
// that begins with c. One that brings more, or less, costs no more than speed.
type RangeFetcher interface {
	FetchRange(ctx context.Context, c cid.Cid, from, to int64) (io.ReadCloser, error)
}

// Lister is a target that lists what it holds.
type Lister interface {
	// List yields DAGs, in an order that the target likes. An error is the last
	// thing it yields.
	List(ctx context.Context) iter.Seq2[Held, error]
}

// Pager is a target with a [StatusChecker] that tells of many DAGs at a time.
// Many questions for a status are answered by few pages.
type Pager interface {
	// Page returns the page at a cursor, which is empty for the first one, and
	// the cursor of the next; empty after the last one. Of each DAG it tells
	// State and Parts as Status does. What came in between may be missing, and
	// DAGs may be there twice.
	Page(ctx context.Context, cursor string) (held []Held, next string, err error)
}

// Held is a DAG that a target holds. What the target does not tell stays zero.
type Held struct {
	Root    cid.Cid
	Name    string // as the target has it; not fit for a terminal
	Bytes   int64
	Created time.Time
	State   State
	Parts   []cid.Cid // as in [Status]
}

// Deleter is a target that lets go of a DAG. The error matches [ErrNotFound] if
// it does not hold it.
type Deleter interface {
	Delete(ctx context.Context, root cid.Cid) error
}

// DirectoryFetcher is a target that gives a directory back as a CAR stream
// without what is in it: the nodes that name its entries. The caller closes it
// and checks the bytes.
type DirectoryFetcher interface {
	FetchDirectory(ctx context.Context, root cid.Cid) (io.ReadCloser, error)
}

// Finisher is a target whose DAGs need a commit once all their shards are
// there: a pin, or a manifest. What is not committed does not count as held.
type Finisher interface {
	// Finish commits a DAG all of whose shards have their receipts. Doing it
	// again changes nothing. A [*MissingError] names blocks that are gone in the
	// meantime: their shards are sent again, and then Finish is called again.
	// Other errors are tried again if [Retryable] says so.
	Finish(ctx context.Context, d Upload) error
}

// Upload is a DAG all of whose shards were sent.
type Upload struct {
	Root       cid.Cid
	Name       string // as in [Shard]
	Blocks     int    // distinct ones of the DAG
	BlockBytes int64  // of their payloads
	Shards     []UploadedShard
}

// UploadedShard is a shard that has its receipt.
type UploadedShard struct {
	CID   cid.Cid // its CAR CID; undefined if the target held the DAG already
	Size  int64   // in bytes
	First cid.Cid // the first block that no shard before it has
}

// MissingError names blocks of a DAG that a target had and has no more. It may
// leave some out. It matches [ErrIncomplete].
type MissingError struct {
	Root   cid.Cid
	Blocks []cid.Cid
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%d blocks of %s are missing, first %s", len(e.Blocks), e.Root, e.Blocks[0])
}

// Is reports whether target is [ErrIncomplete].
func (e *MissingError) Is(target error) bool { return target == ErrIncomplete }

// Retry says no: asking again does not bring blocks back.
func (e *MissingError) Retry() (again bool, after time.Duration) { return false, 0 }

// Limited is a target that tells what it takes. An input that it does not take
// is refused before anything of it is sent, with an error matching [ErrLimit].
type Limited interface{ Limits() Limits }

// Limits are what a target takes. A zero field is a limit that is not known.
type Limits struct {
	ShardBytes int64    // largest shard
	BlockBytes int      // largest payload of a block
	Hashes     []uint64 // multihash codes of blocks
	OneShard   bool     // a DAG has to be whole in one shard
}

// Receipt is a target's answer to a shard: what the far side says that it took.
// What it does not say stays zero. At least one of Parts, Blocks and BlockBytes
// must be there, and all that is there must be right, or the shard does not
// count as sent.
type Receipt struct {
	Root       cid.Cid   // the DAG it took the shard for
	Parts      []cid.Cid // the CIDs of all archives it holds for that DAG
	Blocks     int       // of the shard
	BlockBytes int64     // of their payloads
	State      State     // of the DAG with this shard
}

// Status is what a target says of a DAG.
type Status struct {
	State State
	Parts []cid.Cid // as in Receipt; nil if the target does not tell
}

// State is the life of a DAG at a service.
type State string

// The states of the pinning life cycle.
const (
	StateQueued  State = "queued"
	StatePinning State = "pinning" // some blocks are missing
	StatePinned  State = "pinned"  // complete
	StateFailed  State = "failed"
)

var (
	// ErrSourceChanged is [car.ErrSourceChanged].
	ErrSourceChanged = car.ErrSourceChanged
	// ErrRootMismatch means that the far side took a shard for another DAG
	// than ours, or does not list it among what it holds.
	ErrRootMismatch = errors.New("the service's receipt is not for what was sent")
	// ErrIncomplete means that everything was sent but the service does not
	// say that the DAG is complete.
	ErrIncomplete = errors.New("uploaded, but not verified")
	// ErrUnauthorized means that the service does not take the token.
	ErrUnauthorized = errors.New("not authorized")
	// ErrQuotaExceeded means that the service has no more room for the token.
	ErrQuotaExceeded = errors.New("quota exceeded")
	// ErrLimit means that the target does not take the input: a block or the
	// whole is too large for it, or hashed in a way that it does not know.
	// Nothing of it was sent.
	ErrLimit = errors.New("the target does not take this")
	// ErrNotFound means that the target does not know the DAG or block.
	ErrNotFound = fetch.ErrNotFound
	// ErrStopped means that the upload was asked to stop by [Uploader.Drain].
	ErrStopped = errors.New("stopped before the end")
	// ErrLedgerLocked means that another process has the ledger open.
	ErrLedgerLocked = errors.New("the ledger is in use by another process")
	// ErrLedgerDamaged means that a ledger can't be read as it is.
	ErrLedgerDamaged = errors.New("the ledger is damaged")
	// ErrUnavailable means that retries were used up.
	ErrUnavailable = fetch.ErrUnavailable
)

// ShardError tells which shard failed and how often it was tried.
type ShardError struct {
	Name     string // of the upload
	Index    int    // from 0
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
// does not help, and other inputs are not concerned.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }

// Retryable tells whether trying again can help, and how long the far side
// asked to wait (0 if it did not say). It decides by type: an error may have a
// method Retry() (again bool, after time.Duration); cancellation, errors of the
// source, wrong receipts and errors of this machine's files are final; other
// errors are of the network.
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
