//go:build !linux

package runner

import (
	"os"
	"runtime"
	"syscall"
)

// attributes of the child are the usual ones: if the worker is killed, what it
// was working on is finished, which does no harm.
func attributes() *syscall.SysProcAttr { return nil }

func terminate(p *os.Process) error {
	if runtime.GOOS == "windows" {
		return p.Kill()
	}
	return p.Signal(syscall.SIGTERM)
}
