// Package boltledger keeps an [uploader.Ledger] in a file.
//
// The file is a bbolt database: each change is a transaction that is on disk
// when the call returns, and one process has it open at a time. Every value
// carries a checksum, and [Open] looks at all of them and at the pages around
// them. What is damaged is refused and never quietly replaced: [Repair] saves
// what can be read.
package boltledger

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/uploader"
)

// DefaultMaxPlanBytes is room for the plans of some sixty files of 31 GiB.
const DefaultMaxPlanBytes = 64 << 20

// Options are the knobs of [Open].
type Options struct {
	// MaxPlanBytes bounds the plans that are kept together; the oldest go
	// first. 0 means DefaultMaxPlanBytes.
	MaxPlanBytes int64
	// NoSync leaves it to the system when a change reaches the disk. It is for
	// tests: a ledger that lags behind after a crash sends shards twice.
	NoSync bool
}

// Ledger is a file. It is safe for concurrent use. Close it at the end. If the
// file is changed by others while it is open, a call may fail with an error
// matching [uploader.ErrLedgerDamaged]; all later ones then do, too.
type Ledger struct {
	*store
	opts Options
}

var _ uploader.Ledger = (*Ledger)(nil)

// Open opens the ledger at path, or makes a new one if there is no file, and
// the directory with it. It fails with an error matching
// [uploader.ErrLedgerLocked] if a process has it open, and with
// [uploader.ErrLedgerDamaged] if it can't be relied on.
func Open(path string, opts Options) (*Ledger, error) {
	if opts.MaxPlanBytes == 0 {
		opts.MaxPlanBytes = DefaultMaxPlanBytes
	}
	l, err := open(path, opts)
	if err != nil {
		return nil, fmt.Errorf("ledger %q: %w", path, explain(err))
	}
	return l, nil
}

func open(path string, opts Options) (*Ledger, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := create(path); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case info.Size() == 0:
		return nil, damaged("the file is empty")
	}
	if err := check(path); err != nil {
		return nil, err
	}
	st, err := openStore(path, opts.NoSync)
	if err != nil {
		return nil, err
	}
	return &Ledger{st, opts}, nil
}

// lockWait is how long to wait for the lock: one try.
const lockWait = time.Millisecond

func boltOptions(noSync bool) *bbolt.Options {
	// The list of free pages is worked out again at each start: nothing that is
	// in use is overwritten on the word of a damaged list.
	return &bbolt.Options{Timeout: lockWait, NoSync: noSync, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}
}

// check looks at the whole file while nobody can change it.
func check(path string) (err error) {
	db, err := bbolt.Open(path, 0, &bbolt.Options{Timeout: lockWait, ReadOnly: true})
	switch {
	case isLocked(err), errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
		return damaged("%v", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	version := ""
	var first error
	err = walkPages(f, func(bucket string, k, v []byte) error {
		data, err := unseal(k, v)
		if err != nil {
			return err
		}
		if bucket == bucketMeta && string(k) == keyFormat {
			version = string(data)
		}
		return nil
	}, func(err error) error {
		first = cmp.Or(first, err)
		return nil // what version it is may still come
	})
	err = cmp.Or(err, first)
	if err == nil && version == "" {
		err = damaged("it has no format number")
	}
	// A later format may well have buckets and values that look wrong here.
	if version != "" && version != format {
		return fmt.Errorf("it was written by another version of carload (format %q, this one knows %s): use that version", version, format)
	}
	return err
}

// create makes a new file. It appears complete or not at all.
func create(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".ledger-*.tmp") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // it is there only if something else failed
	if err := tmp.Close(); err != nil {
		return err
	}
	db, err := bbolt.Open(tmp.Name(), 0o600, boltOptions(false))
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return put(tx.Bucket([]byte(bucketMeta)), []byte(keyFormat), []byte(format))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	// A link does not replace what another process may have made meanwhile.
	err = os.Link(tmp.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		err = os.Rename(tmp.Name(), path) // a file system without links
	}
	return errors.Join(err, durable.SyncDir(filepath.Dir(path)))
}

// explain adds what to do to an error.
func explain(err error) error {
	switch {
	case isLocked(err):
		return fmt.Errorf("%w: wait for it to end, or use another ledger", uploader.ErrLedgerLocked)
	case errors.Is(err, uploader.ErrLedgerDamaged):
		return fmt.Errorf("%w; `carload ledger repair` keeps what can be read", err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("it can't be written to: %w", err)
	}
	return err
}

func isLocked(err error) bool { return errors.Is(err, berrors.ErrTimeout) }

func damaged(f string, args ...any) error {
	return fmt.Errorf("%w: %s", uploader.ErrLedgerDamaged, fmt.Sprintf(f, args...))
}

// Close releases the file.
func (l *Ledger) Close() error { return l.close() }

// Path is where the file is.
func (l *Ledger) Path() string { return l.path }

// Receipts implements [uploader.Ledger].
func (l *Ledger) Receipts(_ context.Context, u uploader.UploadKey) (map[int]cid.Cid, error) {
	receipts := map[int]cid.Cid{}
	err := l.view(func(tx *bbolt.Tx) error {
		id := uploadID(u)
		c := tx.Bucket([]byte(bucketReceipts)).Cursor()
		return prefixed(c, id, func(k, v []byte) error {
			index, archive, err := decodeReceipt(k, v)
			if err != nil {
				return err
			}
			receipts[index] = archive
			return nil
		})
	})
	return receipts, err
}

// Record implements [uploader.Ledger]. Calls that are made at the same time may
// share a transaction.
func (l *Ledger) Record(_ context.Context, u uploader.UploadKey, index int, archive cid.Cid) error {
	if index < 0 || index > 1<<31-1 || !archive.Defined() {
		return fmt.Errorf("record shard %d as %s: not a shard", index, archive)
	}
	return l.change(func(tx *bbolt.Tx) error {
		id := uploadID(u)
		uploads := tx.Bucket([]byte(bucketUploads))
		if uploads.Get(id) == nil {
			if err := putJSON(uploads, id, uploadRecord{u.Target, u.Root.String(), u.MaxShardBytes, time.Now().UTC(), time.Time{}}); err != nil {
				return err
			}
		}
		return put(tx.Bucket([]byte(bucketReceipts)), receiptKey(id, index), archive.Bytes())
	})
}

// Finish implements [uploader.Ledger].
func (l *Ledger) Finish(_ context.Context, u uploader.UploadKey) error {
	return l.change(func(tx *bbolt.Tx) error {
		id := uploadID(u)
		uploads := tx.Bucket([]byte(bucketUploads))
		if v := uploads.Get(id); v != nil {
			r, err := decodeUpload(id, v)
			if err != nil {
				return err
			}
			r.Finished = time.Now().UTC()
			if err := putJSON(uploads, id, r); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(bucketSuspects)).Delete(suspectsID(u))
	})
}

// Forget implements [uploader.Ledger].
func (l *Ledger) Forget(_ context.Context, u uploader.UploadKey) error {
	return l.change(func(tx *bbolt.Tx) error { return forget(tx, uploadID(u)) })
}

func forget(tx *bbolt.Tx, id []byte) error {
	receipts := tx.Bucket([]byte(bucketReceipts))
	var keys [][]byte
	if err := prefixed(receipts.Cursor(), id, func(k, _ []byte) error {
		keys = append(keys, k)
		return nil
	}); err != nil {
		return err
	}
	for _, k := range keys {
		if err := receipts.Delete(k); err != nil {
			return err
		}
	}
	return tx.Bucket([]byte(bucketUploads)).Delete(id)
}

// Suspects implements [uploader.Ledger].
func (l *Ledger) Suspects(_ context.Context, u uploader.UploadKey) ([]cid.Cid, error) {
	var blocks []cid.Cid
	err := l.view(func(tx *bbolt.Tx) error {
		id := suspectsID(u)
		v := tx.Bucket([]byte(bucketSuspects)).Get(id)
		if v == nil {
			return nil
		}
		r, err := decodeSuspects(id, v)
		blocks = r.blocks
		return err
	})
	return blocks, err
}

// Suspect implements [uploader.Ledger].
func (l *Ledger) Suspect(_ context.Context, u uploader.UploadKey, blocks []cid.Cid) error {
	return l.change(func(tx *bbolt.Tx) error {
		b, id := tx.Bucket([]byte(bucketSuspects)), suspectsID(u)
		if len(blocks) == 0 {
			return b.Delete(id)
		}
		return put(b, id, encodeSuspects(u, blocks))
	})
}

// Plan implements [uploader.Ledger].
func (l *Ledger) Plan(_ context.Context, key string) (plan []byte, err error) {
	err = l.view(func(tx *bbolt.Tx) error {
		id := planID(key)
		v := tx.Bucket([]byte(bucketPlans)).Get(id)
		if v == nil {
			return nil
		}
		_, data, err := decodePlan(id, v)
		plan = append([]byte{}, data...)
		return err
	})
	return plan, err
}

// SavePlan implements [uploader.Ledger]. A plan that is larger than all the
// room there is for plans is not kept.
func (l *Ledger) SavePlan(_ context.Context, key string, plan []byte) error {
	if int64(len(plan)) > l.opts.MaxPlanBytes {
		return nil
	}
	return l.change(func(tx *bbolt.Tx) error { return savePlan(tx, planID(key), plan, l.opts.MaxPlanBytes) })
}

// savePlan puts a plan at the end of the queue, and takes off its head what is
// too much.
func savePlan(tx *bbolt.Tx, id, plan []byte, limit int64) error {
	plans, order := tx.Bucket([]byte(bucketPlans)), tx.Bucket([]byte(bucketPlanOrder))
	if v := plans.Get(id); v != nil {
		seq, _, err := decodePlan(id, v)
		if err != nil {
			return err
		}
		if err := order.Delete(seq); err != nil {
			return err
		}
	}
	if len(plan) == 0 {
		return plans.Delete(id) // what takes no room would never be taken off
	}
	n, err := order.NextSequence()
	if err != nil {
		return err
	}
	if err := put(order, sequence(n), encodeOrder(id, len(plan))); err != nil {
		return err
	}
	if err := put(plans, id, append(sequence(n), plan...)); err != nil {
		return err
	}
	var total int64
	var queue []orderRecord
	err = order.ForEach(func(k, v []byte) error {
		r, err := decodeOrder(k, v)
		total += r.size
		queue = append(queue, r)
		return err
	})
	for _, r := range queue {
		if err != nil || total <= limit {
			break
		}
		total -= r.size
		err = errors.Join(order.Delete(r.seq), plans.Delete(r.id))
	}
	return err
}

// Upload is what a ledger knows of an upload.
type Upload struct {
	uploader.UploadKey
	Receipts int
	Suspects int       // blocks that verification found missing or wrong
	Begun    time.Time // its first receipt
	Finished time.Time // verified; zero if it was not
}

// Uploads lists the uploads that have receipts.
func (l *Ledger) Uploads(_ context.Context) ([]Upload, error) {
	var list []Upload
	err := l.view(func(tx *bbolt.Tx) error {
		receipts, suspects := tx.Bucket([]byte(bucketReceipts)).Cursor(), tx.Bucket([]byte(bucketSuspects))
		return tx.Bucket([]byte(bucketUploads)).ForEach(func(k, v []byte) error {
			r, err := decodeUpload(k, v)
			if err != nil {
				return err
			}
			u := Upload{UploadKey: r.key(), Begun: r.Begun, Finished: r.Finished}
			if id := suspectsID(u.UploadKey); suspects.Get(id) != nil {
				s, err := decodeSuspects(id, suspects.Get(id))
				if err != nil {
					return err
				}
				u.Suspects = len(s.blocks)
			}
			err = prefixed(receipts, k, func([]byte, []byte) error { u.Receipts++; return nil })
			list = append(list, u)
			return err
		})
	})
	return list, err
}

// ForgetRoot drops all uploads of a root at all targets, suspects included,
// and tells how many they were.
func (l *Ledger) ForgetRoot(ctx context.Context, root cid.Cid) (int, error) {
	uploads, err := l.Uploads(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, u := range uploads {
		if !u.Root.Equals(root) {
			continue
		}
		n++
		if err := l.change(func(tx *bbolt.Tx) error {
			return errors.Join(forget(tx, uploadID(u.UploadKey)), tx.Bucket([]byte(bucketSuspects)).Delete(suspectsID(u.UploadKey)))
		}); err != nil {
			return n, err
		}
	}
	return n, nil
}

func put(b *bbolt.Bucket, k, data []byte) error { return b.Put(k, seal(k, data)) }

func putJSON(b *bbolt.Bucket, k []byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return put(b, k, data)
}
