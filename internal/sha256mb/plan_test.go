package sha256mb

import (
	"slices"
	"testing"
	"time"
)

// Speeds on one core in GiB/s, measured or made up.
func TestChoose(t *testing.T) {
	const (
		a1 kernel = iota + 1
		a2
		a3
		a4
		b4
		w16
	)
	four := []candidate{{a1, "a", 1}, {a2, "a", 2}, {a3, "a", 3}, {a4, "a", 4}}
	five := append(slices.Clone(four), candidate{b4, "b", 4})
	six := append(slices.Clone(five), candidate{w16, "w", 16})
	// lanes is advance for 1, 2, ... messages; the last stands for all further ones.
	lanes := func(ns ...int) (advance [maxLanes + 1]int) {
		for n := 1; n <= maxLanes; n++ {
			advance[n] = ns[min(n, len(ns))-1]
		}
		return advance
	}
	for _, c := range []struct {
		name    string
		cs      []candidate
		std     float64
		speeds  []float64
		advance [maxLanes + 1]int
		width   int
		most    candidate // for as many messages as are worth it
		taken   []int     // indexes of ways
	}{
		{"every lane gains", four, 1.6, []float64{1.7, 3.4, 3.8, 4.1}, lanes(1, 2, 3, 4, 3, 4), 4, four[3], []int{1, 2, 3, 4}},
		{"the other four lanes", five, 1.6, []float64{1.7, 3.4, 3.8, 4.1, 4.9}, lanes(1, 2, 3, 4, 3, 4), 4, five[4], []int{1, 2, 3, 5}},
		{"the first four lanes", five, 1.6, []float64{1.7, 3.4, 3.8, 4.1, 3.9}, lanes(1, 2, 3, 4, 3, 4), 4, four[3], []int{1, 2, 3, 4}},
		{"two lanes fill the core", four, 1.4, []float64{1.4, 2.7, 2.33, 2.65}, lanes(1, 2, 3, 2), 2, four[1], []int{1, 2, 3}},
		{"three are slower than two", four, 1.4, []float64{1.4, 2.7, 2.33, 3.5}, lanes(1, 2, 3, 4), 4, four[3], []int{1, 2, 4}},
		{"hardly a gain", four, 1.4, []float64{1.4, 2.7, 2.71, 2.72}, lanes(1, 2, 3, 4, 3, 4), 2, four[1], []int{1, 2, 3, 4}},
		{"sixteen are slower than four", six, 1.6, []float64{1.7, 3.4, 3.8, 4.1, 4.9, 4}, lanes(1, 2, 3, 4, 3, 4), 4, five[4], []int{1, 2, 3, 5}},
		{
			"sixteen lanes with nine messages", six, 1.7,
			[]float64{1.7, 3, 3.2, 3.25, 3.1, 6.3},
			lanes(1, 2, 3, 4, 3, 3, 4, 4, 9, 10, 11, 12, 13, 14, 15, 16), 16, six[5],
			[]int{1, 2, 3, 4, 6},
		},
		{
			"a kernel that is hopeless, and four messages at a time", six, 1.79, // an Intel core with AMX
			[]float64{1.79, 2.28, 2.38, 2.45, 0.02, 3.98},
			lanes(1, 2, 3, 4, 3, 4, 4, 4, 4, 10, 11, 12, 13, 14, 15, 16), 16, six[5],
			[]int{1, 2, 3, 4, 6},
		},
		{"lanes gain nothing", four, 1.4, []float64{1.4, 1.41, 1.3, 1.2}, [maxLanes + 1]int{}, 0, candidate{}, []int{0}},
		{"crypto/sha256 is faster", four, 4, []float64{1.4, 2.7, 3, 3.5}, [maxLanes + 1]int{}, 0, candidate{}, []int{0}},
		{"a clock that stands", five, 0, []float64{0, 0, 0, 0, 0}, lanes(1, 2, 3, 4), 4, five[4], []int{1, 2, 3, 5}},
		{
			"a clock that stands, and sixteen lanes", six, 0,
			[]float64{0, 0, 0, 0, 0, 0},
			lanes(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16), 16, six[5],
			[]int{1, 2, 3, 5, 6},
		},
		{"a clock that ticks at times", five, 1.6, []float64{0, 3.4, 0, 4.1, 0}, lanes(1, 2, 3, 4), 4, five[4], []int{1, 2, 3, 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// took is 0 for a speed of 0, which means that the clock was too
			// coarse.
			took := func(lanes int, speed float64) time.Duration {
				if speed == 0 {
					return 0
				}
				return time.Duration(float64(lanes*trialBlocks*blockSize) / (speed * (1 << 30)) * 1e9)
			}
			var ds []time.Duration
			for i, s := range c.speeds {
				ds = append(ds, took(c.cs[i].lanes, s))
			}
			p := choose(c.cs, took(1, c.std), ds)
			if p.advance != c.advance || p.width != c.width {
				t.Errorf("lanes %v and at most %d, want %v and %d", p.advance, p.width, c.advance, c.width)
			}
			if got := p.kernels[p.width]; got != c.most {
				t.Errorf("%v for most lanes, want %v", got, c.most)
			}
			var taken []int
			for i, w := range p.ways {
				if w.Taken {
					taken = append(taken, i)
				}
			}
			if !slices.Equal(taken, c.taken) {
				t.Errorf("ways %v are called taken, want %v", taken, c.taken)
			}
		})
	}
}

// Ways lists what was measured on this machine, and the fastest ones are taken.
func TestWays(t *testing.T) {
	ways := Ways()
	if len(ways) != 1+len(candidates()) || ways[0].Name != stdName {
		t.Fatalf("%v: want crypto/sha256 and %d kernels", ways, len(candidates()))
	}
	if !slices.ContainsFunc(ways, func(w Way) bool { return w.Taken }) {
		t.Errorf("%v: nothing is taken", ways)
	}
	for _, w := range ways {
		for _, o := range ways[1:] {
			if w.Taken && o.Lanes == w.Lanes && o.Speed > w.Speed {
				t.Errorf("%v is taken, but %v is faster", w, o)
			}
		}
	}
}

func BenchmarkMeasure(b *testing.B) {
	for b.Loop() {
		newPlan(candidates())
	}
}

// Streams run beside messages if they would hardly run better later.
func TestCompany(t *testing.T) {
	of := func(speeds ...float64) *plan {
		var cs []candidate
		var took []time.Duration
		for i, s := range speeds {
			lanes := i + 1
			if lanes == 5 {
				lanes = 16
			}
			cs = append(cs, candidate{kernel(i + 1), "k", lanes})
			took = append(took, time.Duration(float64(lanes)/s*1e9))
		}
		return choose(cs, time.Hour, took)
	}
	four := of(1.7, 3.4, 4.1, 5.0)
	two := of(1.4, 2.7, 2.33, 2.65)
	sixteen := of(1.8, 2.28, 2.38, 2.45, 3.98)
	for _, c := range []struct {
		plan                               *plan
		messages, available, streams, most int
	}{
		{four, 4, 0, 0, 4},
		{four, 4, 1, 1, 3},
		{four, 4, 2, 2, 2},
		{four, 4, 3, 3, 1},
		{four, 4, 9, 3, 1},
		{four, 1, 1, 1, 1},
		{four, 1, 3, 3, 1},
		{four, 1000, 1, 1, 3},
		{two, 4, 0, 0, 2},
		{two, 4, 1, 1, 1},
		{two, 1, 0, 0, 1},
		{two, 1000, 1, 1, 1},
		{sixteen, 4, 0, 0, 4},
		{sixteen, 4, 1, 1, 3},
		{sixteen, 1000, 4, 4, 12},
	} {
		streams, most := c.plan.company(c.messages, c.available)
		if streams != c.streams || most != c.most {
			t.Errorf("%d of %d streams go along with %d messages, %d at a time, want %d and %d", streams, c.available, c.messages, most, c.streams, c.most)
		}
	}
}
