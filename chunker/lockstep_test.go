package chunker

import (
	"testing"
	"time"
)

// Each way is tried, the shortest time counts, and then the faster way is used.
func TestPace(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, c := range []struct {
		name   string
		millis [ways][paceTrials]time.Duration
		want   way
	}{
		{"mapping is faster", [ways][paceTrials]time.Duration{mapped: {1, 1, 1}, reading: {2, 2, 2}}, mapped},
		{"reading is faster", [ways][paceTrials]time.Duration{mapped: {2, 2, 2}, reading: {1, 1, 1}}, reading},
		{"others were at work", [ways][paceTrials]time.Duration{mapped: {2, 2, 2}, reading: {9, 9, 1}}, reading},
	} {
		var (
			p    pace
			seen [ways]int
		)
		for range paceTrials * int(ways) {
			w := p.next()
			p.took(w, mib, c.millis[w][seen[w]]*time.Millisecond)
			seen[w]++
		}
		if seen != [ways]int{paceTrials, paceTrials} {
			t.Errorf("%s: tried %v times", c.name, seen)
		}
		p.took(c.want, mib-1, time.Hour) // too little to count
		if got := p.next(); got != c.want {
			t.Errorf("%s: way %d, want %d", c.name, got, c.want)
		}
	}
}

// A file that can't be mapped is read, which does not affect the choice.
func TestPaceWithoutMapping(t *testing.T) {
	t.Parallel()
	var p pace
	for range 100 {
		p.next()
		p.took(reading, 1<<20, time.Millisecond)
	}
	if got := p.next(); got != mapped {
		t.Errorf("way %d is next, though mapping was never timed", got)
	}
}
