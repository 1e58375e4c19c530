package chunker

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// rule is a line as of a .gitignore.
type rule struct {
	pattern string // of the whole path below the mount
	dirOnly bool
	take    bool // take in what an earlier rule left out
}

// CheckPattern tells what is wrong with a pattern for [Options].
func CheckPattern(pattern string) error {
	_, err := parseRule(pattern)
	return err
}

func parseRules(patterns []string) ([]rule, error) {
	var rules []rule
	for _, text := range patterns {
		r, err := parseRule(text)
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, nil
}

// parseRule understands what gitignore(5) does: a pattern without a slash
// matches a name at any depth, one with a slash a path from the top; a slash
// at the end asks for a directory; "!" in front takes in again.
func parseRule(text string) (r rule, err error) {
	p, take := strings.CutPrefix(text, "!")
	r.take = take
	p, r.dirOnly = strings.CutSuffix(p, "/")
	if p, anchored := strings.CutPrefix(p, "/"); anchored || strings.Contains(p, "/") {
		r.pattern = p
	} else {
		r.pattern = "**/" + p
	}
	if p == "" || !doublestar.ValidatePattern(r.pattern) {
		return rule{}, fmt.Errorf("pattern %q can't be understood", text)
	}
	return r, nil
}

// wanted reports whether an entry of a directory belongs to the tree. What is
// in a directory that is left out is not looked at.
func (w *walker) wanted(d *foundDir, e fs.DirEntry) bool {
	if !w.opts.Hidden && strings.HasPrefix(e.Name(), ".") {
		return false
	}
	if len(w.rules) == 0 {
		return true
	}
	name := path.Join(d.path, e.Name())
	for i := len(w.rules) - 1; i >= 0; i-- {
		r := &w.rules[i]
		if r.dirOnly && !e.IsDir() {
			continue
		}
		if ok, _ := doublestar.Match(r.pattern, name); ok { // the pattern was checked
			return r.take
		}
	}
	return true
}
