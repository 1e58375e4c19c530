package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/carload/carload/internal/sha256mb/gen"
)

// mixed emits a kernel of four lanes that also needs AVX-512. Only the rounds
// use the SHA instructions. The schedules of all lanes are computed together,
// without SHA256MSG1 and SHA256MSG2: those are microcoded and take six
// operations on the pipes that the rounds need. On a Zen 4 core this kernel
// reaches 5.0 GiB/s and the plain one 4.3 (November 2026).
//
// SHA256RNDS2 takes two words. So pair k of the schedule, the words 2k and
// 2k+1, is kept in one register, which has the two words of lane l in its
// 64-bit element l. The odd pair k, the words 2k+1 and 2k+2, is kept the same
// way. With sums of pairs the schedule is
//
//	pair k = pair k-8 + odd k-4 + σ0(odd k-8) + σ1(pair k-1)
//
// The pairs plus constants go through a ring on the stack, from which the
// rounds of each lane load their element.
func mixed(k, flip Mem) {
	TEXT("mixedBlocks4", NOSPLIT, "func(h *[16]*[8]uint32, p *[16]*byte, n int)")
	Doc("mixedBlocks4 adds n blocks at p[i] to the state h[i], for i < 4.")
	Pragma("noescape")
	// The ring has eight slots: pair k+8 is stored after the rounds have loaded
	// pair k.
	m := mixer{lanes: enter(4, 8*32), k: k, flip: flip}

	// Selects words 0 and 1 of each group of four, in the lower halves of
	// 64-bit elements.
	MOVL(U32(0x5555), reg.EDX)
	KMOVW(reg.EDX, reg.K1)
	VBROADCASTI128(flip, m.mask())
	for j := range 4 {
		each(m.load(j))
	}

	Label("block")
	// While the kernel finishes a block, it loads the next one. After the last
	// block it loads the last block again, since the memory behind it is not
	// ours to read.
	XORL(reg.EDI, reg.EDI)
	MOVL(U32(blockSize), reg.EDX)
	CMPQ(blocks, Imm(1))
	CMOVLNE(reg.EDX, reg.EDI)
	save(m.lanes)
	for _, l := range m.lanes {
		ADDQ(reg.RDI, l.data)
	}
	for r := range 24 {
		m.turn(r)
	}
	VBROADCASTI128(flip, m.mask())
	for j := range 4 {
		m.lastTurns(24+2*j, m.load(j))
	}
	addSaved(m.lanes)
	DECQ(blocks)
	JNZ(LabelRef("block"))
	leave(m.lanes)
}

// pairConstants is a table of all pairs of constants, each repeated for every
// lane.
func pairConstants() Mem {
	k := GLOBL("pairConstants", RODATA|NOPTR)
	for i := 0; i < len(gen.K); i += 2 {
		for l := range 4 {
			DATA(16*i+8*l, U64(uint64(gen.K[i+1])<<32|uint64(gen.K[i])))
		}
	}
	return k
}

type mixer struct {
	lanes   []lane
	k, flip Mem
}

func (*mixer) pair(k int) reg.VecPhysical {
	return []reg.VecPhysical{
		reg.Y16, reg.Y17, reg.Y18, reg.Y19, reg.Y20, reg.Y21, reg.Y22, reg.Y23,
	}[k%8]
}

func (*mixer) odd(k int) reg.VecPhysical {
	return []reg.VecPhysical{
		reg.Y24, reg.Y25, reg.Y26, reg.Y27, reg.Y28, reg.Y29, reg.Y30, reg.Y31,
	}[k%8]
}

func (*mixer) slot(k int) Mem { return stack.Offset(32 * (k % 8)) }

// mask is the register for the byte-swap mask. Turns overwrite it.
func (*mixer) mask() reg.VecPhysical { return reg.Y11 }

// rounds emits rounds 2r and 2r+1 of one lane.
func (m *mixer) rounds(r, lane int) {
	l := m.lanes[lane]
	VMOVQ(m.slot(r).Offset(8*lane), wk)
	if r%2 == 0 {
		SHA256RNDS2(wk, l.abef, l.cdgh)
	} else {
		SHA256RNDS2(wk, l.cdgh, l.abef)
	}
}

// turn emits rounds 2r and 2r+1 of all lanes, pair r+8 of the schedule, and the
// part of pair r+9 that does not depend on pair r+8.
//
// A search through thousands of small changes on a Zen 4 core found this order
// (November 2026). A turn takes 5.35 cycles; other orders of the same
// operations take up to 6.6. SHA256RNDS2 and the rotations share two of the
// four pipes, and shifts and shuffles run on the other two. Operations that any
// pipe can run often go to one that the rounds then have to wait for.
func (m *mixer) turn(r int) {
	k := r + 8
	a, b, c := reg.Y9, reg.Y10, reg.Y11
	d, e, f := reg.Y12, reg.Y13, reg.Y14
	before := k < 31

	if before {
		VPRORD(Imm(7), m.odd(k-7), a)
		VPRORD(Imm(18), m.odd(k-7), b)
	}
	m.rounds(r, 0)
	VPRORD(Imm(17), m.pair(k-1), d)
	VPRORD(Imm(19), m.pair(k-1), e)
	m.rounds(r, 1)
	m.rounds(r, 2)
	if before {
		VPADDD(m.odd(k-3), m.pair(k-7), m.pair(k+1))
		VPSRLD(Imm(3), m.odd(k-7), c)
	}
	m.rounds(r, 3)
	VPSRLD(Imm(10), m.pair(k-1), f)
	if before {
		VPTERNLOGD(Imm(0x96), a, b, c)
	}
	VPTERNLOGD(Imm(0x96), d, e, f)
	VPADDD(f, m.pair(k), m.pair(k))
	VPADDD(m.k.Offset(32*k), m.pair(k), reg.Y15)
	if k-1 < 28 {
		each(m.makeOdd(k - 1))
	}
	if before {
		VPADDD(c, m.pair(k+1), m.pair(k+1))
	}
	VMOVDQU(reg.Y15, m.slot(k))
}

// lastTurns emits two turns of all lanes' rounds, with other operations in
// between.
func (m *mixer) lastTurns(r int, ops []func()) {
	done := 0
	for i := range 8 {
		m.rounds(r+i/4, i%4)
		for ; done < len(ops)*(i+1)/8; done++ {
			ops[done]()
		}
	}
}

// load makes pairs 2j and 2j+1 of the next block from its data, the odd pairs
// that they complete, and at the end the part of pair 8 that a turn computes
// ahead.
func (m *mixer) load(j int) []func() {
	at := func(lane int) Mem { return Mem{Base: m.lanes[lane].data, Disp: 16 * j} }
	a, b, c := reg.Y9, reg.Y10, m.mask()
	ops := []func(){
		func() { VMOVDQU(at(0), a.AsX()) },
		func() { VMOVDQU(at(1), b.AsX()) },
		func() { VINSERTI128(Imm(1), at(2), a, a) },
		func() { VINSERTI128(Imm(1), at(3), b, b) },
		func() { VPSHUFB(c, a, a) },
		func() { VPSHUFB(c, b, b) },
		func() { VPUNPCKLQDQ(b, a, m.pair(2*j)) },
		func() { VPUNPCKHQDQ(b, a, m.pair(2*j+1)) },
	}
	if j > 0 {
		ops = append(ops, m.makeOdd(2*j-1)...)
	}
	ops = append(ops, m.makeOdd(2*j)...)
	if j == 3 {
		ops = append(ops,
			func() { VPRORD(Imm(7), m.odd(0), a) },
			func() { VPRORD(Imm(18), m.odd(0), b) },
			func() { VPSRLD(Imm(3), m.odd(0), c) },
			func() { VPADDD(m.odd(4), m.pair(0), m.pair(8)) },
			func() { VPTERNLOGD(Imm(0x96), a, b, c) },
			func() { VPADDD(c, m.pair(8), m.pair(8)) },
		)
	}
	// These go last, after the rounds have loaded what is in these slots.
	for k := 2 * j; k <= 2*j+1; k++ {
		ops = append(ops,
			func() { VPADDD(m.k.Offset(32*k), m.pair(k), reg.Y15) },
			func() { VMOVDQU(reg.Y15, m.slot(k)) },
		)
	}
	return ops
}

// makeOdd makes odd pair k from pairs k and k+1.
func (m *mixer) makeOdd(k int) []func() {
	return []func(){
		func() { VPBLENDMD(m.pair(k+1), m.pair(k), reg.K1, m.odd(k)) },
		func() { VPSHUFD(Imm(0xb1), m.odd(k), m.odd(k)) },
	}
}

func each(ops []func()) {
	for _, op := range ops {
		op()
	}
}
