package sha256mb

import (
	"crypto/sha256"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A plan is what a machine hashes with.
type plan struct {
	// width is how many lanes are worth to be filled. With 0, crypto/sha256
	// does all of the work.
	width   int
	kernels [maxLanes + 1]kernel // by number of lanes
	// advance is how many lanes to advance at once when so many are busy: the
	// number with the highest speed. More lanes are never slower than fewer.
	advance [maxLanes + 1]int

	ways []Way
}

// Way is a way to compute that a machine has.
type Way struct {
	Name  string  `json:"name"`           // crypto/sha256, or the instructions
	Lanes int     `json:"lanes"`          // how many messages at once
	Speed float64 `json:"bytesPerSecond"` // as measured, on one core; 0 where nothing was, or the clock is too coarse
	Taken bool    `json:"taken"`          // whether it is used
}

// Ways tells how fast each way to compute was on this machine when it was
// tried, and which are used. The first is crypto/sha256.
func Ways() []Way { return slices.Clone(current().ways) }

var (
	planned  atomic.Pointer[plan] // only tests change it once it is there
	planOnce sync.Once
)

// current is the plan for this machine. Which kernel is the fastest, and how
// many lanes are worth it, differs from one model of a processor to the next:
// one starts the instruction for the rounds in every cycle and gains from four
// lanes, another in every second one and has enough with two. So nothing is
// derived from what a processor calls itself. Before the first message is
// hashed, every kernel is tried.
func current() *plan {
	if p := planned.Load(); p != nil {
		return p
	}
	planOnce.Do(func() { planned.Store(newPlan(candidates())) })
	return planned.Load()
}

func newPlan(cs []candidate) *plan {
	if len(cs) == 0 {
		return &plan{ways: []Way{{Name: stdName, Lanes: 1, Taken: true}}}
	}
	std, took := measure(cs)
	return choose(cs, std, took)
}

const (
	stdName = "crypto/sha256"

	// What is timed: so many blocks a lane, so many times. The shortest time
	// counts, and turns are taken, so that neither an interrupt nor a processor
	// that is just waking up spoils one of them. All together takes some 200 µs.
	trialBlocks = 64
	trials      = 10

	// worthIt is what a further lane must gain at least: below, measuring again
	// may give another answer.
	worthIt = 1.03
)

// measure returns how long crypto/sha256 took for the trial's blocks, and each
// of the candidates for as many in each of its lanes.
func measure(cs []candidate) (std time.Duration, took []time.Duration) {
	var (
		data   [trialBlocks * blockSize]byte
		states [maxLanes][8]uint32
		h      [maxLanes]*[8]uint32
		p      [maxLanes]*byte
	)
	for i := range h {
		h[i], p[i] = &states[i], &data[0]
	}
	std = time.Hour
	took = make([]time.Duration, len(cs))
	for i := range took {
		took[i] = std
	}
	ref := sha256.New()
	for range trials {
		start := time.Now()
		_, _ = ref.Write(data[:])
		std = min(std, time.Since(start))
		for i, c := range cs {
			start := time.Now()
			blocks(c.kernel, &h, &p, trialBlocks)
			took[i] = min(took[i], time.Since(start))
		}
	}
	return std, took
}

// choose makes a plan from what was measured. There is a candidate of one lane.
// Where the clock could not tell any time, all lanes are taken to be as good
// and the last candidate as the best, in the order that they are listed.
func choose(cs []candidate, std time.Duration, took []time.Duration) *plan {
	var (
		pl    plan
		speed [maxLanes + 1]float64
		taken [maxLanes + 1]int // index of the candidate
	)
	coarse := std <= 0 || slices.Min(took) <= 0
	of := func(lanes int, d time.Duration) float64 {
		if coarse {
			return 0
		}
		return math.Round(float64(lanes*trialBlocks*blockSize) / d.Seconds())
	}
	pl.ways = append(pl.ways, Way{Name: stdName, Lanes: 1, Speed: of(1, std)})
	for i, c := range cs {
		s := of(c.lanes, took[i])
		pl.ways = append(pl.ways, Way{Name: c.name, Lanes: c.lanes, Speed: s})
		if pl.kernels[c.lanes] == none || s >= speed[c.lanes] {
			pl.kernels[c.lanes], speed[c.lanes], taken[c.lanes] = c.kernel, s, i
		}
	}
	best := 1
	for n := 1; n <= maxLanes; n++ {
		if pl.kernels[n] != none && (coarse || speed[n] > speed[best]*worthIt) {
			best = n
		}
		pl.advance[n] = best
	}
	// One lane is about what crypto/sha256 does, without the way to it.
	if !coarse && (best == 1 || speed[best] < of(1, std)) {
		pl.ways[0].Taken = true
		return &plan{ways: pl.ways}
	}
	pl.width = best
	for n := 1; n <= maxLanes; n++ {
		if pl.advance[n] == n {
			pl.ways[1+taken[n]].Taken = true
		}
	}
	return &pl
}
