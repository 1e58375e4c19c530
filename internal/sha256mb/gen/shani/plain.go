package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/carload/carload/internal/sha256mb/gen"
)

// plain emits a kernel of n lanes that needs the SHA instructions and AVX. Each
// lane computes its own schedule.
//
// What limits it on a Zen 4 core (November 2026): with one and two lanes, the
// latency of SHA256RNDS2, 128 cycles a block. From three lanes on, the number
// of operations on the four vector pipes: SHA256MSG1 takes two and SHA256MSG2
// four, which makes at least 164 cycles for a block in each of four lanes. The
// kernel takes 203. A search through orders of the same operations found none
// that is more than 3 % faster.
func plain(n int, k, flip Mem) {
	TEXT(fmt.Sprintf("shaniBlocks%d", n), NOSPLIT, "func(h *[16]*[8]uint32, p *[16]*byte, n int)")
	Doc(fmt.Sprintf("shaniBlocks%d adds n blocks at p[i] to the state h[i], for i < %[1]d.", n))
	Pragma("noescape")
	q := newQuads(enter(n, 64*n), k, flip)
	Label("block")
	save(q.lanes)
	q.block()
	addSaved(q.lanes)
	for _, l := range q.lanes {
		ADDQ(Imm(blockSize), l.data)
	}
	DECQ(blocks)
	JNZ(LabelRef("block"))
	leave(q.lanes)
}

func roundConstants() Mem {
	k := GLOBL("constants", RODATA|NOPTR)
	for i, v := range gen.K {
		DATA(4*i, U32(v))
	}
	return k
}

func vector(i int) reg.VecPhysical {
	return []reg.VecPhysical{
		reg.X0, reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7,
		reg.X8, reg.X9, reg.X10, reg.X11, reg.X12, reg.X13, reg.X14, reg.X15,
	}[i]
}

// quads emits four rounds at a time. The schedule of a lane consists of quads
// of words. Four of them are alive, and each is made from the four before it:
//
//	quad i = MSG2(MSG1(quad i-4, quad i-3) + the words between quads i-2 and i-1, quad i-1)
//
// The latest quad is always in a register. If registers are too few, the others
// are on the stack, 64 bytes for each lane.
type quads struct {
	k, flip     Mem
	lanes       []lane
	inRegisters bool
	free        []reg.VecPhysical
	words       [4][16]reg.VecPhysical // by lane and quad, nil if not in a register
}

func newQuads(lanes []lane, k, flip Mem) *quads {
	n := len(lanes)
	// With two lanes, all quads and two scratch registers fit beside the
	// states.
	q := &quads{k: k, flip: flip, lanes: lanes, inRegisters: n <= 2}
	for i := 2*n + 1; i < 16; i++ {
		q.free = append(q.free, vector(i))
	}
	return q
}

func (q *quads) take() reg.VecPhysical {
	r := q.free[0]
	q.free = q.free[1:]
	return r
}

// drop frees the register of a quad.
func (q *quads) drop(lane, i int) {
	q.free = append(q.free, q.words[lane][i])
	q.words[lane][i] = nil
}

func (q *quads) slot(lane, i int) Mem { return stack.Offset(64*lane + 16*(i%4)) }

// at returns where a quad is.
func (q *quads) at(lane, i int) Op {
	if r := q.words[lane][i]; r != nil {
		return r
	}
	return q.slot(lane, i)
}

// block emits the 64 rounds of all lanes. The lanes take turns of four rounds:
// in longer turns, the next instruction of another lane is too far ahead for
// the processor to find it. The next quad is computed during the rounds of a
// quad.
func (q *quads) block() {
	for l := range q.lanes {
		q.begin(l, 0)
		q.finish(l, 0)
	}
	for i := range 16 {
		for l := range q.lanes {
			if i < 15 {
				q.begin(l, i+1)
			}
			q.rounds(l, i)
			if i < 15 {
				q.finish(l, i+1)
			}
			switch {
			case i == 15 && q.inRegisters:
				for j := 12; j < 16; j++ {
					q.drop(l, j)
				}
			case !q.inRegisters:
				q.drop(l, i)
			}
		}
	}
}

// rounds emits the four rounds of a quad.
func (q *quads) rounds(lane, i int) {
	l := q.lanes[lane]
	VPADDD(q.k.Offset(16*i), q.words[lane][i], wk)
	SHA256RNDS2(wk, l.abef, l.cdgh)
	VPSHUFD(Imm(0x0e), wk, wk)
	SHA256RNDS2(wk, l.cdgh, l.abef)
}

// begin emits the part of a quad that needs little of the quad before.
func (q *quads) begin(lane, i int) {
	if i < 4 {
		w := q.take()
		VMOVDQU(Mem{Base: q.lanes[lane].data, Disp: 16 * i}, w)
		VPSHUFB(q.flip, w, w)
		q.words[lane][i] = w
		return
	}
	w := q.words[lane][i-4]
	if w == nil {
		w = q.take()
		VMOVDQA(q.slot(lane, i-4), w)
	}
	q.words[lane][i-4], q.words[lane][i] = nil, w
	SHA256MSG1(q.at(lane, i-3), w)
	t := q.take()
	VPALIGNR(Imm(4), q.at(lane, i-2), q.words[lane][i-1], t)
	VPADDD(t, w, w)
	q.free = append(q.free, t)
}

// finish emits the rest of a quad.
func (q *quads) finish(lane, i int) {
	w := q.words[lane][i]
	if i >= 4 {
		SHA256MSG2(q.words[lane][i-1], w)
	}
	if !q.inRegisters && i <= 13 { // 14 and 15 are not needed after their rounds
		VMOVDQA(w, q.slot(lane, i))
	}
}
