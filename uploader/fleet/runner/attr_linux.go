package runner

import (
	"os"
	"syscall"
)

// attributes keep the terminal's signals from the child, which is asked to stop
// by its parent, and let it die with that.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
