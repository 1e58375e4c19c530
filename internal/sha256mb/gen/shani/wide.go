package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/carload/carload/internal/sha256mb/gen"
)

// wideLanes is the number of 32-bit words in an AVX-512 register.
const wideLanes = 16

// wide emits the kernels of sixteen lanes. They don't use the SHA instructions:
// a register holds the same word of all lanes, and each step of a round is one
// operation for all of them. That takes about 1,850 operations for sixteen
// blocks. A Zen 5 core starts four 512-bit operations per cycle, and reaches
// 6.3 GiB/s; with four lanes and the SHA instructions it reaches 3.3 (November
// 2026).
type wide struct {
	flip Mem
	k    Mem
	// What each register holds at this point. The names rotate; the contents
	// stay where they are.
	state [8]reg.VecPhysical  // a to h
	words [16]reg.VecPhysical // the last sixteen words of the schedule
	spare [6]reg.VecPhysical
}

func newWide(k, flip Mem) *wide {
	w := &wide{k: k, flip: flip}
	z := []reg.VecPhysical{
		reg.Z0, reg.Z1, reg.Z2, reg.Z3, reg.Z4, reg.Z5, reg.Z6, reg.Z7,
		reg.Z8, reg.Z9, reg.Z10, reg.Z11, reg.Z12, reg.Z13,
		reg.Z16, reg.Z17, reg.Z18, reg.Z19, reg.Z20, reg.Z21, reg.Z22, reg.Z23,
		reg.Z24, reg.Z25, reg.Z26, reg.Z27, reg.Z28, reg.Z29, reg.Z30, reg.Z31,
	}
	copy(w.state[:], z)
	copy(w.spare[:], z[8:])
	copy(w.words[:], z[14:])
	return w
}

// flipper is the register for the byte-swap mask. The rounds don't use it.
func (*wide) flipper() reg.VecPhysical { return reg.Z14 }

func (w *wide) blocks() {
	TEXT("wideBlocks16", NOSPLIT, "func(h *[16]*[8]uint32, p *[16]*byte, n int)")
	Doc("wideBlocks16 adds n blocks at p[i] to the state h[i], for i < 16.")
	Pragma("noescape")
	w.enter()
	Load(Param("h"), states)
	Load(Param("p"), pointers)
	Load(Param("n"), blocks)
	w.loadStates()
	XORL(reg.EDI, reg.EDI)
	Label("block")
	w.save()
	for i, r := range w.words {
		MOVQ(Mem{Base: pointers, Disp: 8 * i}, reg.RDX)
		VMOVDQU32(Mem{Base: reg.RDX, Index: reg.RDI, Scale: 1}, r)
	}
	w.transpose()
	w.rounds()
	w.addSaved()
	ADDQ(Imm(blockSize), reg.RDI)
	DECQ(blocks)
	JNZ(LabelRef("block"))
	w.storeStates()
	VZEROUPPER()
	RET()
}

// enter allocates the frame, and loads the byte-swap mask.
func (w *wide) enter() {
	frame := AllocLocal(8*64 + 64)
	LEAQ(frame.Offset(63), reg.RSI)
	ANDQ(I8(-64), reg.RSI)
	VBROADCASTI32X4(w.flip, w.flipper())
}

// swap replaces x and y by the results of two instructions on both.
func (w *wide) swap(x, y *reg.VecPhysical, first, second func(x, y, to reg.VecPhysical)) {
	t := w.spare[0]
	first(*x, *y, t)
	second(*x, *y, *y)
	*x, w.spare[0] = t, *x
}

// zipWords, zipPairs and splitQuads rearrange two registers: by single words,
// by two, and by four.
func (w *wide) zipWords(x, y *reg.VecPhysical) {
	w.swap(x, y, func(x, y, to reg.VecPhysical) { VPUNPCKLDQ(y, x, to) }, func(x, y, to reg.VecPhysical) { VPUNPCKHDQ(y, x, to) })
}

func (w *wide) zipPairs(x, y *reg.VecPhysical) {
	w.swap(x, y, func(x, y, to reg.VecPhysical) { VPUNPCKLQDQ(y, x, to) }, func(x, y, to reg.VecPhysical) { VPUNPCKHQDQ(y, x, to) })
}

func (w *wide) splitQuads(x, y *reg.VecPhysical) {
	w.swap(x, y,
		func(x, y, to reg.VecPhysical) { VSHUFI32X4(Imm(0x88), y, x, to) },
		func(x, y, to reg.VecPhysical) { VSHUFI32X4(Imm(0xdd), y, x, to) })
}

// turn transposes squares of four by four words: in each quarter of r, word i
// of register j becomes word j of register i.
func (w *wide) turn(r []reg.VecPhysical) {
	w.zipWords(&r[0], &r[1]) // 00 10 01 11, and 02 12 03 13
	w.zipWords(&r[2], &r[3])
	w.zipPairs(&r[0], &r[2]) // words 0, and words 1
	w.zipPairs(&r[1], &r[3]) // words 2, and words 3
	r[1], r[2] = r[2], r[1]
}

// transpose turns a register per lane into a register per word.
func (w *wide) transpose() {
	for i := range w.words {
		VPSHUFB(w.flipper(), w.words[i], w.words[i])
	}
	for i := 0; i < 16; i += 4 {
		w.turn(w.words[i : i+4])
	}
	// Quarter q of register 4g+i is word 4q+i of lanes 4g to 4g+3.
	var to [16]reg.VecPhysical
	for i := range 4 {
		a, b, c, d := w.words[i], w.words[4+i], w.words[8+i], w.words[12+i]
		w.splitQuads(&a, &b) // quarters 0 and 2 of both, and quarters 1 and 3
		w.splitQuads(&c, &d)
		w.splitQuads(&a, &c)
		w.splitQuads(&b, &d)
		to[i], to[4+i], to[8+i], to[12+i] = a, b, c, d
	}
	w.words = to
}

func (w *wide) loadStates() {
	// A register holds two lanes: lane i of the first half, and lane i+4.
	for i := range w.state {
		lane := i%4 + i/4*8
		MOVQ(Mem{Base: states, Disp: 8 * lane}, reg.RDX)
		VMOVDQU(Mem{Base: reg.RDX}, w.state[i].AsY())
		MOVQ(Mem{Base: states, Disp: 8 * (lane + 4)}, reg.RDX)
		VINSERTI64X4(Imm(1), Mem{Base: reg.RDX}, w.state[i], w.state[i])
	}
	w.turn(w.state[:4])
	w.turn(w.state[4:])
	for i := range 4 {
		w.splitQuads(&w.state[i], &w.state[4+i])
	}
}

func (w *wide) storeStates() {
	w.turn(w.state[:4])
	w.turn(w.state[4:])
	for lane := range wideLanes {
		MOVQ(Mem{Base: states, Disp: 8 * lane}, reg.RDX)
		VEXTRACTI32X4(U8(lane/4), w.state[lane%4], Mem{Base: reg.RDX})
		VEXTRACTI32X4(U8(lane/4), w.state[4+lane%4], Mem{Base: reg.RDX, Disp: 16})
	}
}

func (w *wide) save() {
	for i, r := range w.state {
		VMOVDQA32(r, stack.Offset(64*i))
	}
}

func (w *wide) addSaved() {
	for i, r := range w.state {
		VPADDD(stack.Offset(64*i), r, r)
	}
}

func (w *wide) rounds() {
	for t := range 64 {
		r := w.words[t%16]
		w.round(func(h reg.VecPhysical) {
			VPADDD(r, h, h)
			VPADDD_BCST(w.k.Offset(4*t), h, h)
		})
		if t < 48 {
			w.schedule(t)
		}
	}
}

// round emits a round. The function add adds the word and its constant to h.
//
// On a Zen 5, where each operation takes two cycles, a round takes six from one
// e to the next. To achieve that, everything that does not need e is added to d
// beforehand. Adding to h first, and then h to d, would save an operation but
// take 12 % longer.
func (w *wide) round(add func(h reg.VecPhysical)) {
	a, b, c, d := w.state[0], w.state[1], w.state[2], w.state[3]
	e, f, g, h := w.state[4], w.state[5], w.state[6], w.state[7]
	s := w.spare
	add(h)
	VPRORD(Imm(6), e, s[0])
	VPRORD(Imm(11), e, s[1])
	VPRORD(Imm(25), e, s[2])
	VMOVDQA32(e, s[3])
	VPADDD(h, d, d)
	VPTERNLOGD(Imm(0xca), g, f, s[3]) // f where a bit of e is set, else g
	VPTERNLOGD(Imm(0x96), s[2], s[1], s[0])
	VPADDD(s[3], d, d)
	VPADDD(s[3], h, h)
	VPADDD(s[0], d, d)
	VPADDD(s[0], h, h)
	VPRORD(Imm(2), a, s[0])
	VPRORD(Imm(13), a, s[1])
	VPRORD(Imm(22), a, s[2])
	VMOVDQA32(a, s[3])
	VPTERNLOGD(Imm(0xe8), c, b, s[3]) // the majority of a, b and c
	VPTERNLOGD(Imm(0x96), s[2], s[1], s[0])
	VPADDD(s[3], h, h)
	VPADDD(s[0], h, h)
	w.state = [8]reg.VecPhysical{h, a, b, c, d, e, f, g}
}

// schedule replaces word t by word t+16.
func (w *wide) schedule(t int) {
	to, s := w.words[t%16], w.spare
	sigma := func(of reg.VecPhysical, a, b, shift int) {
		VPRORD(U8(a), of, s[0])
		VPRORD(U8(b), of, s[1])
		VPSRLD(U8(shift), of, s[2])
		VPTERNLOGD(Imm(0x96), s[2], s[1], s[0])
		VPADDD(s[0], to, to)
	}
	VPADDD(w.words[(t+9)%16], to, to)
	sigma(w.words[(t+1)%16], 7, 18, 3)
	sigma(w.words[(t+14)%16], 17, 19, 10)
}

// pairs emits the kernel of SumPairs.
func (w *wide) pairs(initial, end Mem) {
	TEXT("widePairs16", NOSPLIT, "func(dst, src *byte, n int)")
	Doc("widePairs16 writes the digests of 16×n messages of 64 bytes at src to dst.")
	Pragma("noescape")
	w.enter()
	Load(Param("dst"), pairsOut)
	Load(Param("src"), pointers)
	Load(Param("n"), blocks)
	Label("group")
	for i := range w.state {
		VPBROADCASTD(initial.Offset(4*i), w.state[i])
	}
	for i, r := range w.words {
		VMOVDQU32(Mem{Base: pointers, Disp: blockSize * i}, r)
	}
	w.transpose()
	w.rounds()
	for i, r := range w.state {
		VPADDD_BCST(initial.Offset(4*i), r, r)
	}
	w.save()
	for t := range 64 {
		w.round(func(h reg.VecPhysical) { VPADDD_BCST(end.Offset(4*t), h, h) })
	}
	w.addSaved()
	w.turn(w.state[:4])
	w.turn(w.state[4:])
	for _, r := range w.state {
		VPSHUFB(w.flipper(), r, r)
	}
	for lane := range wideLanes {
		VEXTRACTI32X4(U8(lane/4), w.state[lane%4], Mem{Base: pairsOut, Disp: 32 * lane})
		VEXTRACTI32X4(U8(lane/4), w.state[4+lane%4], Mem{Base: pairsOut, Disp: 32*lane + 16})
	}
	ADDQ(U32(wideLanes*blockSize), pointers)
	ADDQ(U32(wideLanes*32), pairsOut)
	DECQ(blocks)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// plainInitial is the state that SHA-256 starts from, a to h.
func plainInitial() Mem {
	table := GLOBL("initialWords", RODATA|NOPTR)
	for i, v := range gen.Initial {
		DATA(4*i, U32(v))
	}
	return table
}
