package cli

import "time"

// meterWindow is how far back a rate looks.
const meterWindow = 30 * time.Second

// meter works out the rate of a counter over the last seconds.
type meter struct{ samples []sample }

type sample struct {
	at    time.Time
	count int64
}

// add notes the counter. A counter that went back (bytes of a failed try are
// taken back) is fine. After a clock that went back it begins anew.
func (m *meter) add(at time.Time, count int64) {
	if n := len(m.samples); n > 0 && at.Before(m.samples[n-1].at) {
		m.samples = m.samples[:0]
	}
	m.samples = append(m.samples, sample{at, count})
	// One sample older than the window stays, to measure from.
	for len(m.samples) > 2 && at.Sub(m.samples[1].at) >= meterWindow {
		m.samples = m.samples[1:]
	}
}

// rate is in units per second; it is 0 if nothing can be said.
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

// etaAfter is how long a rate has to be known before anything is made of it, and
// mostETA the longest time that is worth telling.
const (
	etaAfter = 5 * time.Second
	mostETA  = 100 * time.Hour
)

// eta is how long what is left will take at this rate, for people; empty if that
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

// formatDuration is a duration for people.
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
