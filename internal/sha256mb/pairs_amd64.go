//go:build !purego

package sha256mb

// mostPairs limits one call, since the scheduler cannot preempt it.
const mostPairs = 4096

// pairs hashes the first messages of src with the SumPairs kernel that goes
// with kernel k. It returns how many it hashed, which is 0 if there is no such
// kernel.
func pairs(k kernel, dst, src []byte) int {
	n := min(len(src)/pairSize, mostPairs)
	switch {
	case k == wide16 && n >= 16:
		n &^= 15
		widePairs16(&dst[0], &src[0], n/16)
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
