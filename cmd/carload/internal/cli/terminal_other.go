//go:build !windows

package cli

import "io"

// movesCursor reports whether a terminal understands sequences that move the
// cursor. The only one that does not is TERM=dumb, which the caller checks.
func movesCursor(io.Writer) bool { return true }
