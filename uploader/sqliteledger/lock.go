package sqliteledger

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/carload/carload/uploader"
)

// Files beside the ledger. Whoever has it open shares the lock, and nobody else
// may have it when the file is made, replaced or moved away: SQLite finds its
// log by the name of the file. A claim is a locked file named after a root at a
// target.
const (
	lockSuffix  = ".lock"
	claimSuffix = ".claims"
)

// Waits for a lock.
const (
	lockPoll = 20 * time.Millisecond
	mostPoll = 500 * time.Millisecond
	lockWait = 10 * time.Second
)

// lock waits for a lock of the file for at most limit; 0 is for ever.
func lock(ctx context.Context, f *os.File, exclusive bool, limit time.Duration) (bool, error) {
	begin := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for poll := lockPoll; ; poll = min(2*poll, mostPoll) {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-timer.C:
		}
		ok, err := tryLock(f, exclusive)
		if ok || err != nil || limit > 0 && time.Since(begin) >= limit {
			return ok, err
		}
		timer.Reset(poll)
	}
}

// Begin implements [uploader.Ledger].
func (l *Ledger) Begin(ctx context.Context, u uploader.UploadKey, waits func()) (end func(), err error) {
	dir := l.path + claimSuffix
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, hex.EncodeToString(rootID(u)))
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("claim an upload: %w", err)
		}
		ok, err := tryLock(f, true)
		if err == nil && !ok {
			waits()
			waits = func() {}
			_, err = lock(ctx, f, true, 0)
		}
		if err == nil && !isAt(f, path) {
			err = fs.ErrNotExist // who had it is done, and has removed it
		}
		if err == nil {
			return func() {
				_ = os.Remove(path) // before it is let go of; left behind it claims nothing
				_ = f.Close()
			}, nil
		}
		if err = errors.Join(err, f.Close()); !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// isAt tells whether the open file is the one at path.
func isAt(f *os.File, path string) bool {
	open, err := f.Stat()
	there, errThere := os.Stat(path)
	return err == nil && errThere == nil && os.SameFile(open, there)
}
