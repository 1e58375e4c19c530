package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carload/carload/chunker"
)

// filters are the patterns of --exclude, --include and --exclude-from, in the
// given order.
type filters struct{ given []filter }

// filter is a pattern, or a file with patterns. Patterns of --include begin
// with "!".
type filter struct{ pattern, file string }

// chosen is a pattern for the chunker, and its origin.
type chosen struct{ pattern, origin string }

// patterns returns the patterns for the chunker. If the first one is an
// --include, they exclude everything else. Directories stay, so that their
// entries can match, and a directory that matches includes everything below it.
func (f *filters) patterns() ([]chosen, error) {
	var all []chosen
	only := len(f.given) > 0 && strings.HasPrefix(f.given[0].pattern, "!")
	if only {
		all = append(all, chosen{"*", "no --include matches"}, chosen{"!*/", "an --include may match something inside"})
	}
	for _, g := range f.given {
		if g.file != "" {
			lines, err := readPatterns(g.file)
			if err != nil {
				return nil, err
			}
			for _, l := range lines {
				all = append(all, chosen{l.Pattern, fmt.Sprintf("%s:%d: %s", quotePath(g.file), l.Number, l.Text)})
			}
			continue
		}
		p, take := strings.CutPrefix(g.pattern, "!")
		origin := "--exclude " + p
		if take {
			origin = "--include " + p
		}
		all = append(all, chosen{g.pattern, origin})
		if take && only {
			all = append(all, chosen{"!" + below(p), origin})
		}
	}
	return all, nil
}

// maxPatternBytes limits the size of a pattern file.
const maxPatternBytes = 1 << 20

func readPatterns(name string) ([]chunker.PatternLine, error) {
	text, info, err := readSmall(name, maxPatternBytes)
	if err == nil && len(text) == 0 && info.Mode()&fs.ModeNamedPipe != 0 {
		err = errNoPatterns
	}
	if err != nil {
		return nil, usageError{error: fmt.Errorf("--exclude-from %s: %w", quotePath(name), err)}
	}
	lines, err := chunker.ReadPatterns(bytes.NewReader(text))
	if err != nil {
		return nil, usageError{error: fmt.Errorf("--exclude-from %s: %w", quotePath(name), err)}
	}
	return lines, nil
}

// errNoPatterns prevents an upload of everything when the program that writes
// the patterns failed or has not started.
var errNoPatterns = errors.New("the pipe is empty")

// below returns a pattern for everything below the directories that match p.
func below(p string) string {
	p = strings.TrimSuffix(p, "/")
	if !strings.Contains(p, "/") {
		p = "**/" + p
	}
	return p + "/**/*"
}

// flag returns the flag that adds patterns with this prefix.
func (f *filters) flag(prefix string) *filterFlag { return &filterFlag{f, prefix} }

// filterFlag implements pflag.Value and pflag.SliceValue.
type filterFlag struct {
	filters *filters
	prefix  string
}

// Set adds a pattern.
func (f *filterFlag) Set(pattern string) error {
	if p, negated := strings.CutPrefix(pattern, "!"); negated {
		other := "--include"
		if f.prefix == "!" {
			other = "--exclude"
		}
		return fmt.Errorf("pattern %q: use %s %s instead of the !; write \\%s for a name that begins with one", pattern, other, p, pattern)
	}
	if err := chunker.CheckPattern(f.prefix + pattern); err != nil {
		return err
	}
	f.filters.given = append(f.filters.given, filter{pattern: f.prefix + pattern})
	return nil
}

// String implements pflag.Value.
func (f *filterFlag) String() string {
	if f.filters == nil {
		return ""
	}
	return strings.Join(f.GetSlice(), " ")
}

// Type implements pflag.Value.
func (f *filterFlag) Type() string { return "pattern" }

// Append implements pflag.SliceValue.
func (f *filterFlag) Append(pattern string) error { return f.Set(pattern) }

// Replace implements pflag.SliceValue.
func (f *filterFlag) Replace(patterns []string) error {
	f.filters.given = slices.DeleteFunc(f.filters.given, f.owns)
	for _, p := range patterns {
		if err := f.Set(p); err != nil {
			return err
		}
	}
	return nil
}

// GetSlice implements pflag.SliceValue.
func (f *filterFlag) GetSlice() []string {
	var own []string
	for _, g := range f.filters.given {
		if f.owns(g) {
			own = append(own, strings.TrimPrefix(g.pattern, f.prefix))
		}
	}
	return own
}

func (f *filterFlag) owns(g filter) bool {
	return g.file == "" && strings.HasPrefix(g.pattern, "!") == (f.prefix == "!")
}

// filterFiles is the flag that adds pattern files. It implements pflag.Value
// and pflag.SliceValue.
type filterFiles struct{ filters *filters }

// Set adds a file, to be read later.
func (f *filterFiles) Set(name string) error {
	if name == "" {
		return errEmptyPath
	}
	f.filters.given = append(f.filters.given, filter{file: name})
	return nil
}

// String implements pflag.Value.
func (f *filterFiles) String() string {
	if f.filters == nil {
		return ""
	}
	return strings.Join(f.GetSlice(), " ")
}

// Type implements pflag.Value.
func (f *filterFiles) Type() string { return "file" }

// Append implements pflag.SliceValue.
func (f *filterFiles) Append(name string) error { return f.Set(name) }

// Replace implements pflag.SliceValue.
func (f *filterFiles) Replace(names []string) error {
	f.filters.given = slices.DeleteFunc(f.filters.given, func(g filter) bool { return g.file != "" })
	for _, n := range names {
		if err := f.Set(n); err != nil {
			return err
		}
	}
	return nil
}

// GetSlice implements pflag.SliceValue.
func (f *filterFiles) GetSlice() []string {
	var own []string
	for _, g := range f.filters.given {
		if g.file != "" {
			own = append(own, g.file)
		}
	}
	return own
}

// age is a flag for the modification time of a file: a duration such as 90m, a
// number of days, weeks, months or years such as 2d, 3w, 6M, 1y, or a date.
type age struct {
	text string
	ago  time.Duration
	date time.Time // zero if the flag has a duration
}

// Set implements pflag.Value.
func (v *age) Set(s string) error {
	*v = age{text: s}
	if s == "" || s == "off" {
		v.text = ""
		return nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil { //nolint:gosmopolitan // people say their own time
			v.date = t
			return nil
		}
	}
	days := map[string]float64{"d": 1, "w": 7, "M": 30, "y": 365}
	if unit := s[len(s)-1:]; days[unit] > 0 {
		if n, err := strconv.ParseFloat(s[:len(s)-1], 64); err == nil {
			hours := n * days[unit] * 24
			if math.IsNaN(hours) || hours < 0 || hours > math.MaxInt64/float64(time.Hour) {
				return fmt.Errorf("age %q: it must be between now and 290 years ago", s)
			}
			v.ago = time.Duration(hours * float64(time.Hour))
			return nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return fmt.Errorf("age %q: use 90s, 10m, 12h, 2d, 3w, 6M or 1y, or a date such as 2026-01-31", s)
	}
	v.ago = d
	return nil
}

// String implements pflag.Value.
func (v *age) String() string { return v.text }

// Type implements pflag.Value.
func (v *age) Type() string { return "age" }

// before returns the date, or now minus the duration; zero if the flag is not
// set.
func (v *age) before(now time.Time) time.Time {
	switch {
	case v.text == "":
		return time.Time{}
	case !v.date.IsZero():
		return v.date
	}
	return now.Add(-v.ago)
}
