package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/carload/carload/internal/sha256mb/gen"
)

// plain emits kernels of one to four lanes that need the SHA instructions and
// AVX, in which each lane computes its own schedule.
//
// The lanes take turns of four rounds. With longer turns the processor has to
// look further ahead to find an instruction of another lane: on a Zen 4 core,
// turns of 16 rounds gave 3.8 GiB/s and turns of four give 4.3 (November 2026).
func plain(flip Mem) {
	k := GLOBL("constants", RODATA|NOPTR)
	for i, v := range gen.K {
		DATA(4*i, U32(v))
	}
	for n := 1; n <= 4; n++ {
		TEXT(fmt.Sprintf("shaniBlocks%d", n), NOSPLIT, "func(h *[4]*[8]uint32, p *[4]*byte, n int)")
		Doc(fmt.Sprintf("shaniBlocks%d adds n blocks at p[i] to the state h[i], for i < %d.", n, n))
		Pragma("noescape")
		lanes := enter(n, 64*n)
		for i := range lanes {
			for j := range lanes[i].words {
				lanes[i].words[j] = stack.Offset(64*i + 16*j)
			}
		}
		q := quads{k: k, flip: flip}
		for i := 2*n + 1; i < 16; i++ {
			q.free = append(q.free, vector(i))
		}

		Label("block")
		save(lanes)
		for i := range 16 {
			for j := range lanes {
				q.emit(&lanes[j], i)
			}
		}
		addSaved(lanes)
		for _, l := range lanes {
			ADDQ(Imm(blockSize), l.data)
		}
		DECQ(blocks)
		JNZ(LabelRef("block"))
		leave(lanes)
	}
}

func vector(i int) reg.VecPhysical {
	return []reg.VecPhysical{
		reg.X0, reg.X1, reg.X2, reg.X3, reg.X4, reg.X5, reg.X6, reg.X7,
		reg.X8, reg.X9, reg.X10, reg.X11, reg.X12, reg.X13, reg.X14, reg.X15,
	}[i]
}

// quads emits four rounds at a time.
type quads struct {
	k, flip Mem
	free    []reg.VecPhysical
}

func (q *quads) take() reg.VecPhysical {
	r := q.free[0]
	q.free = q.free[1:]
	return r
}

func (q *quads) put(r reg.VecPhysical) { q.free = append(q.free, r) }

// emit emits the rounds 4i to 4i+3 of one lane, and what they give for the
// schedule. Words 4j to 4j+3 go through slot j%4: first themselves, then what
// SHA256MSG1 makes of them for the words four quads later. Only the latest
// four are in a register: through memory they would come too late.
func (q *quads) emit(l *lane, i int) {
	slot := func(j int) Mem { return l.words[j%4] }
	if i < 4 {
		l.latest = q.take()
		VMOVDQU(Mem{Base: l.data, Disp: 16 * i}, l.latest)
		VPSHUFB(q.flip, l.latest, l.latest)
		VMOVDQA(l.latest, slot(i))
	}
	w := l.latest
	VPADDD(q.k.Offset(16*i), w, wk)
	SHA256RNDS2(wk, l.abef, l.cdgh)
	if i >= 3 && i < 15 {
		next := q.take()
		VPALIGNR(Imm(4), slot(i-1), w, next)
		VPADDD(slot(i+1), next, next)
		SHA256MSG2(w, next)
		if i < 13 {
			VMOVDQA(next, slot(i+1))
		}
		l.latest = next
	}
	VPSHUFD(Imm(0x0e), wk, wk)
	SHA256RNDS2(wk, l.cdgh, l.abef)
	if i >= 1 && i < 13 {
		t := q.take()
		VMOVDQA(slot(i-1), t)
		SHA256MSG1(w, t)
		VMOVDQA(t, slot(i+3))
		q.put(t)
	}
	q.put(w)
}
