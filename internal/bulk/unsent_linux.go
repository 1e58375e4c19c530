package bulk

import (
	"crypto/tls"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// sending asks the kernel how much of the data written to a connection is still
// unacknowledged.
func sending(conn net.Conn) (l line, ok bool) {
	if c, isTLS := conn.(*tls.Conn); isTLS {
		conn = c.NetConn()
	}
	if c, isBulk := conn.(bulkConn); isBulk {
		conn = c.Conn
	}
	sc, ok := conn.(syscall.Conn)
	if !ok {
		return line{}, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return line{}, false
	}
	var ioctl error
	err = raw.Control(func(fd uintptr) {
		l.unsent, ioctl = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			l.acked = info.Bytes_acked
		}
	})
	return l, err == nil && ioctl == nil
}
