//go:build !linux

package bulk

import "net"

// sending tells nothing where there is no call that does.
func sending(net.Conn) (l line, ok bool) { return line{}, false }
