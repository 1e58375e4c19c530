package chunker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// RuleKind is a kind of rule that decides whether an entry is taken.
type RuleKind string

// The kinds of rules, in the order in which they apply.
const (
	RuleNone       RuleKind = ""           // no rule applies
	RuleHidden     RuleKind = "hidden"     // the name begins with a dot
	RulePattern    RuleKind = "pattern"    // one of [Options.Patterns]
	RuleIgnoreFile RuleKind = "ignoreFile" // a line of an [Options.IgnoreFile]
	RuleSpecial    RuleKind = "special"    // a FIFO, a socket, a device
	RuleFileSystem RuleKind = "fileSystem" // [Options.OneFileSystem]
	RuleSize       RuleKind = "size"       // [Options.MinSize] and MaxSize
	RuleAge        RuleKind = "age"        // [Options.ModifiedFrom] and ModifiedUntil
)

// Decision says whether an entry of a directory is taken, and which rule
// decided.
type Decision struct {
	Path    string // path on disk that the rule applied to: the entry, or a directory that it is in
	Taken   bool
	Kind    RuleKind
	Pattern string // the deciding pattern, as written
	File    string // file with the pattern; empty for [Options.Patterns]
	Line    int    // line in File, or index in [Options.Patterns]
	Why     string // reason for people, if no pattern decided
}

// selection decides what is taken from a directory.
type selection struct {
	opts  *Options
	rules []rule
}

func newSelection(opts *Options) (selection, error) {
	rules, err := parseRules(opts.Patterns)
	return selection{opts, rules}, err
}

// ignores are the rules of an ignore file.
type ignores struct {
	dir   string // directory they apply to, below the mount, with slashes
	file  string // path on disk
	rules []rule
	above *ignores
}

// byName decides by the name of an entry. Patterns and ignore files can only
// leave out what the others take. Among ignore files, the nearest one with a
// matching rule decides.
func (s *selection) byName(above *ignores, name string, isDir bool) Decision {
	d := Decision{Taken: true}
	if !s.opts.Hidden && strings.HasPrefix(path.Base(name), ".") {
		return Decision{Kind: RuleHidden, Why: "its name begins with a dot"}
	}
	if r := matching(s.rules, name, isDir); r != nil {
		d = Decision{Taken: r.take, Kind: RulePattern, Pattern: r.text, Line: r.line}
	}
	for i := above; i != nil && d.Taken; i = i.above {
		rel := name
		if i.dir != "." {
			rel = strings.TrimPrefix(name, i.dir+"/")
		}
		if r := matching(i.rules, rel, isDir); r != nil {
			return Decision{Taken: r.take, Kind: RuleIgnoreFile, Pattern: r.text, File: i.file, Line: r.line}
		}
	}
	return d
}

// looks reports whether byInfo could leave anything out.
func (s *selection) looks(isDir bool) bool {
	if isDir {
		return s.opts.OneFileSystem
	}
	return s.opts.MinSize > 0 || s.opts.MaxSize > 0 || !s.opts.ModifiedFrom.IsZero() || !s.opts.ModifiedUntil.IsZero()
}

// byInfo decides by the file info of a file or directory below top.
func (s *selection) byInfo(top, info fs.FileInfo) Decision {
	switch {
	case info.Mode().IsRegular():
		return s.bySizeAndAge(info.Size(), info.ModTime())
	case info.IsDir() && s.opts.OneFileSystem && !sameDevice(top, info):
		return Decision{Kind: RuleFileSystem, Why: "it is on another file system"}
	}
	return Decision{Taken: true}
}

func (s *selection) bySizeAndAge(size int64, modified time.Time) Decision {
	o := s.opts
	switch {
	case size < o.MinSize:
		return Decision{Kind: RuleSize, Why: fmt.Sprintf("it has %d bytes, less than %d", size, o.MinSize)}
	case o.MaxSize > 0 && size > o.MaxSize:
		return Decision{Kind: RuleSize, Why: fmt.Sprintf("it has %d bytes, more than %d", size, o.MaxSize)}
	case !o.ModifiedFrom.IsZero() && modified.Before(o.ModifiedFrom):
		return Decision{Kind: RuleAge, Why: "it was last modified before " + o.ModifiedFrom.Format(time.RFC3339)}
	case !o.ModifiedUntil.IsZero() && modified.After(o.ModifiedUntil):
		return Decision{Kind: RuleAge, Why: "it was last modified after " + o.ModifiedUntil.Format(time.RFC3339)}
	}
	return Decision{Taken: true}
}

// readIgnores reads the ignore file of a directory. One that cannot be read is
// an error, since otherwise what it leaves out would be taken.
func (s *selection) readIgnores(root *os.Root, onDisk, dir string, above *ignores) (*ignores, error) {
	i := &ignores{dir: dir, file: filepath.Join(onDisk, s.opts.IgnoreFile), above: above}
	f, err := root.OpenFile(s.opts.IgnoreFile, openFlags, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errNotPatterns
	}
	var lines []PatternLine
	if err == nil {
		lines, err = ReadPatterns(f)
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %w", i.file, err)
	}
	for _, l := range lines {
		r, err := parseRule(l.Pattern)
		if err != nil {
			return nil, err
		}
		r.line, r.text = l.Number, l.Text
		i.rules = append(i.rules, r)
	}
	if s.opts.Ignoring != nil {
		s.opts.Ignoring(i.file)
	}
	return i, nil
}

// Wanted returns a function that applies o to files that are not on disk. It
// reports whether a build would take the file if it were in a directory on
// disk, given its path with slashes, size and modification time. Ignore files
// are not considered. A negative size stands for a directory.
func (o Options) Wanted() (func(name string, size int64, modified time.Time) bool, error) {
	s, err := newSelection(&o)
	if err != nil {
		return nil, err
	}
	return func(name string, size int64, modified time.Time) bool {
		for i := 0; i < len(name); {
			end := len(name)
			if k := strings.IndexByte(name[i:], '/'); k >= 0 {
				end = i + k
			}
			if !s.byName(nil, name[:end], end < len(name)).Taken {
				return false
			}
			i = end + 1
		}
		return size < 0 || s.bySizeAndAge(size, modified).Taken
	}, nil
}

// Explain reports whether a build of the directory dir would take the file or
// directory name, a path below dir with slashes, and which rule decides. It
// reads nothing but the ignore files on the way.
func (o Options) Explain(dir, name string) (Decision, error) {
	s, err := newSelection(&o)
	if err != nil {
		return Decision{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Decision{}, err
	}
	defer root.Close()
	top, err := root.Stat(".")
	if err != nil {
		return Decision{}, err
	}
	var above *ignores
	d := Decision{Taken: true, Path: dir}
	for i := 0; d.Taken && i < len(name); {
		if above, err = s.ignoresAt(root, dir, path.Dir(name[:i]+"x"), above); err != nil {
			return Decision{}, err
		}
		end := len(name)
		if k := strings.IndexByte(name[i:], '/'); k >= 0 {
			end = i + k
		}
		at := name[:end]
		if d, err = s.explain(root, top, above, at, filepath.Join(dir, filepath.FromSlash(at))); err != nil {
			return Decision{}, err
		}
		i = end + 1
	}
	return d, nil
}

func (s *selection) ignoresAt(root *os.Root, onDisk, dir string, above *ignores) (*ignores, error) {
	if s.opts.IgnoreFile == "" {
		return nil, nil
	}
	at, err := root.OpenRoot(filepath.FromSlash(dir))
	if err != nil {
		return nil, err
	}
	defer at.Close()
	if _, err := at.Lstat(s.opts.IgnoreFile); errors.Is(err, fs.ErrNotExist) {
		return above, nil
	}
	return s.readIgnores(at, filepath.Join(onDisk, filepath.FromSlash(dir)), dir, above)
}

func (s *selection) explain(root *os.Root, top fs.FileInfo, above *ignores, name, onDisk string) (Decision, error) {
	look := root.Lstat
	if s.opts.Dereference { // symlinks may lead outside the directory
		look = func(string) (fs.FileInfo, error) { return os.Lstat(onDisk) }
	}
	info, err := look(name)
	if err != nil {
		var at *fs.PathError
		if errors.As(err, &at) {
			err = &fs.PathError{Op: "stat", Path: onDisk, Err: at.Err}
		}
		return Decision{}, err
	}
	d := s.byName(above, name, info.IsDir())
	if info.Mode()&fs.ModeSymlink != 0 && s.opts.Dereference {
		if info, err = os.Stat(onDisk); err != nil {
			return Decision{}, err
		}
	}
	mode := info.Mode()
	if d.Taken && !mode.IsRegular() && !mode.IsDir() && mode&fs.ModeSymlink == 0 {
		d = Decision{Kind: RuleSpecial, Why: "it is " + kindOf(mode)}
	}
	if by := s.byInfo(top, info); d.Taken && !by.Taken {
		d = by
	}
	d.Path = onDisk
	return d, nil
}
