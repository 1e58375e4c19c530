//go:build !purego

package sha256mb

// mostPairs bounds one call, which the scheduler cannot preempt.
const mostPairs = 4096

// pairs does what SumPairs does for as many messages as there is a kernel of
// their own for, and returns how many that are.
func pairs(dst, src []byte) int {
	if active != mixed {
		return 0
	}
	n := min(len(src)/pairSize, mostPairs) &^ (maxLanes - 1)
	if n > 0 {
		mixedPairs4(&dst[0], &src[0], n/maxLanes)
	}
	return n
}
