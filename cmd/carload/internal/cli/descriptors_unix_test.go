//go:build unix

package cli_test

import (
	"golang.org/x/sys/unix"
)

// keepDescriptors keeps what this process was started with from the processes
// that it starts: a shell may have files open, and some tests count.
func keepDescriptors() {
	for fd := 3; fd < 256; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			unix.CloseOnExec(fd)
		}
	}
}
