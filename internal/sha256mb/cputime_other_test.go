//go:build !unix

package sha256mb_test

import "time"

// cpuTime is not known here.
func cpuTime() time.Duration { return 0 }
