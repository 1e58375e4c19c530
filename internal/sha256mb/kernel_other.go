//go:build purego || !(amd64 || arm64)

package sha256mb

func kernels() []kernel { return []kernel{portable} }

func blocks(int, *[maxLanes]*[8]uint32, *[maxLanes]*byte, int) {
	panic("sha256mb: no kernel")
}
