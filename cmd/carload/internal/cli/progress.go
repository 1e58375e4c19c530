package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/uploader"
)

// progressMode is how progress is shown.
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

// How often progress is shown.
const (
	barEvery   = 200 * time.Millisecond
	plainEvery = 30 * time.Second
	eventEvery = 5 * time.Second
)

// phases names what the counters of progress mean to a command; an empty one is
// not shown. The third is what is fetched back.
type phases struct{ first, second, third string }

// showProgress shows what snapshot tells until the returned function is called.
func (a *app) showProgress(names phases, snapshot func() uploader.Progress) (stop func()) {
	p := &progress{con: a.con, snapshot: snapshot, names: names, started: time.Now()}
	mode := a.global.progress
	if mode == progressAuto {
		mode = progressPlain
		if isTerminal(a.stdio.Err) && a.env["TERM"] != "dumb" {
			mode = progressBar
		}
		if a.con.quiet {
			mode = progressNone
		}
	}
	done := make(chan struct{})
	var g errgroup.Group
	if a.con.json {
		g.Go(func() error { p.every(eventEvery, done, p.event); return nil })
	}
	switch mode {
	case progressBar:
		bars := p.newBars(a.stdio.Err)
		a.con.showAbove(bars.container)
		g.Go(func() error {
			p.every(barEvery, done, bars.update)
			a.con.showAbove(nil)
			bars.close()
			return nil
		})
	case progressPlain:
		g.Go(func() error { p.every(plainEvery, done, p.plain); return nil })
	}
	return sync.OnceFunc(func() {
		close(done)
		_ = g.Wait() // its goroutines have no errors
	})
}

// progress is the state of one display.
type progress struct {
	con      *console
	snapshot func() uploader.Progress
	names    phases
	started  time.Time

	hashed, sent, verified meter
}

func (p *progress) every(d time.Duration, done <-chan struct{}, show func()) {
	t := time.NewTicker(d)
	defer t.Stop()
	for {
		select {
		case <-done:
			return
		case <-t.C:
			show()
		}
	}
}

func (p *progress) plain() {
	now, s := time.Now(), p.snapshot()
	p.hashed.add(now, s.BytesHashed)
	p.sent.add(now, s.BytesSent)
	p.verified.add(now, s.BytesVerified)
	line := formatDuration(now.Sub(p.started).Round(time.Second)) + ": "
	if p.names.first != "" {
		line += p.names.first + " " + counted(s.BytesHashed, s.BytesToHash, &p.hashed)
	}
	if p.names.second != "" && s.Shards > 0 {
		line += fmt.Sprintf("; %s %s, %d of %d shards", p.names.second, counted(s.BytesSent, s.BytesToSend, &p.sent), s.ShardsDone, s.Shards)
	}
	if p.names.third != "" && (p.names.first == "" || s.BytesToVerify > 0) {
		if p.names.first != "" {
			line += "; "
		}
		line += p.names.third + " " + counted(s.BytesVerified, s.BytesToVerify, &p.verified)
	}
	if s.Inputs > 1 {
		line += fmt.Sprintf("; %d of %d inputs done", s.InputsDone, s.Inputs)
	}
	if s.Retries > 0 {
		line += fmt.Sprintf("; %d retries", s.Retries)
	}
	p.con.say("%s", line)
}

func counted(n, total int64, m *meter) string {
	text := formatBytes(n)
	if total > 0 && n <= total {
		text += fmt.Sprintf(" of %s (%d %%)", formatBytes(total), percent(n, total))
	}
	if r := m.rate(); r > 0 && n < total {
		text += fmt.Sprintf(" at %s/s, %s left", formatBytes(int64(r)), m.eta(total-n))
	}
	return text
}

func percent(n, total int64) int {
	if n >= total {
		return 100
	}
	return int(float64(n) / float64(total) * 100)
}

func (p *progress) event() {
	s := p.snapshot()
	p.con.event(progressEvent{
		eventHeader: header("progress"),
		BytesHashed: s.BytesHashed, BytesToHash: s.BytesToHash,
		BytesSent: s.BytesSent, BytesToSend: s.BytesToSend, BytesResent: s.BytesResent,
		BytesVerified: s.BytesVerified, BytesToVerify: s.BytesToVerify,
		ShardsDone: s.ShardsDone, Shards: s.Shards, Retries: s.Retries, InputsDone: s.InputsDone, Inputs: s.Inputs,
	})
}

// bars is a display of one bar for each phase.
type bars struct {
	p         *progress
	container *mpb.Progress
	shown     []shownBar
	mu        sync.Mutex // the decorators run on goroutines of the container
	last      uploader.Progress
}

func (p *progress) newBars(w io.Writer) *bars {
	b := &bars{p: p, container: mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh(), mpb.WithRefreshRate(barEvery))}
	b.add(p.names.first, &p.hashed, func(s uploader.Progress) (int64, int64) { return s.BytesHashed, s.BytesToHash })
	b.add(p.names.second, &p.sent, func(s uploader.Progress) (int64, int64) { return s.BytesSent, s.BytesToSend })
	b.add(p.names.third, &p.verified, func(s uploader.Progress) (int64, int64) { return s.BytesVerified, s.BytesToVerify })
	return b
}

// shownBar is a bar and what it counts.
type shownBar struct {
	bar *mpb.Bar
	of  func(uploader.Progress) (n, total int64)
}

// add adds the bar of a phase, if the command has it.
func (b *bars) add(name string, m *meter, of func(uploader.Progress) (n, total int64)) {
	if name == "" {
		return
	}
	text := func(f func(n, total int64) string) decor.Decorator {
		return decor.Any(func(decor.Statistics) string {
			b.mu.Lock()
			defer b.mu.Unlock()
			return f(of(b.last))
		}, decor.WCSyncSpaceR)
	}
	bar := b.container.New(0, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
		mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(
			text(func(n, total int64) string { return fmt.Sprintf("%3d %%", percent(n, max(total, 1))) }),
			text(func(n, total int64) string { return formatBytes(n) + " of " + formatBytes(max(n, total)) }),
			text(func(n, total int64) string {
				if n >= total {
					return "" // what was reached, not how fast
				}
				return formatBytes(int64(m.rate())) + "/s, " + m.eta(total-n) + " left"
			}),
		))
	b.shown = append(b.shown, shownBar{bar, of})
}

func (b *bars) update() {
	now, s := time.Now(), b.p.snapshot()
	b.mu.Lock()
	b.last = s
	b.p.hashed.add(now, s.BytesHashed)
	b.p.sent.add(now, s.BytesSent)
	b.p.verified.add(now, s.BytesVerified)
	b.mu.Unlock()
	for _, shown := range b.shown {
		n, total := shown.of(s)
		shown.bar.SetTotal(max(total, 1), false)
		shown.bar.SetCurrent(n)
	}
}

// close removes the bars: the summary says it all.
func (b *bars) close() {
	for _, shown := range b.shown {
		shown.bar.Abort(true)
	}
	b.container.Wait()
}
