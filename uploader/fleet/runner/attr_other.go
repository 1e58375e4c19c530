//go:build !linux

package runner

import (
	"os"
	"runtime"
	"syscall"
)

// attributes leaves the defaults. If the worker is killed, the child finishes
// its work, which does no harm.
func attributes() *syscall.SysProcAttr { return nil }

func terminate(p *os.Process) error {
	if runtime.GOOS == "windows" {
		return p.Kill()
	}
	return p.Signal(syscall.SIGTERM)
}
