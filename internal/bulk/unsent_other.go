//go:build !linux

package bulk

import "net"

// sending returns false: this system has no call for it.
func sending(net.Conn) (l line, ok bool) { return line{}, false }
