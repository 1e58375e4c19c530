package cli

import "time"

// meterWindow is the period over which a rate is measured.
const meterWindow = 30 * time.Second

// meter computes the rate of a counter over the last seconds.
type meter struct{ samples []sample }

type sample struct {
	at    time.Time
	count int64
}

// add records the counter. The counter may go back, when bytes of a failed
// attempt are subtracted. If the clock goes back, the meter starts again.
func (m *meter) add(at time.Time, count int64) {
	if n := len(m.samples); n > 0 && at.Before(m.samples[n-1].at) {
		m.samples = m.samples[:0]
	}
	m.samples = append(m.samples, sample{at, count})
	// Keep one sample older than the window, to measure from.
	for len(m.samples) > 2 && at.Sub(m.samples[1].at) >= meterWindow {
		m.samples = m.samples[1:]
	}
}

// rate returns units per second, or 0 if it is unknown.
func (m *meter) rate() float64 {
	if len(m.samples) < 2 {
		return 0
	}
	first, last := m.samples[0], m.samples[len(m.samples)-1]
	seconds := last.at.Sub(first.at).Seconds()
	if seconds <= 0 || last.count <= first.count {
		return 0
	}
	return float64(last.count-first.count) / seconds
}

// etaAfter is how long a rate must be known before we estimate from it, and
// mostETA the longest time worth showing.
const (
	etaAfter = 5 * time.Second
	mostETA  = 100 * time.Hour
)

// eta estimates how long the rest will take, for people. It is empty if that
// would be a guess.
func (m *meter) eta(left int64) string {
	r := m.rate()
	if r == 0 || m.samples[len(m.samples)-1].at.Sub(m.samples[0].at) < etaAfter {
		return ""
	}
	d := time.Duration(float64(left) / r * float64(time.Second))
	if d > mostETA || d < 0 {
		return ""
	}
	return "about " + formatDuration(d.Round(time.Second))
}

// formatDuration formats a duration for people.
func formatDuration(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}
