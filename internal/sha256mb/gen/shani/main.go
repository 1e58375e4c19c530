// Command shani generates the kernels for amd64.
package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("!purego")
	leaf7()
	flip := GLOBL("flipWords", RODATA|NOPTR)
	DATA(0, U64(0x0405060700010203))
	DATA(8, U64(0x0c0d0e0f08090a0b))
	words := roundConstants()
	for n := 1; n <= 4; n++ {
		plain(n, words, flip)
	}
	pairs := pairConstants()
	mixed(pairs, flip)
	p := newPairer(flip)
	p.plain(2, words)
	p.plain(4, words)
	p.mixed(pairs)
	w := newWide(words, flip)
	w.blocks()
	newWide(words, flip).pairs(plainInitial(), p.end)
	Generate()
}

func leaf7() {
	TEXT("cpuid7", NOSPLIT, "func() (ebx uint32)")
	Doc("cpuid7 returns EBX of CPUID leaf 7, or 0 if there is no such leaf.")
	XORL(reg.EAX, reg.EAX)
	CPUID()
	XORL(reg.EBX, reg.EBX)
	CMPL(reg.EAX, Imm(7))
	JB(LabelRef("none"))
	MOVL(U32(7), reg.EAX)
	XORL(reg.ECX, reg.ECX)
	CPUID()
	Label("none")
	Store(reg.EBX, ReturnIndex(0))
	RET()
}

// wk is the implicit operand of SHA256RNDS2: two words plus their constants.
var wk = reg.X0

const blockSize = 64

// lane holds the registers and memory of one stream.
type lane struct {
	abef, cdgh reg.VecPhysical
	data       reg.GPPhysical
	savedABEF  Mem // the state before the current block
	savedCDGH  Mem
}

var (
	states, pointers, blocks = reg.RAX, reg.RBX, reg.RCX
	stack                    = Mem{Base: reg.RSI}

	dataRegs  = []reg.GPPhysical{reg.R8, reg.R9, reg.R10, reg.R11}
	stateRegs = []reg.VecPhysical{reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7, reg.X8}
)

// enter loads the arguments and the states of n lanes. The frame has size bytes
// at stack, followed by the saved states.
func enter(n, size int) []lane {
	// Go aligns a frame to 8 bytes only.
	frame := AllocLocal(size + 32*n + 64)
	LEAQ(frame.Offset(63), reg.RSI)
	ANDQ(I8(-64), reg.RSI)
	Load(Param("h"), states)
	Load(Param("p"), pointers)
	Load(Param("n"), blocks)
	// SSE instructions are slow on Intel while the upper halves of registers
	// are in use.
	VZEROUPPER()
	lanes := make([]lane, n)
	for i := range lanes {
		l := &lanes[i]
		l.abef, l.cdgh, l.data = stateRegs[2*i], stateRegs[2*i+1], dataRegs[i]
		l.savedABEF = stack.Offset(size + 32*i)
		l.savedCDGH = stack.Offset(size + 32*i + 16)
		h, t := Mem{Base: reg.RDX}, reg.X15
		MOVQ(Mem{Base: pointers, Disp: 8 * i}, l.data)
		MOVQ(Mem{Base: states, Disp: 8 * i}, reg.RDX)
		// Reorder the words from a to h, lowest first, to the order of the
		// instructions: f e b a and h g d c.
		VPSHUFD(Imm(0xb1), h, t)                 // b a d c
		VPSHUFD(Imm(0x1b), h.Offset(16), l.cdgh) // h g f e
		VPALIGNR(Imm(8), l.cdgh, t, l.abef)
		VPBLENDW(Imm(0xf0), t, l.cdgh, l.cdgh)
	}
	return lanes
}

func leave(lanes []lane) {
	for i, l := range lanes {
		h, t := Mem{Base: reg.RDX}, reg.X15
		MOVQ(Mem{Base: states, Disp: 8 * i}, reg.RDX)
		VPSHUFD(Imm(0x1b), l.abef, t)      // a b e f
		VPSHUFD(Imm(0xb1), l.cdgh, l.cdgh) // g h c d
		VPBLENDW(Imm(0xf0), l.cdgh, t, l.abef)
		VPALIGNR(Imm(8), t, l.cdgh, l.cdgh)
		VMOVDQU(l.abef, h)
		VMOVDQU(l.cdgh, h.Offset(16))
	}
	VZEROUPPER()
	RET()
}

func save(lanes []lane) {
	for _, l := range lanes {
		VMOVDQA(l.abef, l.savedABEF)
		VMOVDQA(l.cdgh, l.savedCDGH)
	}
}

func addSaved(lanes []lane) {
	for _, l := range lanes {
		VPADDD(l.savedABEF, l.abef, l.abef)
		VPADDD(l.savedCDGH, l.cdgh, l.cdgh)
	}
}
