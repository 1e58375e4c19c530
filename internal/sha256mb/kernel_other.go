//go:build purego || !(amd64 || arm64)

package sha256mb

func candidates() []candidate { return nil }

func blocks(kernel, *[maxLanes]*[8]uint32, *[maxLanes]*byte, int) {
	panic("sha256mb: no kernel")
}
