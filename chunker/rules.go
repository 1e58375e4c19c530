package chunker

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// rule is a line of a .gitignore.
type rule struct {
	text    string // as it was written
	line    int    // line number in its file, or index in Options.Patterns
	pattern string // matches the whole path below the directory that the rule applies to
	dirOnly bool
	take    bool // take in what an earlier rule leaves out
}

// CheckPattern reports what is wrong with a pattern for [Options].
func CheckPattern(pattern string) error {
	_, err := parseRule(pattern)
	return err
}

func parseRules(patterns []string) ([]rule, error) {
	rules := make([]rule, 0, len(patterns))
	for i, text := range patterns {
		r, err := parseRule(text)
		if err != nil {
			return nil, err
		}
		r.line = i
		rules = append(rules, r)
	}
	return rules, nil
}

// parseRule parses a pattern as gitignore(5) describes it: without a slash it
// matches a name at any depth, with one a path from the top; a trailing slash
// matches only directories; a leading "!" takes in again; "a/**" matches
// everything below a. In addition, {a,b} matches either alternative.
func parseRule(text string) (r rule, err error) {
	p, take := strings.CutPrefix(text, "!")
	r.text, r.take = text, take
	p, r.dirOnly = strings.CutSuffix(p, "/")
	if p, anchored := strings.CutPrefix(p, "/"); anchored || strings.Contains(p, "/") {
		r.pattern = p
	} else {
		r.pattern = "**/" + p
	}
	if strings.HasSuffix(r.pattern, "/**") {
		r.pattern += "/*" // otherwise doublestar would match the directory too
	}
	if p == "" || !doublestar.ValidatePattern(r.pattern) {
		return rule{}, fmt.Errorf("invalid pattern %q", text)
	}
	return r, nil
}

// matching returns the rule that decides about a path: the last one that
// matches.
func matching(rules []rule, name string, isDir bool) *rule {
	for i := len(rules) - 1; i >= 0; i-- {
		r := &rules[i]
		if r.dirOnly && !isDir {
			continue
		}
		if ok, _ := doublestar.Match(r.pattern, name); ok { // the pattern has been validated
			return r
		}
	}
	return nil
}

// PatternLine is one pattern of a file.
type PatternLine struct {
	Number  int
	Text    string // as written in the file
	Pattern string // as [Options] expects it
}

// maxPatternBytes is the largest file of patterns that is read.
const maxPatternBytes = 1 << 20

// ReadPatterns reads a file in the format of a .gitignore, with one pattern a
// line. It skips empty lines and lines that begin with #, and removes trailing
// spaces unless a backslash precedes them. Braces have no special meaning.
func ReadPatterns(r io.Reader) ([]PatternLine, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxPatternBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxPatternBytes {
		return nil, fmt.Errorf("more than %d bytes of patterns", maxPatternBytes)
	}
	var all []PatternLine
	lines := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(text, []byte("\uFEFF"))))
	lines.Buffer(nil, maxPatternBytes+1)
	for n := 1; lines.Scan(); n++ {
		p := trimSpaces(lines.Text())
		if p == "" || strings.HasPrefix(p, "#") {
			continue
		}
		line := PatternLine{n, p, literalBraces(p)}
		if err := CheckPattern(line.Pattern); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		all = append(all, line)
	}
	return all, lines.Err()
}

// trimSpaces removes trailing spaces that are not escaped.
func trimSpaces(line string) string {
	cut := strings.TrimRight(line, " ")
	slashes := len(cut) - len(strings.TrimRight(cut, `\`))
	if slashes%2 == 1 && len(cut) < len(line) {
		return cut + " "
	}
	return cut
}

// literalBraces escapes the braces of a Git pattern, which doublestar would
// take for alternatives.
func literalBraces(p string) string {
	if !strings.ContainsAny(p, "{}") {
		return p
	}
	var b strings.Builder
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			b.WriteByte(p[i])
			if i++; i < len(p) {
				b.WriteByte(p[i])
			}
			continue
		case '{', '}':
			b.WriteByte('\\')
		}
		b.WriteByte(p[i])
	}
	return b.String()
}

var errNotPatterns = errors.New("it is not a regular file")
