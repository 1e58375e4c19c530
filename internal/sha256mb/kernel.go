package sha256mb

// kernel names a routine that advances a fixed number of lanes. Those of an
// architecture are in its file.
type kernel uint8

const none kernel = 0

// candidate is a kernel that this machine can run.
type candidate struct {
	kernel kernel
	name   string // those made alike have one name
	lanes  int
}
