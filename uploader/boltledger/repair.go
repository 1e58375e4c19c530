package boltledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/carload/carload/internal/durable"
)

// Report is what a [Repair] did.
type Report struct {
	Kept    int    // entries that could be read: uploads, receipts, suspects, plans
	Lost    int    // places that could not
	Damaged string // where the old file is now
}

// Repair makes a new ledger at path of what can be read of the one that is
// there, which is kept beside it. Receipts that are lost cost little: the
// service is asked what it holds. No process may have the ledger open.
func Repair(path string) (Report, error) {
	r, err := repair(path)
	if err != nil {
		return r, fmt.Errorf("repair ledger %q: %w", path, explain(err))
	}
	return r, nil
}

func repair(path string) (r Report, err error) {
	old, err := os.Open(path)
	if err != nil {
		return r, err
	}
	defer old.Close()
	// Whoever has it open is not to lose the file under its feet.
	if db, err := bbolt.Open(path, 0, &bbolt.Options{Timeout: lockWait, ReadOnly: true}); err == nil {
		defer db.Close()
	} else if isLocked(err) {
		return r, err
	}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return r, err
	}
	if err := create(fresh); err != nil {
		return r, err
	}
	if err := r.salvage(old, fresh); err != nil {
		return r, errors.Join(err, os.Remove(fresh))
	}
	r.Damaged = fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405.000000000"))
	if err := os.Rename(path, r.Damaged); err != nil {
		return r, err
	}
	return r, errors.Join(os.Rename(fresh, path), durable.SyncDir(filepath.Dir(path)))
}

// salvage copies what is whole.
func (r *Report) salvage(old *os.File, fresh string) (err error) {
	l, err := Open(fresh, Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return l.db.Update(func(tx *bbolt.Tx) error {
		var fatal error
		err := walkPages(old, func(bucket string, k, v []byte) error {
			data, err := unseal(k, v)
			if err == nil {
				err = r.keep(tx, bucket, k, v, data, &fatal)
			}
			return err
		}, func(error) error { r.Lost++; return fatal })
		if err != nil && fatal == nil {
			r.Lost++ // not even the beginning can be read
			return nil
		}
		return err
	})
}

// keep copies one entry if it makes sense.
func (r *Report) keep(tx *bbolt.Tx, bucket string, k, v, data []byte, fatal *error) error {
	var err error
	switch bucket {
	case bucketUploads:
		_, err = decodeUpload(k, v)
	case bucketReceipts:
		_, _, err = decodeReceipt(k, v)
	case bucketSuspects:
		_, err = decodeSuspects(k, v)
	case bucketPlans:
		var plan []byte
		if _, plan, err = decodePlan(k, v); err == nil {
			*fatal = savePlan(tx, k, plan, DefaultMaxPlanBytes)
			r.Kept++
		}
		return errors.Join(err, *fatal)
	default:
		return nil // the format number and the order of the plans are made anew
	}
	if err == nil {
		*fatal = put(tx.Bucket([]byte(bucket)), k, data)
		r.Kept++
	}
	return errors.Join(err, *fatal)
}

// Check looks at every page and value of the ledger at path.
func Check(_ context.Context, path string) error {
	if err := check(path); err != nil {
		return fmt.Errorf("ledger %q: %w", path, explain(err))
	}
	return nil
}
