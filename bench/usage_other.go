//go:build !unix

package bench

import (
	"os"
	"time"
)

// usage is the system's accounting of a process that has ended.
type usage struct {
	cpu     time.Duration
	peakRSS int64 // not available here
}

func usageOf(p *os.ProcessState) usage { return usage{cpu: p.UserTime() + p.SystemTime()} }
