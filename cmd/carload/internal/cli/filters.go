package cli

import (
	"fmt"
	"strings"

	"github.com/carload/carload/chunker"
)

// filters are the patterns of --exclude and --include, in the order in which
// they were given. Those of --include begin with "!".
type filters struct{ given []string }

// patterns are those that the chunker is to go by. If the first one takes
// something in, all else is left out; directories stay, so that what is in them
// can match, and one that matches takes in what is below it.
func (f *filters) patterns() []string {
	if len(f.given) == 0 || !strings.HasPrefix(f.given[0], "!") {
		return f.given
	}
	all := []string{"*", "!*/"}
	for _, p := range f.given {
		all = append(all, p)
		if p, take := strings.CutPrefix(p, "!"); take {
			all = append(all, "!"+below(p))
		}
	}
	return all
}

// below is a pattern of what is below the directories that match p.
func below(p string) string {
	p = strings.TrimSuffix(p, "/")
	if !strings.Contains(p, "/") {
		p = "**/" + p
	}
	return p + "/**/*"
}

// flag is the flag that adds patterns with this prefix.
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
		return fmt.Errorf("pattern %q: instead of the ! use %s %s; a name that begins with one is \\%s", pattern, other, p, pattern)
	}
	if err := chunker.CheckPattern(f.prefix + pattern); err != nil {
		return err
	}
	f.filters.given = append(f.filters.given, f.prefix+pattern)
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
	f.filters.given = nil
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
	for _, p := range f.filters.given {
		if strings.HasPrefix(p, "!") == (f.prefix == "!") {
			own = append(own, strings.TrimPrefix(p, f.prefix))
		}
	}
	return own
}
