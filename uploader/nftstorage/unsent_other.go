//go:build !linux

package nftstorage

import "net"

// unsent tells nothing where there is no call that does.
func unsent(net.Conn) (n int, ok bool) { return 0, false }
