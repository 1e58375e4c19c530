//go:build !purego

package sha256mb

import "golang.org/x/sys/cpu"

//go:generate go run -C gen ./sha2 -out ../sha2_arm64.s

// kernels are all that this machine can run, the best one last.
func kernels() []kernel {
	if !cpu.ARM64.HasSHA2 {
		return []kernel{portable}
	}
	return []kernel{portable, native}
}

// blocks adds n blocks at p[i] to the state h[i], for i < w.
func blocks(w int, h *[maxLanes]*[8]uint32, p *[maxLanes]*byte, n int) {
	switch w {
	case 1:
		sha2Blocks1(h, p, n)
	case 2:
		sha2Blocks2(h, p, n)
	case 3:
		sha2Blocks3(h, p, n)
	case 4:
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
