package cli

import (
	"path/filepath"
	"strings"

	"github.com/carload/carload/chunker"
)

// explain says for each path whether it would be taken as part of the inputs.
func (s *inputs) explain(paths []string) error {
	for _, path := range paths {
		of, below, err := s.inputOf(path)
		if err != nil {
			return err
		}
		d, err := s.options.Explain(of, below)
		if err != nil {
			return sourceError{err}
		}
		rule, outcome := s.ruleOf(d), "left out"
		if d.Taken {
			outcome = "taken"
		}
		if d.Path != filepath.Join(of, filepath.FromSlash(below)) {
			rule = quotePath(d.Path) + ": " + rule
		}
		s.app.con.event(explainedEvent{header("explained"), path, of, d.Taken, string(d.Kind), s.ruleOf(d), d.Path})
		s.app.con.result(outcome + "\t" + quotePath(path) + "\t" + rule)
	}
	return nil
}

// inputOf returns the innermost input directory that contains a path, and the
// path below it.
func (s *inputs) inputOf(path string) (of, below string, err error) {
	best := -1
	for in, err := range s.all() {
		if err != nil {
			return "", "", err
		}
		rel, err := relative(in, path)
		if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
			continue
		}
		if n := len(rel); best < 0 || n < best {
			best, of, below = n, in, filepath.ToSlash(rel)
		}
	}
	switch {
	case best < 0:
		return "", "", usagef("--explain %s: it is not inside any of the given directories", quotePath(path))
	case below == ".":
		return "", "", usagef("--explain %s: carload always takes what you give; name something inside it", quotePath(path))
	}
	return of, below, nil
}

func relative(dir, path string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", err
	}
	return filepath.Rel(dir, path)
}

// ruleOf describes the rule that decided, and where it is.
func (s *inputs) ruleOf(d chunker.Decision) string {
	switch d.Kind {
	case chunker.RuleNone:
		return "no rule leaves it out"
	case chunker.RulePattern:
		return s.patterns[d.Line].origin
	case chunker.RuleIgnoreFile:
		return quotePath(d.File) + ":" + itoa(d.Line) + ": " + d.Pattern
	case chunker.RuleHidden:
		return d.Why + "; --hidden takes it"
	}
	return d.Why
}
