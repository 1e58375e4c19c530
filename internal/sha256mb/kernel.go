package sha256mb

// kernel is a way to compute.
type kernel uint8

const (
	portable kernel = iota // crypto/sha256
	native                 // the SHA instructions of this architecture
	mixed                  // the same, beside AVX-512
)

// active is what this machine computes with. Only tests change it.
var active = best()

func best() kernel {
	ks := kernels()
	return ks[len(ks)-1]
}
