package sha256mb

import "testing"

var kernelNames = map[kernel]string{portable: "portable", native: "native", mixed: "mixed", wide: "wide"}

// EachKernel runs test with every kernel of this machine in turn. The caller
// must not be a parallel test.
func EachKernel(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	defer func(k kernel) { active = k }(active)
	for _, k := range kernels() {
		active = k
		t.Run(kernelNames[k], test)
	}
}

// Lanes tells whether this machine has a kernel with lanes.
func Lanes() bool { return active != portable }
