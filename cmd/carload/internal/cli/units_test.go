package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
)

func TestParseSize(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"0": 0, "17": 17, "1000B": 1000, "100MB": 100e6, "100mb": 100e6, "100 MB": 100e6, "100MiB": 100 << 20,
		"1.5KiB": 1536, "0.5GB": 5e8, "1TB": 1e12, "8191PiB": 8191 << 50,
	} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "100M", "1k", "5G", "-1", "1.5", "MB", "1e9", "0x10", "1/2MB", "10000PiB", "1 2MB", "١MB", "1.2.3MB", "99999999999999999999"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", text, got)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"1", "100MB", "100MiB", "100M", "1.5kB", "..", "9999999999PiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseSize(s)
		if err != nil {
			return
		}
		if n < 0 {
			t.Fatalf("parseSize(%q) = %d", s, n)
		}
		v := size(n)
		if again, err := parseSize(v.String()); err != nil || again != n {
			t.Fatalf("%q is %d, which is written %q and read as %d, %v", s, n, v.String(), again, err)
		}
	})
}

func TestFormatBytes(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 100 << 20: "100 MiB", 31 << 30: "31.0 GiB"} {
		if got := formatBytes(n); got != want {
			t.Errorf("formatBytes(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestQuoting(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain name.txt": "plain name.txt", "naïve": "naïve", "a\nb": `"a\nb"`, "\x1b[2J": `"\x1b[2J"`, "\xff": `"\xff"`,
		`"quoted"`: `"\"quoted\""`, "left\u202eright": `"left\u202eright"`,
	} {
		if got := quotePath(in); got != want {
			t.Errorf("quotePath(%q) = %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"a\nb": "a; b", "\x1b[2J": `\x1b[2J`, "\xff": `\xff`, "ok": "ok", "\u009b": `\u009b`} {
		if got := printable(in); got != want {
			t.Errorf("printable(%q) = %s, want %s", in, got, want)
		}
	}
	if got, want := shellQuote([]string{"up", "a b", "it's", "", "x=1"}), `up 'a b' 'it'\''s' '' x=1`; got != want {
		t.Errorf("shellQuote: %s, want %s", got, want)
	}
}

func TestSplitCommand(t *testing.T) {
	t.Parallel()
	for in, want := range map[string][]string{
		"pass show x":            {"pass", "show", "x"},
		` a  "b c" 'd "e' f\ g `: {"a", "b c", `d "e`, "f g"},
		`x ""`:                   {"x", ""},
		`$HOME *`:                {"$HOME", "*"},
	} {
		if got, err := splitCommand(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("splitCommand(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "  ", `"open`, `a\`} {
		if got, err := splitCommand(in); err == nil {
			t.Errorf("splitCommand(%q) = %q, want an error", in, got)
		}
	}
}

func TestCappedBuffer(t *testing.T) {
	t.Parallel()
	b := &cappedBuffer{limit: 10}
	n, err := io.Copy(b, io.LimitReader(strings.NewReader(strings.Repeat("x", 2000)), 1000))
	if n != 1000 || err != nil || b.buf.Len() != 10 {
		t.Errorf("kept %d of %d bytes, %v", b.buf.Len(), n, err)
	}
}

// databaseError is an error of SQLite.
type databaseError int

func (e databaseError) Code() int     { return int(e) }
func (e databaseError) Error() string { return "database" }

func TestExitCode(t *testing.T) {
	t.Parallel()
	wrap := func(err error) error { return fmt.Errorf("shard 3: %w", err) }
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("something"), 1},
		{usagef("no"), 2},
		{wrap(splitter.ErrBlockTooLarge), 2},
		{wrap(car.ErrTooDeep), 8},
		{wrap(&car.SourceChangedError{Name: "x"}), 3},
		{&uploader.SourceError{Err: fs.ErrPermission}, 3},
		{wrap(uploader.ErrIncomplete), 4},
		{fmt.Errorf("%w: %w", uploader.ErrUnavailable, errors.New("refused")), 5},
		{wrap(uploader.ErrRootMismatch), 6},
		{wrap(car.ErrCorrupt), 6},
		{&nftstorage.APIError{Status: 401}, 7},
		{&nftstorage.APIError{Status: 403}, 7},
		{&nftstorage.APIError{Status: 403, Code: "ERROR_TOKEN_BLOCKED"}, 7},
		{wrap(&nftstorage.APIError{Status: 403, Code: "ERROR_QUOTA_EXCEEDED"}), 8},
		{wrap(uploader.ErrTooLarge), 8},
		{wrap(store.ErrLocked), 11},
		{wrap(uploader.ErrLedgerLocked), 11},
		{&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, 28},
		{&uploader.SourceError{Err: syscall.EDQUOT}, 28},
		{&nftstorage.APIError{Status: 507}, 28},
		{wrap(databaseError(13)), 28},
		{wrap(databaseError(4874)), 28},
		{wrap(databaseError(5)), 1},
		{wrap(uploader.ErrLedgerDamaged), 6},
		{errors.Join(interrupted{os.Interrupt}, uploader.ErrStopped), 130},
		{interrupted{syscall.SIGTERM}, 143},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("exitCode(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
	if worse(exitSources, exitMismatch) != exitMismatch || worse(exitMismatch, exitSources) != exitMismatch || worse(exitOK, exitSources) != exitSources {
		t.Error("the worst code does not win")
	}
}

// Without a signal, an end by the context is not called an interruption.
func TestBlame(t *testing.T) {
	t.Parallel()
	soft, cancel := context.WithCancelCause(t.Context())
	l := &lifetime{soft: soft}
	if err := l.blame(context.Canceled); exitCode(err) != exitOther {
		t.Errorf("before a signal: %v", err)
	}
	cancel(interrupted{os.Interrupt})
	if err := l.blame(uploader.ErrStopped); exitCode(err) != exitInterrupted {
		t.Errorf("after a signal: %v", err)
	}
	if err := l.blame(car.ErrCorrupt); exitCode(err) != exitMismatch {
		t.Errorf("a finding is no interruption: %v", err)
	}
}

func TestMeter(t *testing.T) {
	t.Parallel()
	var m meter
	if m.rate() != 0 || m.eta(10) != "" {
		t.Error("a meter without samples knows something")
	}
	at := time.Unix(0, 0)
	for i := range int64(100) {
		m.add(at.Add(time.Duration(i)*time.Second), i*1000)
	}
	if r := m.rate(); r != 1000 {
		t.Errorf("rate %v, want 1000", r)
	}
	if eta := m.eta(90_000); eta != "about 1m30s" {
		t.Errorf("eta %s, want about 1m30s", eta)
	}
	if len(m.samples) > int(meterWindow/time.Second)+2 {
		t.Errorf("%d samples are kept", len(m.samples))
	}
	m.add(at.Add(101*time.Second), 0) // all of it was subtracted
	if r := m.rate(); r != 0 {
		t.Errorf("rate %v after the counter went back", r)
	}
}

// If the clock is set back a day, the meter loses its samples and nothing else.
func TestMeterAfterTheClockWasSet(t *testing.T) {
	t.Parallel()
	for _, jump := range []time.Duration{-24 * time.Hour, -time.Second, 24 * time.Hour} {
		var m meter
		at := time.Unix(1e9, 0)
		for i := range int64(200) {
			if i == 100 {
				at = at.Add(jump)
			}
			m.add(at.Add(time.Duration(i)*time.Second), i*1000)
			if r := m.rate(); r < 0 || r > 1100 {
				t.Fatalf("jump of %s: rate %v at sample %d", jump, r, i)
			}
			if eta := m.eta(90_000); strings.Contains(eta, "-") {
				t.Fatalf("jump of %s: eta %s at sample %d", jump, eta, i)
			}
		}
		if r := m.rate(); r != 1000 {
			t.Errorf("jump of %s: rate %v, want 1000", jump, r)
		}
		if len(m.samples) > int(meterWindow/time.Second)+2 {
			t.Errorf("jump of %s: %d samples are kept", jump, len(m.samples))
		}
	}
}

func TestRequestRate(t *testing.T) {
	t.Parallel()
	a := newTestApp(t, "HOME="+t.TempDir())
	token, err := nftstorage.NewToken("key")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		rate, endpoint string
		paced          bool
	}{
		{"auto", "https://api.nft.storage", true},
		{"auto", "http://127.0.0.1:5080", false},
		{"auto", "http://[::1]:5080", false},
		{"off", "https://api.nft.storage", false},
		{"5/1s", "http://localhost:1", true},
	} {
		var r requestRate
		if err := r.Set(tt.rate); err != nil {
			t.Fatal(err)
		}
		if p, err := a.pacer(r, share{}, tt.endpoint, token); err != nil || (p != nil) != tt.paced {
			t.Errorf("%s at %s: pacer %v, %v", tt.rate, tt.endpoint, p, err)
		}
	}
	for _, text := range []string{"", "30", "30/", "/10s", "0/10s", "30/0s", "30/10", "-1/10s", "x/10s"} {
		if err := new(requestRate).Set(text); err == nil {
			t.Errorf("rate %q was taken", text)
		}
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	var f filters
	exclude, include := f.flag(""), f.flag("!")
	for _, set := range []struct {
		flag    *filterFlag
		pattern string
	}{{exclude, "*.log"}, {include, "keep.log"}, {exclude, "tmp/"}} {
		if err := set.flag.Set(set.pattern); err != nil {
			t.Fatal(err)
		}
	}
	all, err := f.patterns()
	if err != nil {
		t.Fatal(err)
	}
	if want := []chosen{{"*.log", "--exclude *.log"}, {"!keep.log", "--include keep.log"}, {"tmp/", "--exclude tmp/"}}; !slices.Equal(all, want) {
		t.Errorf("patterns %q, want %q", all, want)
	}
	if got := exclude.GetSlice(); !slices.Equal(got, []string{"*.log", "tmp/"}) {
		t.Errorf("excluded: %q", got)
	}
}

func TestAges(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 31, 12, 0, 0, 0, time.Local) //nolint:gosmopolitan // as people write it
	day := 24 * time.Hour
	for text, want := range map[string]time.Time{
		"": {}, "off": {}, "90s": now.Add(-90 * time.Second), "1h30m": now.Add(-90 * time.Minute), "10m": now.Add(-10 * time.Minute),
		"2d": now.Add(-2 * day), "1.5d": now.Add(-36 * time.Hour), "3w": now.Add(-21 * day), "6M": now.Add(-180 * day), "1y": now.Add(-365 * day),
		"0s": now, "2026-03-31": now.Add(-12 * time.Hour), "2026-03-31T11:00:00": now.Add(-time.Hour), "2026-03-31T10:00:00Z": time.Date(2026, 3, 31, 10, 0, 0, 0, time.UTC),
	} {
		var v age
		if err := v.Set(text); err != nil || !v.before(now).Equal(want) {
			t.Errorf("%q: %s, %v; want %s", text, v.before(now), err, want)
		}
	}
	for _, text := range []string{"2", "d", "-1d", "-5m", "1000y", "NaNd", "soon", "2026-13-01"} {
		if err := new(age).Set(text); err == nil {
			t.Errorf("age %q was taken", text)
		}
	}
}

// The server must not close a connection that a client opened but has not used
// yet, as long as the client may still use it.
func TestServerOutwaitsClients(t *testing.T) {
	t.Parallel()
	if idle := nftstorage.NewTransport().IdleConnTimeout; service.HeaderTimeout <= idle || service.IdleTimeout <= idle {
		t.Errorf("the server waits %s and %s, the client %s", service.HeaderTimeout, service.IdleTimeout, idle)
	}
}
