//go:build !purego

package sha256mb

import "golang.org/x/sys/cpu"

//go:generate go run -C gen ./sha2 -out ../sha2_arm64.s

const (
	sha2x1 kernel = iota + 1
	sha2x2
	sha2x3
	sha2x4
)

func candidates() []candidate {
	if !cpu.ARM64.HasSHA2 {
		return nil
	}
	return []candidate{{sha2x1, "sha2", 1}, {sha2x2, "sha2", 2}, {sha2x3, "sha2", 3}, {sha2x4, "sha2", 4}}
}

// blocks adds n blocks at p[i] to the state h[i], for all lanes i of the kernel.
func blocks(k kernel, h *[maxLanes]*[8]uint32, p *[maxLanes]*byte, n int) {
	switch k {
	case sha2x1:
		sha2Blocks1(h, p, n)
	case sha2x2:
		sha2Blocks2(h, p, n)
	case sha2x3:
		sha2Blocks3(h, p, n)
	case sha2x4:
		sha2Blocks4(h, p, n)
	}
}

//go:noescape
func sha2Blocks1(h *[maxLanes]*[8]uint32, p *[maxLanes]*byte, n int)

//go:noescape
func sha2Blocks2(h *[maxLanes]*[8]uint32, p *[maxLanes]*byte, n int)

//go:noescape
func sha2Blocks3(h *[maxLanes]*[8]uint32, p *[maxLanes]*byte, n int)

//go:noescape
func sha2Blocks4(h *[maxLanes]*[8]uint32, p *[maxLanes]*byte, n int)
