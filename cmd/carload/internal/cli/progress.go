package cli

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader"
)

// progressMode is how to show progress.
type progressMode string

const (
	progressAuto  progressMode = "auto"
	progressBar   progressMode = "bar"
	progressPlain progressMode = "plain"
	progressNone  progressMode = "none"
)

// MarshalText implements encoding.TextMarshaler.
func (m progressMode) MarshalText() ([]byte, error) { return []byte(m), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *progressMode) UnmarshalText(text []byte) error {
	switch v := progressMode(text); v {
	case progressAuto, progressBar, progressPlain, progressNone:
		*m = v
		return nil
	}
	return fmt.Errorf("%q: use auto, bar, plain or none", text)
}

// How often to measure and show progress.
const (
	barEvery     = 200 * time.Millisecond
	measureEvery = time.Second // without bars
	plainEvery   = 30 * time.Second
	eventEvery   = 5 * time.Second
)

// phases names what the counters of progress mean for a command. Phases without
// a name are not shown. The third one is the bytes fetched for verification.
type phases struct{ first, second, third string }

// showProgress shows the progress from snapshot until the returned function is
// called.
func (a *app) showProgress(names phases, snapshot func() uploader.Progress) (stop func()) {
	p := &progress{con: a.con, snapshot: snapshot, names: names, board: &a.board, started: time.Now()}
	mode := a.global.progress
	if mode == progressAuto {
		mode = progressPlain
		if isTerminal(a.stdio.Err) && a.env["TERM"] != "dumb" && movesCursor(a.stdio.Err) {
			mode = progressBar
		}
		if a.con.quiet {
			mode = progressNone
		}
	}
	done := make(chan struct{})
	var g errgroup.Group
	g.Go(func() error { p.run(mode, done); return nil })
	forget := a.life.onSnapshot(p.tell)
	return sync.OnceFunc(func() {
		forget()
		close(done)
		_ = g.Wait() // its goroutine returns no errors
	})
}

// progress is the state of one display.
type progress struct {
	con      *console
	snapshot func() uploader.Progress
	names    phases
	board    *board
	started  time.Time

	mu                     sync.Mutex // a signal may also ask
	hashed, sent, verified meter
}

func (p *progress) run(mode progressMode, done <-chan struct{}) {
	every := measureEvery
	if mode == progressBar {
		every = barEvery
		defer p.con.hide()
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	plain, event := p.started.Add(plainEvery), p.started.Add(eventEvery)
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		now := time.Now()
		s := p.measure(now)
		if mode == progressBar {
			columns, rows := terminalSize(p.con.err)
			p.con.show(p.frame(now, s, columns, rows))
		}
		if mode == progressPlain && !now.Before(plain) {
			plain = now.Add(plainEvery)
			p.con.say("%s", p.line(now, s))
		}
		if !now.Before(event) {
			event = now.Add(eventEvery)
			p.con.event(newProgressEvent(s))
		}
	}
}

// measure takes a snapshot and updates the rates.
func (p *progress) measure(now time.Time) uploader.Progress {
	s := p.snapshot()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hashed.add(now, s.BytesHashed)
	p.sent.add(now, s.BytesSent)
	p.verified.add(now, s.BytesVerified)
	return s
}

// tell prints the progress because somebody asked.
func (p *progress) tell() {
	now := time.Now()
	s := p.measure(now)
	p.con.line(p.line(now, s))
	p.con.event(newProgressEvent(s))
}

// phase is the progress of one phase.
type phase struct {
	name     string
	n, total int64
	meter    *meter
}

// shown returns the phases with something to show.
func (p *progress) shown(s uploader.Progress) (shown []phase) {
	if p.names.first != "" {
		shown = append(shown, phase{p.names.first, s.BytesHashed, s.BytesToHash, &p.hashed})
	}
	if p.names.second != "" && s.BytesToSend > 0 {
		shown = append(shown, phase{p.names.second, s.BytesSent, s.BytesToSend, &p.sent})
	}
	if p.names.third != "" && (p.names.first == "" || s.BytesToVerify > 0) {
		shown = append(shown, phase{p.names.third, s.BytesVerified, s.BytesToVerify, &p.verified})
	}
	return shown
}

// line is the whole progress in one line.
func (p *progress) line(now time.Time, s uploader.Progress) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var parts []string
	for _, ph := range p.shown(s) {
		text := ph.name + " " + formatBytes(ph.n)
		if ph.total > 0 && ph.n <= ph.total {
			text += fmt.Sprintf(" of %s (%d %%)", formatBytes(ph.total), percent(ph.n, ph.total))
		}
		if rate := ph.rate(); rate != "" {
			text += " at " + rate
		}
		parts = append(parts, text)
	}
	return formatDuration(now.Sub(p.started).Round(time.Second)) + ": " + strings.Join(append(parts, counts(s)...), "; ") + p.board.summary(now, p.names.first, s.Inputs > 1)
}

// rate describes the speed of a phase and how long it will take. It is empty if
// the phase is done or just began.
func (ph phase) rate() string {
	r := ph.meter.rate()
	if r == 0 || ph.total > 0 && ph.n >= ph.total {
		return ""
	}
	text := formatBytes(int64(r)) + "/s"
	if eta := ph.meter.eta(ph.total - ph.n); eta != "" {
		text += ", " + eta + " left"
	}
	return text
}

// counts describes the counters other than bytes.
func counts(s uploader.Progress) (parts []string) {
	if s.Shards > 0 {
		parts = append(parts, fmt.Sprintf("%d of %s", s.ShardsDone, count(int(s.Shards), "shard")))
	}
	if s.Inputs > 1 {
		parts = append(parts, fmt.Sprintf("%d of %d inputs done", s.InputsDone, s.Inputs))
	}
	if s.Retries > 0 {
		parts = append(parts, fmt.Sprintf("%s, %s sent again", count(int(s.Retries), "retry"), formatBytes(s.BytesResent)))
	}
	return parts
}

func percent(n, total int64) int {
	if n >= total {
		return 100
	}
	return int(float64(n) / float64(total) * 100)
}

func newProgressEvent(s uploader.Progress) progressEvent {
	return progressEvent{
		eventHeader: header("progress"),
		BytesHashed: s.BytesHashed, BytesToHash: s.BytesToHash,
		BytesSent: s.BytesSent, BytesToSend: s.BytesToSend, BytesResent: s.BytesResent,
		BytesVerified: s.BytesVerified, BytesToVerify: s.BytesToVerify,
		ShardsDone: s.ShardsDone, Shards: s.Shards, Retries: s.Retries, InputsDone: s.InputsDone, Inputs: s.Inputs,
	}
}

// frame returns the lines for a terminal of this size: a bar for each phase,
// the counters, and the inputs in progress.
func (p *progress) frame(now time.Time, s uploader.Progress, columns, rows int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	columns-- // terminals treat the last column differently
	shown := p.shown(s)
	pad := 0
	for _, ph := range shown {
		pad = max(pad, len(ph.name))
	}
	var lines []string
	for _, ph := range shown {
		lines = append(lines, ph.bar(columns, pad))
	}
	if numbers := counts(s); len(numbers) > 0 {
		lines = append(lines, strings.Join(numbers, ", "))
	}
	for _, line := range p.board.lines(now, p.names.first, s.Inputs > 1) {
		lines = append(lines, "  "+line)
	}
	for i, line := range lines {
		lines[i] = fit(line, columns)
	}
	return lines[:min(len(lines), max(rows-1, 1))]
}

// Widths of a bar.
const (
	leastBar = 8
	mostBar  = 40
)

// bar shows a phase in one line. It leaves out what does not fit, first the bar
// itself.
func (ph phase) bar(columns, pad int) string {
	name := fmt.Sprintf("%-*s  ", pad, ph.name)
	text := formatBytes(ph.n)
	if ph.total > 0 {
		text = fmt.Sprintf("%3d %%  %s of %s", percent(ph.n, ph.total), formatBytes(ph.n), formatBytes(max(ph.n, ph.total)))
	}
	if rate := ph.rate(); rate != "" && len(name)+len(text)+2+len(rate) <= columns {
		text += "  " + rate
	}
	room := min(columns-len(name)-len(text)-4, mostBar)
	if ph.total <= 0 || room < leastBar {
		return name + text
	}
	filled := int(float64(min(ph.n, ph.total)) / float64(ph.total) * float64(room))
	bar := strings.Repeat("=", filled)
	if filled < room {
		bar += ">" + strings.Repeat(" ", room-filled-1)
	}
	return name + "[" + bar + "] " + text
}
