//go:build unix

package bench

import (
	"os"
	"runtime"
	"syscall"
	"time"
)

// usage is the system's accounting of a process that has ended.
type usage struct {
	cpu     time.Duration
	peakRSS int64
}

func usageOf(p *os.ProcessState) usage {
	u := usage{cpu: p.UserTime() + p.SystemTime()}
	if r, ok := p.SysUsage().(*syscall.Rusage); ok {
		u.peakRSS = r.Maxrss
		if runtime.GOOS != "darwin" { // Darwin counts bytes
			u.peakRSS *= 1024
		}
	}
	return u
}
