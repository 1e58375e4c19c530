package sha256mb

import "testing"

var kernelNames = map[kernel]string{portable: "portable", native: "native", mixed: "mixed"}

// EachKernel runs test with every kernel of this machine in turn. The caller
// must not be a parallel test.
func EachKernel(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	WithKernels(func(name string) { t.Run(name, test) })
}

// WithKernels is EachKernel for what has no *testing.T.
func WithKernels(do func(name string)) {
	defer func(k kernel) { active = k }(active)
	for _, k := range kernels() {
		active = k
		do(kernelNames[k])
	}
}

// Lanes tells whether this machine has a kernel with lanes.
func Lanes() bool { return active != portable }
