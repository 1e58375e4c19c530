//go:build !windows

package cli

import "io"

// movesCursor reports whether a terminal understands the sequences that move the
// cursor. TERM=dumb, which the caller looks at, is the one that does not.
func movesCursor(io.Writer) bool { return true }
