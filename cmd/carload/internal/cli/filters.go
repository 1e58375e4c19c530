package cli

import (
	"strings"

	"github.com/carload/carload/chunker"
)

// filters are the patterns of --exclude and --include, in the order in which
// they were given.
type filters struct{ patterns []string }

// flag is the flag that adds patterns with this prefix.
func (f *filters) flag(prefix string) *filterFlag { return &filterFlag{f, prefix} }

// filterFlag implements pflag.Value and pflag.SliceValue.
type filterFlag struct {
	filters *filters
	prefix  string
}

// Set adds a pattern. If the first one takes something in, all else is left
// out; directories stay, so that what is in them can match.
func (f *filterFlag) Set(pattern string) error {
	if err := chunker.CheckPattern(f.prefix + pattern); err != nil {
		return err
	}
	if f.prefix == "!" && len(f.filters.patterns) == 0 {
		f.filters.patterns = []string{"*", "!*/"}
	}
	f.filters.patterns = append(f.filters.patterns, f.prefix+pattern)
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
	f.filters.patterns = nil
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
	for _, p := range f.filters.patterns {
		if strings.HasPrefix(p, "!") == (f.prefix == "!") {
			own = append(own, strings.TrimPrefix(p, f.prefix))
		}
	}
	return own
}
