package service

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// The rate limit of the original, which was enforced in front of it.
const (
	limitRequests = 30
	limitWindow   = 10 * time.Second
	limitBlock    = 30 * time.Second
)

// limiter counts each key's requests in a sliding window. A key that exceeds
// the limit is blocked for a while. The zero value is ready to use.
type limiter struct {
	mu   sync.Mutex
	keys map[int64]*window // guarded by mu
}

type window struct {
	at           [limitRequests]time.Time // ring buffer of the last requests
	next         int
	blockedUntil time.Time
}

// allow counts a request. If the key is blocked, it returns false and how long
// the block still lasts.
func (l *limiter) allow(key int64, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys == nil {
		l.keys = make(map[int64]*window)
	}
	w := l.keys[key]
	if w == nil {
		w = new(window)
		l.keys[key] = w
	}
	if wait := w.blockedUntil.Sub(now); wait > 0 {
		return wait, false
	}
	if oldest := w.at[w.next]; !oldest.IsZero() && now.Sub(oldest) < limitWindow {
		w.blockedUntil = now.Add(limitBlock)
		return limitBlock, false
	}
	w.at[w.next] = now
	w.next = (w.next + 1) % limitRequests
	return 0, true
}

func writeLimited(w http.ResponseWriter, wait time.Duration) error {
	const body = "{\n  \"ok\": false,\n  \"error\": {\n    \"code\": \"ERROR_RATE_LIMITED\",\n" +
		"    \"message\": \"You are being rate limited\"\n  }\n}"
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Access-Control-Expose-Headers", "Retry-After") // for pages of other origins
	w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusTooManyRequests)
	_, err := w.Write([]byte(body))
	return clientGone(err)
}
