package service

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
)

// What one key may have of the service at a time, so that some is left for
// others.
const (
	// shareBytes is half of what the store takes for all that it receives.
	shareBytes = 64 << 20
	// largeBytes is what the store takes for a large body, about.
	largeBytes = 4 << 20
	// smallBytes is what the least body counts for.
	smallBytes = 64 << 10
	// shareWait is how long a body waits for others of its key before the
	// client is told to come back.
	shareWait = 20 * time.Second
	// shareRetry is when it is to come back.
	shareRetry = 5 * time.Second
)

// shares gives each key a part of what there is.
type shares struct {
	max int // requests of a key at a time

	mu   sync.Mutex
	keys map[int64]*share // guarded by mu
}

type share struct {
	requests int // guarded by the mutex of shares
	bodies   *semaphore.Weighted
}

// enter takes one of the requests that a key may have at a time. The caller
// calls leave.
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

// errNoRoom reports that others of the same key took all the room for too long.
var errNoRoom = errors.New("the key has too many uploads at a time")

// body waits until there is room for a body of this many bytes, -1 if that is
// unknown. The caller calls release.
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
