package sqliteledger

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/carload/carload/uploader"
)

// Files beside the ledger. Everyone who has the ledger open shares the lock.
// Creating, replacing or moving it needs the lock exclusively, because SQLite
// finds its log by the name of the file. Claiming a root at a target locks one
// byte, whose offset is their hash: a file for each upload would cost more than
// everything else the ledger does.
const (
	lockSuffix  = ".lock"
	claimSuffix = ".claim"
)

// Waits for a lock.
const (
	lockPoll = 20 * time.Millisecond
	mostPoll = 500 * time.Millisecond
	lockWait = 10 * time.Second
)

// lock waits for a lock of the file, for at most lockWait.
func lock(ctx context.Context, f *os.File, exclusive bool) (bool, error) {
	return poll(ctx, lockWait, func() (bool, error) { return tryLock(f, exclusive) })
}

// poll calls try until it succeeds, for at most limit; 0 means no limit.
func poll(ctx context.Context, limit time.Duration, try func() (bool, error)) (bool, error) {
	begin := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := lockPoll; ; pause = min(2*pause, mostPoll) {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-timer.C:
		}
		ok, err := try()
		if ok || err != nil || limit > 0 && time.Since(begin) >= limit {
			return ok, err
		}
		timer.Reset(pause)
	}
}

// Begin implements [uploader.Ledger].
func (l *Ledger) Begin(ctx context.Context, u uploader.UploadKey, waits func()) (end func(), err error) {
	waits = sync.OnceFunc(waits)
	leave, err := l.claims.Begin(ctx, u, waits)
	if err != nil {
		return nil, err
	}
	at := int64(binary.BigEndian.Uint64(rootID(u)) >> 2)
	ok, err := tryClaim(l.claim, at)
	if err == nil && !ok {
		waits()
		_, err = poll(ctx, 0, func() (bool, error) { return tryClaim(l.claim, at) })
	}
	if err != nil {
		leave()
		return nil, fmt.Errorf("claim an upload: %w", err)
	}
	return func() {
		_ = unclaim(l.claim, at) // the end of the process does it too
		leave()
	}, nil
}
