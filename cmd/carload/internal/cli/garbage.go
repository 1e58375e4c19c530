package cli

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// The garbage collector runs when this much has piled up: garbageBytes, or
// garbagePercent of the heap that is in use if that is more.
const (
	garbageBytes   = 8 << 20
	garbagePercent = 30
)

// frugal makes the garbage collector run sooner, until the returned function is
// called. Most of the memory in use is buffers, which the collector need not
// scan. GOGC in the environment overrides this.
func frugal() (restore func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	c := &collector{}
	c.was = debug.SetGCPercent(garbagePercent)
	c.adjust()
	return c.restore
}

// collector sets the percentage of garbage after each collection: a fixed one
// that is right for large buffers would make the collector run all the time
// while the heap is small.
type collector struct {
	mu       sync.Mutex
	was      int
	restored bool
}

// collected is garbage at once. When it is collected, adjust is called.
type collected struct{ _ *byte }

func (c *collector) adjust() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.restored {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	debug.SetGCPercent(percentFor(live[0].Value.Uint64()))
	runtime.AddCleanup(new(collected), (*collector).adjust, c)
}

// percentFor returns the percentage for a heap with so many bytes in use.
func percentFor(live uint64) int {
	return max(garbagePercent, int(garbageBytes*100/max(live, 1<<20)))
}

func (c *collector) restore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restored = true
	debug.SetGCPercent(c.was)
}
