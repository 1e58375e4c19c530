package main

import (
	"fmt"
	"math/bits"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/carload/carload/internal/sha256mb/gen"
)

// pairer emits kernels of SumPairs. A message has 64 bytes: one block, which
// starts from the initial state. The second block holds only padding and is the
// same for all messages, so its schedule is a table. Lanes take consecutive
// messages.
type pairer struct {
	flip         Mem
	initial, end Mem
}

var pairsOut = reg.RAX // where the next digests are stored

func newPairer(flip Mem) pairer {
	p := pairer{flip: flip, initial: GLOBL("initialState", RODATA|NOPTR)}
	for i, v := range []int{5, 4, 1, 0, 7, 6, 3, 2} {
		DATA(4*i, U32(gen.Initial[v]))
	}
	p.end = endSchedule()
	return p
}

// enter loads the arguments for n lanes. The frame has size bytes at stack,
// followed by the states.
func (p pairer) enter(n, size int) []lane {
	frame := AllocLocal(size + 32*n + 64)
	LEAQ(frame.Offset(63), reg.RSI)
	ANDQ(I8(-64), reg.RSI)
	Load(Param("dst"), pairsOut)
	Load(Param("src"), dataRegs[0])
	Load(Param("n"), blocks)
	VZEROUPPER()
	lanes := make([]lane, n)
	for i := range lanes {
		l := &lanes[i]
		l.abef, l.cdgh, l.data = stateRegs[2*i], stateRegs[2*i+1], dataRegs[i]
		l.savedABEF = stack.Offset(size + 32*i)
		l.savedCDGH = stack.Offset(size + 32*i + 16)
		if i > 0 {
			LEAQ(Mem{Base: dataRegs[0], Disp: blockSize * i}, l.data)
		}
	}
	return lanes
}

func (p pairer) start(lanes []lane) {
	for _, l := range lanes {
		VMOVDQU(p.initial, l.abef)
		VMOVDQU(p.initial.Offset(16), l.cdgh)
	}
}

// finish computes the digests from the states after the first block's rounds,
// with other operations in between, and stores them.
func (p pairer) finish(lanes []lane, others []func()) {
	for _, l := range lanes {
		VPADDD(p.initial, l.abef, l.abef)
		VPADDD(p.initial.Offset(16), l.cdgh, l.cdgh)
	}
	save(lanes)
	done := 0
	for r := range 32 {
		VMOVQ(p.end.Offset(8*r), wk)
		for i, l := range lanes {
			if r%2 == 0 {
				SHA256RNDS2(wk, l.abef, l.cdgh)
			} else {
				SHA256RNDS2(wk, l.cdgh, l.abef)
			}
			for ; done < len(others)*(len(lanes)*r+i+1)/(32*len(lanes)); done++ {
				others[done]()
			}
		}
	}
	addSaved(lanes)
	for i, l := range lanes {
		t := reg.X15
		VPSHUFD(Imm(0x1b), l.abef, t)      // a b e f
		VPSHUFD(Imm(0xb1), l.cdgh, l.cdgh) // g h c d
		VPBLENDW(Imm(0xf0), l.cdgh, t, l.abef)
		VPALIGNR(Imm(8), t, l.cdgh, l.cdgh)
		VPSHUFB(p.flip, l.abef, l.abef)
		VPSHUFB(p.flip, l.cdgh, l.cdgh)
		VMOVDQU(l.abef, Mem{Base: pairsOut, Disp: 32 * i})
		VMOVDQU(l.cdgh, Mem{Base: pairsOut, Disp: 32*i + 16})
	}
	ADDQ(U8(32*len(lanes)), pairsOut)
}

// plain emits a kernel of n lanes for the same processors as the function
// plain.
func (p pairer) plain(n int, k Mem) {
	TEXT(fmt.Sprintf("shaniPairs%d", n), NOSPLIT, "func(dst, src *byte, n int)")
	Doc(fmt.Sprintf("shaniPairs%d writes the digests of %[1]d×n messages of 64 bytes at src to dst.", n))
	Pragma("noescape")
	q := newQuads(p.enter(n, 64*n), k, p.flip)
	Label("group")
	p.start(q.lanes)
	q.block()
	p.finish(q.lanes, nil)
	for _, l := range q.lanes {
		ADDQ(U32(blockSize*n), l.data)
	}
	DECQ(blocks)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// mixed emits a kernel of four lanes in the way of the function mixed. During
// the rounds of the second block it loads the next four messages.
func (p pairer) mixed(k Mem) {
	TEXT("mixedPairs4", NOSPLIT, "func(dst, src *byte, n int)")
	Doc("mixedPairs4 writes the digests of 4×n messages of 64 bytes at src to dst.")
	Pragma("noescape")
	m := mixer{lanes: p.enter(4, 8*32), k: k, flip: p.flip}

	MOVL(U32(0x5555), reg.EDX)
	KMOVW(reg.EDX, reg.K1)
	VBROADCASTI128(p.flip, m.mask())
	for j := range 4 {
		each(m.load(j))
	}

	Label("four")
	XORL(reg.EDI, reg.EDI)
	MOVL(U32(4*blockSize), reg.EDX)
	CMPQ(blocks, Imm(1))
	CMOVLNE(reg.EDX, reg.EDI) // after the last four messages, nothing more is ours to read
	p.start(m.lanes)
	for _, l := range m.lanes {
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
	VBROADCASTI128(p.flip, m.mask())
	var loads []func()
	for j := range 4 {
		loads = append(loads, m.load(j)...)
	}
	p.finish(m.lanes, loads)
	DECQ(blocks)
	JNZ(LabelRef("four"))
	VZEROUPPER()
	RET()
}

// endSchedule is a table of the schedule words, plus their constants, of the
// block that ends a message of 64 bytes.
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
