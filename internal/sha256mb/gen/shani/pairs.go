package main

import (
	"math/bits"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/carload/carload/internal/sha256mb/gen"
)

// mixedPairs emits the kernel of SumPairs for four pairs at a time: what mixed
// does, for messages of 64 bytes that lie one after the other. The first block
// is the message and starts from the constant state; the second is the same for
// all, so its schedule is a table, and there is time beside its rounds to load
// the next four.
func mixedPairs(flip, k Mem) {
	TEXT("mixedPairs4", NOSPLIT, "func(dst, src *byte, n int)")
	Doc("mixedPairs4 writes the digests of 4n messages of 64 bytes at src to dst.")
	Pragma("noescape")
	const ring = 8 * 32
	frame := AllocLocal(ring + 32*4 + 64)
	LEAQ(frame.Offset(63), reg.RSI)
	ANDQ(I8(-64), reg.RSI)
	dst := reg.RAX
	Load(Param("dst"), dst)
	Load(Param("src"), dataRegs[0])
	Load(Param("n"), blocks)
	VZEROUPPER()
	m := mixer{lanes: make([]lane, 4), k: k, flip: flip}
	for i := range m.lanes {
		l := &m.lanes[i]
		l.abef, l.cdgh, l.data = stateRegs[2*i], stateRegs[2*i+1], dataRegs[i]
		l.savedABEF = stack.Offset(ring + 32*i)
		l.savedCDGH = stack.Offset(ring + 32*i + 16)
		if i > 0 {
			LEAQ(Mem{Base: dataRegs[0], Disp: blockSize * i}, l.data)
		}
	}
	initial := GLOBL("initialState", RODATA|NOPTR)
	for i, v := range []int{5, 4, 1, 0, 7, 6, 3, 2} {
		DATA(4*i, U32(gen.Initial[v]))
	}
	end := endSchedule()

	MOVL(U32(0x5555), reg.EDX)
	KMOVW(reg.EDX, reg.K1)
	VBROADCASTI128(flip, m.mask())
	for j := range 4 {
		each(m.load(j))
	}

	Label("four")
	XORL(reg.EDI, reg.EDI)
	MOVL(U32(4*blockSize), reg.EDX)
	CMPQ(blocks, Imm(1))
	CMOVLNE(reg.EDX, reg.EDI) // behind the last four nothing is ours to read
	for _, l := range m.lanes {
		VMOVDQU(initial, l.abef)
		VMOVDQU(initial.Offset(16), l.cdgh)
		ADDQ(reg.RDI, l.data)
	}
	for r := range 24 {
		m.turn(r)
	}
	for r := 24; r < 32; r++ {
		for l := range m.lanes {
			m.rounds(r, l)
		}
	}
	for _, l := range m.lanes {
		VPADDD(initial, l.abef, l.abef)
		VPADDD(initial.Offset(16), l.cdgh, l.cdgh)
	}
	save(m.lanes)
	VBROADCASTI128(flip, m.mask())
	var loads []func()
	for j := range 4 {
		loads = append(loads, m.load(j)...)
	}
	done := 0
	for r := range 32 {
		VMOVQ(end.Offset(8*r), wk)
		for i, l := range m.lanes {
			if r%2 == 0 {
				SHA256RNDS2(wk, l.abef, l.cdgh)
			} else {
				SHA256RNDS2(wk, l.cdgh, l.abef)
			}
			for ; done < len(loads)*(4*r+i+1)/128; done++ {
				loads[done]()
			}
		}
	}
	addSaved(m.lanes)
	for i, l := range m.lanes {
		t := reg.X15
		VPSHUFD(Imm(0x1b), l.abef, t)      // a b e f
		VPSHUFD(Imm(0xb1), l.cdgh, l.cdgh) // g h c d
		VPBLENDW(Imm(0xf0), l.cdgh, t, l.abef)
		VPALIGNR(Imm(8), t, l.cdgh, l.cdgh)
		VPSHUFB(flip, l.abef, l.abef)
		VPSHUFB(flip, l.cdgh, l.cdgh)
		VMOVDQU(l.abef, Mem{Base: dst, Disp: 32 * i})
		VMOVDQU(l.cdgh, Mem{Base: dst, Disp: 32*i + 16})
	}
	ADDQ(Imm(4*32), dst)
	DECQ(blocks)
	JNZ(LabelRef("four"))
	VZEROUPPER()
	RET()
}

// endSchedule is a table of the words of the block that ends a message of 64
// bytes, plus their constants.
func endSchedule() Mem {
	var w [64]uint32
	w[0], w[15] = 1<<31, 64*8
	for i := 16; i < 64; i++ {
		a, b := w[i-15], w[i-2]
		w[i] = w[i-16] + w[i-7] +
			(bits.RotateLeft32(a, -7) ^ bits.RotateLeft32(a, -18) ^ a>>3) +
			(bits.RotateLeft32(b, -17) ^ bits.RotateLeft32(b, -19) ^ b>>10)
	}
	table := GLOBL("endSchedule", RODATA|NOPTR)
	for i := range w {
		DATA(4*i, U32(w[i]+gen.K[i]))
	}
	return table
}
