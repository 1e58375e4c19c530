package sha256mb

import (
	"crypto/sha256"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// plan says which kernels this machine hashes with.
type plan struct {
	// width is how many lanes are worth filling. If it is 0, crypto/sha256 does
	// all the work.
	width   int
	kernels [maxLanes + 1]candidate // by number of messages; a kernel may have more lanes
	// advance says, for each number of busy lanes, how many to advance at once,
	// so that all of them are done soonest if they are equally long.
	advance [maxLanes + 1]int
	// least is the shortest time to do so, for each number of messages.
	least [maxLanes + 1]float64

	ways []Way
}

// Way is one way to compute SHA-256 on this machine.
type Way struct {
	Name  string  `json:"name"`           // crypto/sha256, or the instructions used
	Lanes int     `json:"lanes"`          // messages hashed at once
	Speed float64 `json:"bytesPerSecond"` // as measured, on one core; 0 if not measured, or if the clock is too coarse
	Taken bool    `json:"taken"`          // whether hashing uses it
}

// Ways returns each way to compute SHA-256 on this machine, how fast it was
// when measured, and whether it is used. The first is crypto/sha256.
func Ways() []Way { return slices.Clone(current().ways) }

var (
	planned  atomic.Pointer[plan] // once set, only tests change it
	planOnce sync.Once
)

// current returns the plan for this machine, which is made before the first
// message is hashed. Which kernel is fastest, and how many lanes pay off,
// differs between processor models: one starts a round instruction in every
// cycle and gains from four lanes, another only in every second cycle and gains
// nothing beyond two, unless it has wide registers and gains from sixteen. So
// the plan does not depend on what a processor calls itself: it tries every
// kernel.
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

	// Each kernel is timed for so many blocks per lane, so many times. The
	// shortest time counts, and the kernels take turns, so neither an interrupt
	// nor a processor that is still waking up distorts the result. It all takes
	// 300 to 600 µs.
	trialBlocks = 64
	trials      = 10

	// A kernel that is hopeless is timed for fewer blocks. An Intel core with
	// AMX takes 100 times as long as it should when a kernel uses the SHA
	// instructions beside registers that only AVX-512 has.
	tasteBlocks = 4
	hopeless    = 30 // times as long as crypto/sha256

	// worthIt is the least gain that justifies further lanes. A smaller gain
	// might disappear in the next measurement.
	worthIt = 1.01
)

// measure returns how long crypto/sha256 took for the trial's blocks, and how
// long each candidate took for as many blocks in each of its lanes.
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
	ref := sha256.New()
	reference := func(n int) time.Duration {
		start := time.Now()
		_, _ = ref.Write(data[:n*blockSize])
		return time.Since(start)
	}
	run := func(c candidate, n int) time.Duration {
		start := time.Now()
		blocks(c.kernel, &h, &p, n)
		return time.Since(start)
	}
	// The first run of each also loads its code.
	_, taste := reference(tasteBlocks), min(reference(tasteBlocks), reference(tasteBlocks))
	std = time.Hour
	took = make([]time.Duration, len(cs))
	var rest []int
	for i, c := range cs {
		d := min(run(c, tasteBlocks), run(c, tasteBlocks), run(c, tasteBlocks))
		if d > hopeless*time.Duration(c.lanes)*taste {
			took[i] = d * trialBlocks / tasteBlocks
			continue
		}
		took[i] = std
		rest = append(rest, i)
	}
	for range trials {
		std = min(std, reference(trialBlocks))
		for _, i := range rest {
			took[i] = min(took[i], run(cs[i], trialBlocks))
		}
	}
	return std, took
}

// choose makes a plan from the measurements. The candidates include one of one
// lane. A candidate can hash fewer messages than it has lanes, and takes as long
// for them. If the clock was too coarse to measure anything, choose takes all
// lanes to be worth it, and of candidates with equally many lanes the last.
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
		if coarse {
			s = float64(c.lanes)
		}
		for n := 1; n <= c.lanes; n++ {
			part := s * float64(n) / float64(c.lanes)
			if part > speed[n]*worthIt || part >= speed[n] && c.lanes == pl.kernels[n].lanes {
				pl.kernels[n], speed[n], taken[n] = c, part, i
			}
		}
	}
	var rate [maxLanes + 1]float64
	for n := 1; n <= maxLanes; n++ {
		pl.least[n] = math.Inf(1)
		for w := 1; w <= n && speed[w] > 0; w++ {
			d := float64(w)/speed[w] + pl.least[n-w]
			if same := math.Abs(d-pl.least[n]) < 1e-9*d; d < pl.least[n] && !same || same && speed[w] > speed[pl.advance[n]] {
				pl.least[n], pl.advance[n] = d, w
			}
		}
		rate[n] = float64(n) / pl.least[n]
	}
	best := slices.IndexFunc(rate[:], func(r float64) bool { return r*worthIt > slices.Max(rate[:]) })
	// A single lane is about as fast as crypto/sha256, but takes more overhead
	// to get to.
	if !coarse && (best == 1 || rate[best] < of(1, std)) {
		pl.ways[0].Taken = true
		return &plan{ways: pl.ways}
	}
	pl.width = best
	for _, n := range pl.advance[1:] {
		pl.ways[1+taken[n]].Taken = true
	}
	return &pl
}
