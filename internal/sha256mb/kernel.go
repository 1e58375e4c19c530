package sha256mb

// kernel identifies a routine that advances a fixed number of lanes. Each
// architecture's kernels are in its own file.
type kernel uint8

// candidate is a kernel that this machine can run.
type candidate struct {
	kernel kernel
	name   string // kernels of the same design share a name
	lanes  int
}
