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
		most    candidate // for as many messages as are worth it
		taken   []int     // indexes of ways
	}{
		{"every lane gains", four, 1.6, []float64{1.7, 3.4, 3.8, 4.1}, lanes(1, 2, 3, 4), four[3], []int{1, 2, 3, 4}},
		{"the other four lanes", five, 1.6, []float64{1.7, 3.4, 3.8, 4.1, 4.9}, lanes(1, 2, 3, 4), five[4], []int{1, 2, 3, 5}},
		{"the first four lanes", five, 1.6, []float64{1.7, 3.4, 3.8, 4.1, 3.9}, lanes(1, 2, 3, 4), four[3], []int{1, 2, 3, 4}},
		{"two lanes fill the core", four, 1.4, []float64{1.4, 2.7, 2.33, 2.65}, lanes(1, 2, 2, 2), four[1], []int{1, 2}},
		{"three are slower than two", four, 1.4, []float64{1.4, 2.7, 2.33, 3.5}, lanes(1, 2, 2, 4), four[3], []int{1, 2, 4}},
		{"hardly a gain", four, 1.4, []float64{1.4, 2.7, 2.71, 2.75}, lanes(1, 2, 2, 2), four[1], []int{1, 2}},
		{"sixteen are slower than four", six, 1.6, []float64{1.7, 3.4, 3.8, 4.1, 4.9, 4}, lanes(1, 2, 3, 4), five[4], []int{1, 2, 3, 5}},
		{
			"sixteen lanes with nine messages", six, 1.7,
			[]float64{1.7, 3, 3.2, 3.25, 3.1, 6.3},
			lanes(1, 2, 3, 3, 3, 3, 3, 3, 9, 10, 11, 12, 13, 14, 15, 16), six[5],
			[]int{1, 2, 3, 6},
		},
		{"lanes gain nothing", four, 1.4, []float64{1.4, 1.41, 1.3, 1.2}, [maxLanes + 1]int{}, candidate{}, []int{0}},
		{"crypto/sha256 is faster", four, 4, []float64{1.4, 2.7, 3, 3.5}, [maxLanes + 1]int{}, candidate{}, []int{0}},
		{"a clock that stands", five, 0, []float64{0, 0, 0, 0, 0}, lanes(1, 2, 3, 4), five[4], []int{1, 2, 3, 5}},
		{
			"a clock that stands, and sixteen lanes", six, 0,
			[]float64{0, 0, 0, 0, 0, 0},
			lanes(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16), six[5],
			[]int{1, 2, 3, 5, 6},
		},
		{"a clock that ticks at times", five, 1.6, []float64{0, 3.4, 0, 4.1, 0}, lanes(1, 2, 3, 4), five[4], []int{1, 2, 3, 5}},
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
			if p.advance != c.advance || p.width != c.advance[maxLanes] {
				t.Errorf("lanes %v and at most %d, want %v", p.advance, p.width, c.advance)
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
			if w.Taken && o.Lanes <= w.Lanes && o.Speed > w.Speed {
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

// The lanes are full, or it is better to wait for more streams.
func TestGoodCompany(t *testing.T) {
	for _, c := range []struct{ messages, streams, width, want int }{
		{4, 0, 4, 0},
		{4, 1, 4, 0},
		{4, 2, 4, 2},
		{4, 3, 4, 3},
		{4, 9, 4, 3},
		{1, 1, 4, 1},
		{1, 3, 4, 3},
		{2, 1, 4, 1},
		{2, 2, 4, 2},
		{3, 1, 4, 1},
		{1000, 1, 4, 1},
		{1000, 3, 4, 3},
		{4, 1, 2, 1},
		{4, 2, 2, 1},
		{1, 0, 2, 0},
		{4, 2, 1, 0},
	} {
		if got := goodCompany(c.messages, c.streams, c.width); got != c.want {
			t.Errorf("%d of %d streams go along with %d messages in %d lanes, want %d", got, c.streams, c.messages, c.width, c.want)
		}
	}
}
