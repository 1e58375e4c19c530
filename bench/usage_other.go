//go:build !unix

package bench

import (
	"os"
	"time"
)

// usage is what the system counted for a process that has ended.
type usage struct {
	cpu     time.Duration
	peakRSS int64 // not known here
}

func usageOf(p *os.ProcessState) usage { return usage{cpu: p.UserTime() + p.SystemTime()} }
