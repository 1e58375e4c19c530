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

// NetworkError is an error on the way to a target, or of what answered there: a
// name that cannot be resolved, a connection, a certificate, a reply that was
// cut short or makes no sense. A target must wrap the errors of its transport
// in it, to distinguish them from errors of local files, which can have the
// same types: every syscall.Errno is a [net.Error].
//
// Trying again may help, unless an error inside has a Retry method that says
// no; see [Retryable].
type NetworkError = bulk.NetworkError

// isLocal reports whether an error comes from this machine, such as from a
// file.
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
	// Errors of a target that does not wrap them have types of the standard
	// library.
	if errors.As(err, &network) || errors.As(err, &request) || errors.As(err, &op) {
		return false
	}
	return errors.As(err, &path) || errors.As(err, &link) || errors.As(err, &call) || errors.As(err, &number)
}
