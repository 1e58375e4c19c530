package cli

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/carload/carload/uploader"
)

// board shows which inputs the engine is working on, from its events. The zero
// value is empty.
type board struct {
	mu     sync.Mutex
	active []*activity // in the order they began
	waits  map[waiting]time.Time
	paced  int // requests waiting for the rate limit
}

// activity is one input in progress.
type activity struct {
	name         string // with the name of the target if there are several
	bytes        int64  // 0 if unknown
	shards, done int
	state        string // shown instead of the numbers
}

// waiting is a shard that waits for its next attempt.
type waiting struct {
	name  string
	index int
}

// pace adds n to the number of requests that wait for the rate limit.
func (b *board) pace(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paced += n
}

// end removes an input from the board.
func (b *board) end(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.active = slices.DeleteFunc(b.active, func(a *activity) bool { return a.name == name })
	for w := range b.waits {
		if w.name == name {
			delete(b.waits, w)
		}
	}
}

// observe updates the board from an event; name returns the display name of an
// input.
func (b *board) observe(e uploader.Event, name func(string) string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := e.(type) {
	case uploader.Describing:
		b.active = append(b.active, &activity{name: name(e.Name), bytes: e.Bytes})
	case uploader.Retrying:
		if b.waits == nil {
			b.waits = map[waiting]time.Time{}
		}
		b.waits[waiting{name(e.Name), e.Index}] = time.Now().Add(e.Wait)
	case uploader.Described:
		b.change(name(e.Name), func(a *activity) { a.bytes, a.shards = e.Bytes, e.Shards })
	case uploader.ShardSent:
		b.change(name(e.Name), func(a *activity) { a.done, a.state = a.done+1, "" })
	case uploader.Waiting:
		b.change(name(e.Name), func(a *activity) { a.state = "waiting for another upload of the same data" })
	case uploader.Mending:
		b.change(name(e.Name), func(a *activity) { a.done, a.state = 0, "mending" })
	}
}

// change updates the activity of an input, unless a batch contains that input.
// The caller holds the lock.
func (b *board) change(name string, to func(*activity)) {
	if at := slices.IndexFunc(b.active, func(a *activity) bool { return a.name == name }); at >= 0 {
		to(b.active[at])
	}
}

// mostActive limits the inputs that are shown by name.
const mostActive = 4

// lines describes the inputs in progress. A single input has no line, because
// the bars show everything.
func (b *board) lines(now time.Time, first string, several bool) (lines []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if several || len(b.active) > 1 {
		for _, a := range b.active[:min(len(b.active), mostActive)] {
			lines = append(lines, a.name+": "+a.text(first))
		}
		if n := len(b.active) - mostActive; n > 0 {
			lines = append(lines, fmt.Sprintf("and %d more", n))
		}
	}
	var next time.Time
	put := 0
	for w, until := range b.waits {
		switch {
		case !until.After(now):
			delete(b.waits, w)
			continue
		case next.IsZero() || until.Before(next):
			next = until
		}
		put++
	}
	if b.paced > 0 {
		lines = append(lines, fmt.Sprintf("%s waiting for the rate limit (--tpslimit)", count(b.paced, "request")))
	}
	if put > 0 {
		lines = append(lines, fmt.Sprintf("%s failed, again in %s", count(put, "try"), formatDuration(next.Sub(now).Round(time.Second))))
	}
	return lines
}

func (a *activity) text(first string) string {
	switch {
	case a.state != "":
		return a.state
	case a.shards == 0 && a.bytes > 0:
		return first + " " + formatBytes(a.bytes)
	case a.shards == 0:
		return first
	case a.done >= a.shards:
		return "all there, verifying"
	}
	return fmt.Sprintf("%d of %s", a.done, count(a.shards, "shard"))
}

// summary is lines joined into one.
func (b *board) summary(now time.Time, first string, several bool) string {
	if lines := b.lines(now, first, several); len(lines) > 0 {
		return "; " + strings.Join(lines, ", ")
	}
	return ""
}
