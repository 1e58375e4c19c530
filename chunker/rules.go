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

// rule is a line as of a .gitignore.
type rule struct {
	text    string // as it was written
	line    int    // of the file that it is from, or its index in Options.Patterns
	pattern string // of the whole path below the directory that the rule is for
	dirOnly bool
	take    bool // take in what an earlier rule left out
}

// CheckPattern tells what is wrong with a pattern for [Options].
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

// parseRule understands what gitignore(5) does: a pattern without a slash
// matches a name at any depth, one with a slash a path from the top; a slash
// at the end asks for a directory; "!" in front takes in again; "a/**" is what
// is below a. Beyond that, {a,b} is either of the two.
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
		r.pattern += "/*" // doublestar would have it match the directory as well
	}
	if p == "" || !doublestar.ValidatePattern(r.pattern) {
		return rule{}, fmt.Errorf("pattern %q can't be understood", text)
	}
	return r, nil
}

// matching is the rule that decides about a path: the last one that matches it.
func matching(rules []rule, name string, isDir bool) *rule {
	for i := len(rules) - 1; i >= 0; i-- {
		r := &rules[i]
		if r.dirOnly && !isDir {
			continue
		}
		if ok, _ := doublestar.Match(r.pattern, name); ok { // the pattern was checked
			return r
		}
	}
	return nil
}

// PatternLine is a line of a file of patterns.
type PatternLine struct {
	Number  int
	Text    string // as it was written
	Pattern string // the same for [Options]
}

// maxPatternBytes bounds a file of patterns. Nobody writes as many.
const maxPatternBytes = 1 << 20

// ReadPatterns reads a file in the form of a .gitignore: a pattern a line. Empty
// lines and those that begin with # are left out, as are spaces at the end of a
// line, unless a backslash is before them. Braces are braces there.
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

// trimSpaces cuts the spaces off the end that no backslash keeps.
func trimSpaces(line string) string {
	cut := strings.TrimRight(line, " ")
	slashes := len(cut) - len(strings.TrimRight(cut, `\`))
	if slashes%2 == 1 && len(cut) < len(line) {
		return cut + " "
	}
	return cut
}

// literalBraces writes a pattern of Git's as one of doublestar's, to whom braces
// are alternatives.
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
