package nftstorage

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// The rate limit of the hosted NFT.Storage for one token. If it is exceeded,
// the service blocks the token for half a minute.
const (
	HostedRequests = 30
	HostedWindow   = 10 * time.Second
)

// Window is a [Pacer] that lets at most this many requests begin within any
// window of this length. Unlike a token bucket, it never lets through twice as
// many. It is safe for concurrent use.
type Window struct {
	n      int
	length time.Duration
	path   string // of the file that processes share; empty for none
	vary   func() (int, time.Duration, error)

	mu   sync.Mutex
	ring ring
}

// NewWindow makes a pacer for one process.
func NewWindow(requests int, length time.Duration) (*Window, error) {
	if requests < 1 || requests > 1<<16 || length <= 0 {
		return nil, fmt.Errorf("%d requests per %s: must be at least one in some time", requests, length)
	}
	return &Window{n: requests, length: length, ring: newRing(requests)}, nil
}

// NewSharedWindow makes a pacer that is shared by all processes with the same
// token and directory. The files there do not reveal the token.
func NewSharedWindow(dir string, token Token, requests int, length time.Duration) (*Window, error) {
	w, err := NewWindow(requests, length)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	digest := sha256.Sum256([]byte("carload rate " + token.Reveal()))
	w.path = filepath.Join(dir, "rate-"+hex.EncodeToString(digest[:8]))
	return w, nil
}

// Vary makes the limit variable: before each request, f is called for the
// number of requests and the length of the window. While the number is 0,
// requests wait. It is for hosts that share a token and come and go. Call it
// before the first Wait.
func (w *Window) Vary(f func() (requests int, within time.Duration, err error)) { w.vary = f }

// varyPoll is how often the share is checked for changes.
const varyPoll = time.Second

// waitVarying waits without reserving a place in the future, since the share
// may have changed by then.
func (w *Window) waitVarying(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		n, length, err := w.vary()
		if err != nil {
			return fmt.Errorf("share the request rate: %w", err)
		}
		wait := varyPoll
		if n = min(n, w.n); n > 0 {
			if wait, err = w.takeIfDue(n, max(length, w.length)); err != nil || wait <= 0 {
				return err
			}
		}
		t.Reset(min(wait, varyPoll))
	}
}

// takeIfDue takes the next place if it is due, and otherwise returns how long
// to wait.
func (w *Window) takeIfDue(n int, length time.Duration) (wait time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.path == "" {
		return w.ring.takeIfDue(time.Now(), length, n), nil
	}
	err = withLocked(w.path, func(f *os.File) error {
		if err := w.ring.load(f); err != nil {
			return err
		}
		if wait = w.ring.takeIfDue(time.Now(), length, n); wait > 0 {
			return nil
		}
		return w.ring.store(f)
	})
	if err != nil {
		return 0, fmt.Errorf("share the request rate: %w", err)
	}
	return wait, nil
}

// Wait implements [Pacer]. Requests go in the order of their calls. A request
// that is cancelled while it waits has used up its place.
func (w *Window) Wait(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if w.vary != nil {
		return w.waitVarying(ctx)
	}
	at, err := w.reserve()
	if err != nil {
		return err
	}
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// reserve takes the next place and returns its time.
func (w *Window) reserve() (at time.Time, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.path == "" {
		return w.ring.next(time.Now(), w.length), nil
	}
	err = withLocked(w.path, func(f *os.File) error {
		if err := w.ring.load(f); err != nil {
			return err
		}
		at = w.ring.next(time.Now(), w.length)
		return w.ring.store(f)
	})
	if err != nil {
		return at, fmt.Errorf("share the request rate: %w", err)
	}
	return at, nil
}

// ring is the times of the last n requests, past or planned, in order.
type ring struct {
	at   []int64 // Unix time in nanoseconds; 0 means never
	head int     // index of the oldest
}

func newRing(n int) ring { return ring{at: make([]int64, n)} }

// mostAhead limits how many windows ahead a place can be. A later time was
// written by a clock that was wrong.
const mostAhead = 100

// next takes the next place.
func (r *ring) next(now time.Time, length time.Duration) time.Time {
	t := now.UnixNano()
	for _, at := range r.at {
		if at > t+mostAhead*int64(length) {
			*r = newRing(len(r.at))
			break
		}
	}
	if oldest := r.at[r.head]; oldest != 0 {
		t = max(t, oldest+int64(length))
	}
	// Never before the last place: the times must be in order, so that the
	// oldest is at head.
	t = max(t, r.at[(r.head+len(r.at)-1)%len(r.at)])
	r.at[r.head] = t
	r.head = (r.head + 1) % len(r.at)
	return time.Unix(0, t)
}

// takeIfDue takes the next of n places if it is due, and otherwise returns how
// long to wait.
func (r *ring) takeIfDue(now time.Time, length time.Duration, n int) time.Duration {
	before := ring{at: append([]int64(nil), r.at...), head: r.head}
	if oldest := r.at[(r.head+len(r.at)-n)%len(r.at)]; oldest != 0 {
		if wait := time.Duration(oldest + int64(length) - now.UnixNano()); wait > 0 && wait <= mostAhead*length {
			return wait
		}
	}
	if wait := r.next(now, length).Sub(now); wait > 0 {
		*r = before
		return wait
	}
	return 0
}

// load reads the ring. A file that is not a ring of this size counts as empty.
func (r *ring) load(f *os.File) error {
	buf := make([]byte, 8*(len(r.at)+2))
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	head := binary.LittleEndian.Uint64(buf[8:])
	*r = newRing(len(r.at))
	if n < len(buf) || binary.LittleEndian.Uint64(buf) != uint64(len(r.at)) || head >= uint64(len(r.at)) {
		return nil
	}
	r.head = int(head)
	for i := range r.at {
		r.at[i] = int64(binary.LittleEndian.Uint64(buf[8*(i+2):]))
	}
	return nil
}

func (r *ring) store(f *os.File) error {
	buf := binary.LittleEndian.AppendUint64(nil, uint64(len(r.at)))
	buf = binary.LittleEndian.AppendUint64(buf, uint64(r.head))
	for _, at := range r.at {
		buf = binary.LittleEndian.AppendUint64(buf, uint64(at))
	}
	_, err := f.WriteAt(buf, 0)
	return err
}
