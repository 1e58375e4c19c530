package store

import (
	"database/sql"
	"errors"
	"fmt"
	"syscall"

	"github.com/carload/carload/internal/sqlite"
)

var (
	// ErrLocked is returned by [Open] if another process has the store open.
	ErrLocked = errors.New("the store is in use by another process")

	// ErrIndexMissing is returned by [Open] if there are shards but no index.
	// [Rebuild] makes a new index from the shards.
	ErrIndexMissing = errors.New("the store has shards but its index is missing; rebuild it from the shards")

	// ErrRebuilding is returned by [Open] if a [Rebuild] was interrupted, so
	// the index is incomplete. Another Rebuild completes it.
	ErrRebuilding = errors.New("rebuilding the store's index was interrupted; rebuild it again from the shards")

	// ErrDiscards is returned by [Open] and [Rebuild] if the store was filled
	// with [Options].Discard, so its payloads are missing.
	ErrDiscards = errors.New("the store was created to discard payloads and can't be used in any other way")

	// ErrKeeps is returned by [Open] with [Options].Discard if the store has
	// shards with payloads.
	ErrKeeps = errors.New("the store has payloads, which discarding would destroy")

	// ErrReadOnly is returned when a store opened by [OpenReadOnly] would be
	// changed.
	ErrReadOnly = errors.New("the store is open read-only")

	// ErrUnfinished is returned by [OpenReadOnly] if the last process did not
	// close the store.
	ErrUnfinished = errors.New("the store was not closed properly; open it for writing once to repair it")

	// ErrClosed is returned when a closed store would be changed.
	ErrClosed = errors.New("the store is closed")

	// ErrNotFound is returned if there is no such upload or content.
	ErrNotFound = errors.New("there is no such upload")

	// ErrBlockTooLarge is returned for a block of more than [MaxBlockBytes].
	ErrBlockTooLarge = errors.New("the block is too large")

	// ErrNotHeld is returned if no shard has a block.
	ErrNotHeld = errors.New("the block is not held")

	// ErrDamaged is returned if all copies of a block are damaged or lost.
	ErrDamaged = errors.New("the stored bytes do not match the CID")
)

// Fault is a way in which a CAR can be wrong: the format of a message.
type Fault string

// The faults that [Store.Receive] finds in a CAR.
const (
	FaultCut          Fault = "it ends too early"
	FaultNoHeader     Fault = "its header is empty"
	FaultLongHeader   Fault = "its header of %d bytes is too long"
	FaultHeader       Fault = "its header is not valid: %v"
	FaultVersion      Fault = "it has the unknown version %d"
	FaultVersion2     Fault = "its header of version 2 is not valid"
	FaultNoRoots      Fault = "it names no root"
	FaultManyRoots    Fault = "it names more than one root"
	FaultEmptySection Fault = "it has an empty section"
	FaultSection      Fault = "it has a section that is not valid: %v"
	FaultLongCID      Fault = "it has a CID of %d bytes"
	FaultBigBlock     Fault = "it has a block of %d bytes; the limit is %d"
	FaultBlockCID     Fault = "the CID of block %s is not valid: %v"
	FaultBlockHash    Fault = "the hash function of block %s has the unknown code %d"
	FaultBlock        Fault = "the bytes of block %s do not match its CID"
	FaultManyLinks    Fault = "block %s has %d links in %d bytes, which is too many"
	FaultManyBlocks   Fault = "it has %d blocks in %d bytes, which is too many"
	FaultEmpty        Fault = "it has no blocks"
	FaultNoRoot       Fault = "it lacks its root"
	FaultRootAlone    Fault = "it has its root, but none of the blocks that the root links to"
	FaultRoot         Fault = "its root does not decode: %v"
)

// CARError says why a CAR is not accepted.
type CARError struct {
	Fault Fault
	Args  []any // of the message
}

func (e *CARError) Error() string { return fmt.Sprintf("CAR: "+string(e.Fault), e.Args...) }

func fault(f Fault, args ...any) *CARError { return &CARError{f, args} }

// QuotaError is returned if a key's quota has no room for something.
type QuotaError struct {
	Quota, Used int64
	Uncollected int64 // bytes of deleted data that use up the quota until they are collected
}

func (e *QuotaError) Error() string {
	if e.Uncollected > 0 {
		return fmt.Sprintf("the quota of the key is %d bytes, and %d bytes that were deleted are not collected yet", e.Quota, e.Uncollected)
	}
	return fmt.Sprintf("the quota of the key is %d bytes, of which %d are used", e.Quota, e.Used)
}

// IsFull reports whether an error means that the disk is full.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) ||
		sqlite.Code(err)&0xff == sqlite.Full
}

// IsIndexFailure reports whether an error comes from the index's database.
func IsIndexFailure(err error) bool {
	return sqlite.Code(err) != sqlite.NotAnSQLite || errors.Is(err, sql.ErrTxDone) || errors.Is(err, sql.ErrConnDone)
}
