//go:build !unix

package piece_test

import "time"

// cpuTime is not available here.
func cpuTime() time.Duration { return 0 }
