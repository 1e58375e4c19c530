//go:build !unix

package cli

import (
	"context"
	"io"
)

// interruptible returns the reader unchanged: here nothing can end its reads.
func interruptible(_ context.Context, r io.Reader) io.Reader { return r }
