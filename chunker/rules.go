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
	return len(w.rules) == 0 || wanted(w.rules, path.Join(d.path, e.Name()), e.IsDir())
}

// Wanted is a test of paths of files, with slashes: whether a directory on disk
// with that file in it would be taken with it. It goes by Hidden and Patterns.
func (o Options) Wanted() (func(name string) bool, error) {
	rules, err := parseRules(o.Patterns)
	if err != nil {
		return nil, err
	}
	return func(name string) bool {
		for i := 0; i < len(name); {
			end := len(name)
			if k := strings.IndexByte(name[i:], '/'); k >= 0 {
				end = i + k
			}
			if !o.Hidden && name[i] == '.' || !wanted(rules, name[:end], end < len(name)) {
				return false
			}
			i = end + 1
		}
		return true
	}, nil
}

// wanted reports whether the rules take a path below the mount. The last one
// that matches decides.
func wanted(rules []rule, name string, isDir bool) bool {
	for i := len(rules) - 1; i >= 0; i-- {
		r := &rules[i]
		if r.dirOnly && !isDir {
			continue
		}
		if ok, _ := doublestar.Match(r.pattern, name); ok { // the pattern was checked
			return r.take
		}
	}
	return true
}
