//go:build !purego

package sha256mb

import "golang.org/x/sys/cpu"

//go:generate go run -C gen ./shani -pkg sha256mb -out ../shani_amd64.s -stubs ../shani_amd64.go

const (
	shani1 kernel = iota + 1
	shani2
	shani3
	shani4
	mixed4
	wide16
)

func candidates() []candidate {
	const sha = 1 << 29
	if cpuid7()&sha == 0 || !cpu.X86.HasAVX {
		return nil
	}
	cs := []candidate{{shani1, "sha-ni", 1}, {shani2, "sha-ni", 2}, {shani3, "sha-ni", 3}, {shani4, "sha-ni", 4}}
	if cpu.X86.HasAVX2 && cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL {
		cs = append(cs, candidate{mixed4, "sha-ni+avx512", 4})
		if cpu.X86.HasAVX512BW {
			cs = append(cs, candidate{wide16, "avx512", 16})
		}
	}
	return cs
}

// blocks adds n blocks at p[i] to the state h[i], for all lanes i of the kernel.
func blocks(k kernel, h *[maxLanes]*[8]uint32, p *[maxLanes]*byte, n int) {
	switch k {
	case shani1:
		shaniBlocks1(h, p, n)
	case shani2:
		shaniBlocks2(h, p, n)
	case shani3:
		shaniBlocks3(h, p, n)
	case shani4:
		shaniBlocks4(h, p, n)
	case mixed4:
		mixedBlocks4(h, p, n)
	case wide16:
		wideBlocks16(h, p, n)
	}
}
