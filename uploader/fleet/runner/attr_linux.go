package runner

import (
	"os"
	"syscall"
)

// attributes keeps signals of the terminal from the child, which its parent
// asks to stop instead, and makes the child die with its parent.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

func terminate(p *os.Process) error { return p.Signal(syscall.SIGTERM) }
