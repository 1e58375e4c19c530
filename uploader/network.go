package uploader

import (
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"syscall"

	"github.com/carload/carload/internal/bulk"
)

// NetworkError is an error of the way to a target, or of what answered there: a
// name that can't be looked up, a connection, a certificate, a reply that was
// cut or is not what the target says. A target wraps the errors of its transport
// in it. They have to be told from errors of this machine's files, which can be
// of the same types: each number of the operating system is a [net.Error].
//
// Trying again can help unless an error inside has a Retry method that says
// no: see [Retryable].
type NetworkError = bulk.NetworkError

// isLocal tells an error of this machine, such as that of a file.
func isLocal(err error) bool {
	var (
		network *NetworkError
		request *url.Error
		op      *net.OpError
		path    *fs.PathError
		link    *os.LinkError
		call    *os.SyscallError
		number  syscall.Errno
	)
	// A target that wraps nothing has the types of the standard library.
	if errors.As(err, &network) || errors.As(err, &request) || errors.As(err, &op) {
		return false
	}
	return errors.As(err, &path) || errors.As(err, &link) || errors.As(err, &call) || errors.As(err, &number)
}
