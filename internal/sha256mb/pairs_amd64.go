//go:build !purego

package sha256mb

// mostPairs bounds one call, which the scheduler cannot preempt.
const mostPairs = 4096

// pairs does what SumPairs does for as many messages as there is a kernel of
// their own for, beside kernel k, and returns how many that are.
func pairs(k kernel, dst, src []byte) int {
	n := min(len(src)/pairSize, mostPairs)
	switch {
	case k == mixed4 && n >= 4:
		n &^= 3
		mixedPairs4(&dst[0], &src[0], n/4)
	case k == shani4 && n >= 4:
		n &^= 3
		shaniPairs4(&dst[0], &src[0], n/4)
	case (k == shani2 || k == shani3) && n >= 2:
		n &^= 1
		shaniPairs2(&dst[0], &src[0], n/2)
	default:
		return 0
	}
	return n
}
