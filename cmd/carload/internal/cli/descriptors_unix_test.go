//go:build unix

package cli_test

import (
	"golang.org/x/sys/unix"
)

// keepDescriptors makes inherited descriptors close on exec: a shell may have
// files open, and some tests count descriptors of their children.
func keepDescriptors() {
	for fd := 3; fd < 256; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			unix.CloseOnExec(fd)
		}
	}
}
