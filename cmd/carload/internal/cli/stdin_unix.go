//go:build unix

package cli

import (
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// pollMillis is how soon a waiting read notices that it must end.
const pollMillis = 100

// interruptible returns a reader whose reads end with the context, if it is a
// file that may block.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	if f, ok := r.(*os.File); ok {
		return pollReader{ctx, f}
	}
	return r
}

type pollReader struct {
	ctx context.Context //nolint:containedctx // of all reads
	f   *os.File
}

// Read implements io.Reader.
func (p pollReader) Read(b []byte) (int, error) {
	fds := []unix.PollFd{{Fd: int32(p.f.Fd()), Events: unix.POLLIN}}
	for {
		if err := context.Cause(p.ctx); err != nil {
			return 0, err
		}
		n, err := unix.Poll(fds, pollMillis)
		if err != nil && !errors.Is(err, unix.EINTR) || n > 0 {
			return p.f.Read(b) // it reports what is wrong, if anything is
		}
	}
}
