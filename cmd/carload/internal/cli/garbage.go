package cli

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// garbage is how much garbage there may be before the collector runs: so many
// bytes, or a percentage of the heap in use if that is more. A percentage alone
// would make it run all the time while the heap is small.
type garbage struct {
	bytes   uint64
	percent int
}

// Most of the memory that commands use is buffers, which the collector need not
// scan, so it can run often. The service has more room.
var (
	littleGarbage = garbage{bytes: 8 << 20, percent: 30}
	moreGarbage   = garbage{bytes: 24 << 20, percent: 100}
)

// limit applies to the process until the returned function is called. GOGC in
// the environment overrides it.
func (g garbage) limit() (restore func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	c := &collector{limit: g, was: debug.SetGCPercent(g.percent)}
	c.adjust()
	return c.restore
}

// percentFor returns the percentage for a heap with so many bytes in use.
func (g garbage) percentFor(live uint64) int {
	return max(g.percent, int(g.bytes*100/max(live, 1<<20)))
}

// collector sets the percentage after each collection.
type collector struct {
	limit    garbage
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
	debug.SetGCPercent(c.limit.percentFor(live[0].Value.Uint64()))
	runtime.AddCleanup(new(collected), (*collector).adjust, c)
}

func (c *collector) restore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.restored = true
	debug.SetGCPercent(c.was)
}
