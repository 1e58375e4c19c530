package main

import (
	"flag"
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/carload/carload/internal/sha256mb/gen"
)

var turn = 4

// wk is the implicit operand of SHA256RNDS2: two words of message plus constant.
var wk = reg.X0

func main() {
	flag.IntVar(&turn, "turn", 4, "")
	ConstraintExpr("!purego")
	leaf7()
	k := GLOBL("sha256K", RODATA|NOPTR)
	for i, v := range gen.K {
		DATA(4*i, U32(v))
	}
	flip := GLOBL("flipWords", RODATA|NOPTR)
	DATA(0, U64(0x0405060700010203))
	DATA(8, U64(0x0c0d0e0f08090a0b))
	for n := 1; n <= 4; n++ {
		kernel(n, k, flip)
	}
	wide(k, flip)
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

// lane is where the generator keeps one stream: its state in registers, its
// data pointer, and the slots on the stack for what does not fit.
type lane struct {
	abef, cdgh reg.VecPhysical
	data       reg.GPPhysical
	saved      [2]Mem // the state before the block
	words      [4]Mem // the last 16 words of the schedule
}

func kernel(n int, k, flip Mem) {
	TEXT(fmt.Sprintf("shaniBlocks%d", n), NOSPLIT, "func(h *[4]*[8]uint32, p *[4]*byte, n int)")
	Doc(fmt.Sprintf("shaniBlocks%d adds n blocks of 64 bytes at p[i] to the state h[i], for i < %d.", n, n))
	Pragma("noescape")

	vec := []reg.VecPhysical{reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7, reg.X8, reg.X9, reg.X10, reg.X11, reg.X12, reg.X13, reg.X14, reg.X15}
	gp := []reg.GPPhysical{reg.R8, reg.R9, reg.R10, reg.R11}
	// Go aligns a frame to 8 bytes only.
	frame := AllocLocal(n*96 + 64)
	LEAQ(frame.Offset(63), reg.RSI)
	ANDQ(I8(-64), reg.RSI)
	stack := Mem{Base: reg.RSI}
	lanes := make([]lane, n)
	for i := range lanes {
		l := &lanes[i]
		l.abef, l.cdgh, vec = vec[0], vec[1], vec[2:]
		l.data = gp[i]
		at := stack.Offset(96 * i)
		for j := range l.words {
			l.words[j] = at.Offset(16 * j)
		}
		l.saved[0], l.saved[1] = at.Offset(64), at.Offset(80)
	}
	var m [4]reg.VecPhysical
	copy(m[:], vec)
	t := vec[4]

	states, ptrs, blocks := reg.RAX, reg.RBX, reg.RCX
	Load(Param("h"), states)
	Load(Param("p"), ptrs)
	Load(Param("n"), blocks)
	VZEROUPPER()
	for i, l := range lanes {
		MOVQ(Mem{Base: states, Disp: 8 * i}, reg.RDX)
		MOVQ(Mem{Base: ptrs, Disp: 8 * i}, l.data)
		loadState(l, Mem{Base: reg.RDX}, t)
	}

	Label("block")
	for _, l := range lanes {
		VMOVDQU(l.abef, l.saved[0])
		VMOVDQU(l.cdgh, l.saved[1])
	}
	for q := 0; q < 16; q += turn {
		for _, l := range lanes {
			quads(l, q, m, t, k, flip)
		}
	}
	for _, l := range lanes {
		VPADDD(l.saved[0], l.abef, l.abef)
		VPADDD(l.saved[1], l.cdgh, l.cdgh)
		ADDQ(Imm(64), l.data)
	}
	DECQ(blocks)
	JNZ(LabelRef("block"))

	for i, l := range lanes {
		MOVQ(Mem{Base: states, Disp: 8 * i}, reg.RDX)
		storeState(l, Mem{Base: reg.RDX}, t)
	}
	RET()
}

// quads emits turn times four rounds of one lane, from quad q on.
func quads(l lane, q int, m [4]reg.VecPhysical, t reg.VecPhysical, k, flip Mem) {
	last := q+turn == 16
	var have, dirty [4]bool
	use := func(i int) reg.VecPhysical {
		if !have[i%4] {
			VMOVDQU(l.words[i%4], m[i%4])
			have[i%4] = true
		}
		return m[i%4]
	}
	for i := q; i < q+turn; i++ {
		if i < 4 {
			VMOVDQU(Mem{Base: l.data, Disp: 16 * i}, m[i])
			VPSHUFB(flip, m[i], m[i])
			have[i], dirty[i] = true, true
		}
		VPADDD(k.Offset(16*i), use(i), wk)
		SHA256RNDS2(wk, l.abef, l.cdgh)
		if i >= 3 && i < 15 {
			if have[(i-1)%4] {
				VPALIGNR(Imm(4), m[(i-1)%4], m[i%4], t)
			} else {
				VPALIGNR(Imm(4), l.words[(i-1)%4], m[i%4], t)
			}
			if have[(i+1)%4] {
				VPADDD(t, m[(i+1)%4], m[(i+1)%4])
			} else {
				VPADDD(l.words[(i+1)%4], t, m[(i+1)%4])
				have[(i+1)%4] = true
			}
			SHA256MSG2(m[i%4], m[(i+1)%4])
			dirty[(i+1)%4] = true
		}
		VPSHUFD(Imm(0x0e), wk, wk)
		SHA256RNDS2(wk, l.cdgh, l.abef)
		if i >= 1 && i < 13 {
			SHA256MSG1(m[i%4], use(i+3))
			dirty[(i+3)%4] = true
		}
	}
	if !last {
		for j := range m {
			if dirty[j] {
				VMOVDQU(m[j], l.words[j])
			}
		}
	}
}

// loadState brings a state from the order of its words a to h into the order
// of the instructions: f e b a and h g d c, lowest first.
func loadState(l lane, h Mem, t reg.VecPhysical) {
	VPSHUFD(Imm(0xb1), h, t)                 // b a d c
	VPSHUFD(Imm(0x1b), h.Offset(16), l.cdgh) // h g f e
	VPALIGNR(Imm(8), l.cdgh, t, l.abef)      // f e b a
	VPBLENDW(Imm(0xf0), t, l.cdgh, l.cdgh)   // h g d c
}

func storeState(l lane, h Mem, t reg.VecPhysical) {
	VPSHUFD(Imm(0x1b), l.abef, t)          // a b e f
	VPSHUFD(Imm(0xb1), l.cdgh, l.cdgh)     // g h c d
	VPBLENDW(Imm(0xf0), l.cdgh, t, l.abef) // a b c d
	VPALIGNR(Imm(8), t, l.cdgh, l.cdgh)    // e f g h
	VMOVDQU(l.abef, h)
	VMOVDQU(l.cdgh, h.Offset(16))
}

// wide is the kernel of four lanes for machines with AVX-512VL: its sixteen
// further registers hold the schedules of all lanes, which otherwise go
// through the stack at every quad.
func wide(k, flip Mem) {
	const n = 4
	TEXT("shaniWide4", NOSPLIT, "func(h *[4]*[8]uint32, p *[4]*byte, n int)")
	Doc("shaniWide4 is shaniBlocks4 with the registers of AVX-512VL.")
	Pragma("noescape")

	low := []reg.VecPhysical{reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7, reg.X8}
	high := []reg.VecPhysical{
		reg.X16, reg.X17, reg.X18, reg.X19, reg.X20, reg.X21, reg.X22, reg.X23,
		reg.X24, reg.X25, reg.X26, reg.X27, reg.X28, reg.X29, reg.X30, reg.X31,
	}
	temps := []reg.VecPhysical{reg.X9, reg.X10, reg.X11, reg.X12, reg.X13, reg.X14}
	shuffle := reg.X15
	gp := []reg.GPPhysical{reg.R8, reg.R9, reg.R10, reg.R11}
	frame := AllocLocal(n*32 + 64)
	LEAQ(frame.Offset(63), reg.RSI)
	ANDQ(I8(-64), reg.RSI)
	stack := Mem{Base: reg.RSI}
	var lanes [n]lane
	var words [n][]reg.VecPhysical
	for i := range lanes {
		l := &lanes[i]
		l.abef, l.cdgh = low[2*i], low[2*i+1]
		l.data = gp[i]
		words[i] = high[4*i : 4*i+4]
		l.saved[0], l.saved[1] = stack.Offset(32*i), stack.Offset(32*i+16)
	}
	states, ptrs, blocks := reg.RAX, reg.RBX, reg.RCX
	Load(Param("h"), states)
	Load(Param("p"), ptrs)
	Load(Param("n"), blocks)
	VZEROUPPER()
	for i, l := range lanes {
		MOVQ(Mem{Base: states, Disp: 8 * i}, reg.RDX)
		MOVQ(Mem{Base: ptrs, Disp: 8 * i}, l.data)
		loadState(l, Mem{Base: reg.RDX}, temps[0])
	}
	VMOVDQU(flip, shuffle)

	Label("block")
	for _, l := range lanes {
		VMOVDQU(l.abef, l.saved[0])
		VMOVDQU(l.cdgh, l.saved[1])
	}
	for q := 0; q < 16; q++ {
		for i, l := range lanes {
			w := words[i]
			t1, t2 := temps[0], temps[1]
			if q < 4 {
				VMOVDQU(Mem{Base: l.data, Disp: 16 * q}, t1)
				VPSHUFB(shuffle, t1, t1)
				VMOVDQA32(t1, w[q])
				VPADDD(k.Offset(16*q), t1, wk)
			} else {
				VPADDD(k.Offset(16*q), w[q%4], wk)
			}
			SHA256RNDS2(wk, l.abef, l.cdgh)
			VPSHUFD(Imm(0x0e), wk, wk)
			SHA256RNDS2(wk, l.cdgh, l.abef)
			// Words 4(q-3) and on make words 4(q+1) and on.
			if q >= 3 && q < 15 {
				r := q + 1
				VMOVDQA32(w[r%4], t1)
				VMOVDQA32(w[(r+1)%4], t2)
				SHA256MSG1(t2, t1)
				VMOVDQA32(w[(r+3)%4], t2)
				VPALIGNR(Imm(4), w[(r+2)%4], t2, wk)
				VPADDD(wk, t1, t1)
				SHA256MSG2(t2, t1)
				VMOVDQA32(t1, w[r%4])
			}
		}
	}
	for _, l := range lanes {
		VPADDD(l.saved[0], l.abef, l.abef)
		VPADDD(l.saved[1], l.cdgh, l.cdgh)
		ADDQ(Imm(64), l.data)
	}
	DECQ(blocks)
	JNZ(LabelRef("block"))

	for i, l := range lanes {
		MOVQ(Mem{Base: states, Disp: 8 * i}, reg.RDX)
		storeState(l, Mem{Base: reg.RDX}, temps[0])
	}
	VZEROUPPER()
	RET()
}
