//go:build !purego

package sha256mb

import "golang.org/x/sys/cpu"

//go:generate go run -C gen ./shani -pkg sha256mb -out ../shani_amd64.s -stubs ../shani_amd64.go

// kernels are all that this machine can run, the best one last.
func kernels() []kernel {
	const sha = 1 << 29
	if cpuid7()&sha == 0 || !cpu.X86.HasAVX {
		return []kernel{portable}
	}
	if !cpu.X86.HasAVX512VL || !cpu.X86.HasAVX512BW {
		return []kernel{portable, native}
	}
	return []kernel{portable, native, wide}
}

// blocks adds n blocks at p[i] to the state h[i], for i < w.
func blocks(w int, h *[maxLanes]*[8]uint32, p *[maxLanes]*byte, n int) {
	switch w {
	case 1:
		shaniBlocks1(h, p, n)
	case 2:
		shaniBlocks2(h, p, n)
	case 3:
		shaniBlocks3(h, p, n)
	case 4:
		if active == wide {
			shaniWide4(h, p, n)
		} else {
			shaniBlocks4(h, p, n)
		}
	}
}
