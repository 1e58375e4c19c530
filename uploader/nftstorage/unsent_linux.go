package nftstorage

import (
	"crypto/tls"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unsent tells how many bytes the system has taken for a connection that the
// other side has not acknowledged.
func unsent(conn net.Conn) (n int, ok bool) {
	if c, isTLS := conn.(*tls.Conn); isTLS {
		conn = c.NetConn()
	}
	if c, isBulk := conn.(bulkConn); isBulk {
		conn = c.Conn
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return 0, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false
	}
	var ioctl error
	err = raw.Control(func(fd uintptr) { n, ioctl = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return n, err == nil && ioctl == nil
}
