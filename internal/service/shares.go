package service

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// Limits on what one key may use at a time, so that others get their share.
const (
	// shareBytes is half of what the store takes for everything that it
	// receives.
	shareBytes = 64 << 20
	// largeBytes is roughly what the store takes for a large body.
	largeBytes = 4 << 20
	// smallBytes is what the smallest body counts for.
	smallBytes = 64 << 10
	// shareWait is how long a body waits for others of its key. After that, the
	// client is asked to come back later.
	shareWait = 20 * time.Second
	// shareRetry is the Retry-After that it gets.
	shareRetry = 5 * time.Second
)

// shares gives each key its share.
type shares struct {
	max int // concurrent requests of a key

	mu   sync.Mutex
	keys map[int64]*share // guarded by mu
}

type share struct {
	requests int // guarded by the mutex of shares
	bodies   *semaphore.Weighted
}

// enter counts a request of a key. It returns false if the key has too many.
// The caller calls leave.
func (s *shares) enter(key int64) (sh *share, leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh = s.keys[key]
	if sh == nil {
		if s.keys == nil {
			s.keys = make(map[int64]*share)
		}
		sh = &share{bodies: semaphore.NewWeighted(shareBytes)}
		s.keys[key] = sh
	}
	if sh.requests >= s.max {
		return nil, nil, false
	}
	sh.requests++
	return sh, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if sh.requests--; sh.requests == 0 {
			delete(s.keys, key)
		}
	}, true
}

// errNoRoom says that other uploads of the same key used up its share for too
// long.
var errNoRoom = errors.New("this key has too many uploads at the same time")

// body waits until the key's share has room for a body of this length, or -1 if
// the length is unknown. The caller calls release.
func (s *share) body(ctx context.Context, length int64) (release func(), err error) {
	weight := max(smallBytes, min(length, largeBytes))
	if length < 0 {
		weight = largeBytes
	}
	waiting, cancel := context.WithTimeoutCause(ctx, shareWait, errNoRoom)
	defer cancel()
	if s.bodies.Acquire(waiting, weight) != nil {
		return nil, context.Cause(waiting)
	}
	return func() { s.bodies.Release(weight) }, nil
}
