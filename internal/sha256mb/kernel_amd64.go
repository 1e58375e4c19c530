//go:build !purego

package sha256mb

import "golang.org/x/sys/cpu"

//go:generate go run -C gen ./shani -pkg sha256mb -out ../shani_amd64.s -stubs ../shani_amd64.go

// kernels are all that this machine can run, the best one last.
func kernels() []kernel {
	const sha = 1 << 29
	ks := []kernel{portable}
	if cpuid7()&sha == 0 || !cpu.X86.HasAVX {
		return ks
	}
	ks = append(ks, native)
	if cpu.X86.HasAVX2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL {
		ks = append(ks, mixed)
	}
	return ks
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
		if active == mixed {
			mixedBlocks4(h, p, n)
		} else {
			shaniBlocks4(h, p, n)
		}
	}
}
