package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
)

// inputFlags say what to read and how it becomes a DAG. The commands cid, pack
// and up share them.
type inputFlags struct {
	filesFrom, filesFrom0 string
	part                  part
	retryFrom, report     string
	skipErrors            bool
	asFile                bool
	root                  string
	spoolDir              string
	maxUploadBytes        size

	profile    string
	chunker    string
	width      int
	rawLeaves  bool
	cidVersion int
	hamt       string
	fanout     int
	trickle    bool

	mode, mtime bool
	hashers     int

	hidden, dereference, noEmptyDirs, rawNames, wrap, list bool
	filters                                                filters
	noIgnore, oneFileSystem                                bool
	minSize, maxSize                                       size
	minAge, maxAge                                         age
}

func (i *inputFlags) add(cmd *cobra.Command) {
	i.maxUploadBytes = uploader.DefaultMaxUploadBytes
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&i.filesFrom, "files-from", "", "read more paths from this file, one per line; skip lines that begin with # or ; (- for standard input)")
	f.StringVar(&i.filesFrom0, "files-from0", "", "the same, with paths that end in a zero byte and may begin with anything")
	f.Var(&i.part, "part", "take only part K of N, as K/N, by a hash of the path; auto/N in a Kubernetes or Slurm array job")
	f.StringVar(&i.retryFrom, "retry-from", "", "take the paths that failed in this report (- for standard input)")
	f.StringVar(&i.report, "report", "", "write the outcome of each path to this file: JSON lines if it ends in .json or .jsonl, otherwise CSV")
	f.BoolVar(&i.skipErrors, "skip-errors", false, "leave out directory entries that can't be taken, and exit with code 3 at the end")
	f.StringVar(&i.root, "root", "", "take the DAG under this root from .car files, which may have several roots or none")
	f.BoolVar(&i.asFile, "as-file", false, "treat a .car file as an ordinary file, instead of taking the DAG in it")
	f.StringVar(&i.spoolDir, "spool-dir", "", "where to spool standard input (default: the user's cache directory)")
	f.Var(&i.maxUploadBytes, "max-upload-bytes", "refuse larger inputs; 0 for no limit")

	f.StringVar(&i.profile, "profile", chunker.UnixFSv1().Name, `profile for the CID; see "carload profiles"`)
	f.StringVar(&i.chunker, "chunker", "", "size-N, rabin[-MIN-AVG-MAX] or buzhash, instead of the profile's")
	f.IntVar(&i.width, "width", 0, "links per inner node of a file, instead of the profile's")
	f.BoolVar(&i.rawLeaves, "raw-leaves", false, "raw leaves (or not, with =false), instead of the profile's")
	f.IntVar(&i.cidVersion, "cid-version", 0, "CID version, 0 or 1, instead of the profile's")
	f.StringVar(&i.hamt, "hamt", "", "when a directory becomes a HAMT, RULE:N, instead of the profile's")
	f.IntVar(&i.fanout, "fanout", 0, "buckets per HAMT node, instead of the profile's")
	f.BoolVar(&i.trickle, "trickle", false, "trickle layout instead of the balanced one")
	f.BoolVar(&i.mode, "mode", false, "store permissions, as Kubo does")
	f.BoolVar(&i.mtime, "mtime", false, "store modification times, as Kubo does")
	f.BoolVarP(&i.hidden, "hidden", "H", false, "take names that begin with a dot")
	f.BoolVar(&i.dereference, "dereference", false, "follow symlinks instead of storing them")
	f.BoolVar(&i.noEmptyDirs, "no-empty-dirs", false, "leave out empty directories")
	f.BoolVar(&i.rawNames, "raw-names", false, "take names that are not UTF-8 as they are")
	f.BoolVar(&i.wrap, "wrap", false, "put all arguments into one directory")
	f.Var(i.filters.flag(""), "exclude", "leave out names that match, as in a .gitignore but without !; the last match decides")
	f.Var(i.filters.flag("!"), "include", "take names that match; if this flag comes first, take only those, and everything below directories that match")
	f.Var(&filterFiles{&i.filters}, "exclude-from", "read patterns from this file, one per line, as in a .gitignore")
	f.BoolVar(&i.noIgnore, "no-ignore", false, "ignore the "+ignoreFile+" files in directories")
	f.Var(&i.minSize, "min-size", "leave out smaller files")
	f.Var(&i.maxSize, "max-size", "leave out larger files; 0 for no limit")
	f.Var(&i.minAge, "min-age", "leave out files modified since then: 90m, 2d, 3w, 6M, 1y or a date")
	f.Var(&i.maxAge, "max-age", "leave out files not modified since then")
	f.BoolVarP(&i.oneFileSystem, "one-file-system", "x", false, "leave out directories on other file systems")
	f.IntVar(&i.hashers, "hashers", 0, "goroutines that read and hash (default: one per core)")
	group(f, groupWhat, "files-from", "files-from0", "part", "retry-from", "root", "as-file", "spool-dir", "hidden", "dereference", "no-empty-dirs", "raw-names", "wrap", "exclude", "include", "exclude-from", "no-ignore", "min-size", "max-size", "min-age", "max-age", "one-file-system")
	f.BoolVar(&i.list, "list", false, "also print the CID of everything in directories, in order of name, each entry before its directory")
	group(f, groupOutput, "report", "list")
	group(f, groupSafety, "skip-errors", "max-upload-bytes")
	group(f, groupRecipe, "profile", "chunker", "width", "raw-leaves", "cid-version", "hamt", "fanout", "trickle", "mode", "mtime")
	group(f, groupSpeed, "hashers")
	common(f, "files-from", "hidden", "wrap", "exclude", "include", "exclude-from", "list", "report", "skip-errors", "profile")
}

// chosenProfile returns the profile with all changes that the flags ask for.
func (i *inputFlags) chosenProfile(flags *pflag.FlagSet) (chunker.Profile, error) {
	p, err := chunker.ProfileNamed(i.profile)
	if err != nil {
		return p, withHint(usageError{error: fmt.Errorf("--profile: %w%s", err, suggestion(i.profile, profileNames()))}, "carload profiles lists them")
	}
	if flags.Changed("chunker") {
		p.Chunker, p.ChunkBytes = i.chunker, 0
		if n, ok := strings.CutPrefix(i.chunker, "size-"); ok {
			bytes, err := parseSize(n)
			if err != nil {
				return p, usageError{error: fmt.Errorf("--chunker: %w", err)}
			}
			p.Chunker, p.ChunkBytes = "", int(bytes)
		}
	}
	if flags.Changed("hamt") {
		if err := p.HAMT.UnmarshalText([]byte(i.hamt)); err != nil {
			return p, usageError{error: fmt.Errorf("--hamt: %w", err)}
		}
	}
	if flags.Changed("trickle") {
		p.Layout = chunker.Balanced
		if i.trickle {
			p.Layout = chunker.Trickle
		}
	}
	if flags.Changed("cid-version") {
		p.CidVersion = i.cidVersion
	}
	if flags.Changed("width") {
		p.Width = i.width
	}
	if flags.Changed("raw-leaves") {
		p.RawLeaves = i.rawLeaves
	}
	if flags.Changed("fanout") {
		p.Fanout = i.fanout
	}
	if err := p.Validate(); err != nil {
		return p, usageError{error: err}
	}
	return p.Renamed(), nil
}

// inputs makes inputs from paths.
type inputs struct {
	app     *app
	flags   inputFlags
	options chunker.Options
	paths   []string
	limit   int64              // negative for no limit
	buckets map[string]*target // buckets that inputs are in, by name
	remote  *remote            // roots to copy instead of paths; nil for paths

	root      cid.Cid // the root to take from archives; undefined for the roots in their headers
	report    *report // nil without --report
	elsewhere int     // paths of other parts; set when inputs has ended

	patterns []chosen // of the options
	ignoring sync.Once
	filtered int64 // entries of buckets that the options left out
}

// ignoreFile is the name of a file with patterns for its directory.
const ignoreFile = ".carloadignore"

// choose sets the options that select entries of directories.
func (s *inputs) choose(now time.Time) (err error) {
	f, o := &s.flags, &s.options
	if f.oneFileSystem && runtime.GOOS == "windows" {
		return usagef("--one-file-system: Windows does not tell which file system contains a directory")
	}
	if s.patterns, err = f.filters.patterns(); err != nil {
		return err
	}
	for _, p := range s.patterns {
		o.Patterns = append(o.Patterns, p.pattern)
	}
	if !f.noIgnore {
		o.IgnoreFile = ignoreFile
		o.Ignoring = func(path string) {
			s.ignoring.Do(func() {
				s.app.con.say("%s decides what carload takes below it; --no-ignore takes everything", quotePath(path))
			})
		}
	}
	o.MinSize, o.MaxSize = int64(f.minSize), int64(f.maxSize)
	o.ModifiedFrom, o.ModifiedUntil = f.maxAge.before(now), f.minAge.before(now)
	o.OneFileSystem = f.oneFileSystem
	return nil
}

// inputs checks the flags and arguments. It opens nothing yet.
func (a *app) inputs(cmd *cobra.Command, f inputFlags, args []string) (*inputs, error) {
	profile, err := f.chosenProfile(cmd.Flags())
	if err != nil {
		return nil, err
	}
	s := &inputs{app: a, flags: f, limit: int64(f.maxUploadBytes), paths: args}
	if s.limit == 0 {
		s.limit = -1
	}
	if f.root != "" {
		if s.root, err = cid.Decode(f.root); err != nil {
			return nil, usageError{error: fmt.Errorf("--root %q is not a CID: %w", f.root, err)}
		}
	}
	s.options = chunker.Options{
		Profile: profile, Workers: f.hashers, Mode: f.mode, ModTime: f.mtime,
		Hidden: f.hidden, Dereference: f.dereference, NoEmptyDirs: f.noEmptyDirs, RawNames: f.rawNames,
	}
	if err := s.choose(time.Now()); err != nil {
		return nil, err
	}
	if err := s.flags.part.resolve(a.env); err != nil {
		return nil, usageError{error: err}
	}
	readers := 0
	for _, p := range append([]string{f.filesFrom, f.filesFrom0, f.retryFrom}, args...) {
		if p == "-" {
			readers++
		}
	}
	switch {
	case f.list && isSet(cmd, "root-only"):
		return nil, usagef("--list prints what is inside directories, and --root-only only their roots: use one of them")
	case f.wrap && f.part.text != "":
		return nil, usagef("--wrap puts all paths into one directory, and --part takes only some of them: use one of them")
	case readers > 1:
		return nil, usagef("standard input can be read only once")
	case len(args) == 0 && f.filesFrom == "" && f.filesFrom0 == "" && f.retryFrom == "":
		return nil, usageError{errors.New("give at least one path, or - for standard input"), helpFor(cmd)}
	case readers > 0 && isTerminal(a.stdio.In):
		a.con.warn("reading standard input from the terminal")
	}
	return s, nil
}

func isSet(cmd *cobra.Command, flag string) bool {
	set, err := cmd.Flags().GetBool(flag)
	return set && err == nil
}

// each yields an input for each path, one at a time. If a path can't be
// opened, its input fails when it is described.
func (s *inputs) each() iter.Seq[uploader.Input] {
	if s.remote != nil {
		return s.remote.inputs(s)
	}
	if s.flags.wrap {
		return func(yield func(uploader.Input) bool) {
			in, err := s.wrapped()
			if err != nil {
				in = failedInput{".", sourceError{err}}
			}
			yield(in)
		}
	}
	return func(yield func(uploader.Input) bool) {
		seen := map[string]bool{}
		group := archiveGroup{open: s.archives, root: s.root}
		for path, err := range s.all() {
			if err == nil && seen[filepath.Clean(path)] {
				s.app.con.warn("%s was given more than once", quotePath(path))
				continue
			}
			seen[filepath.Clean(path)] = true
			if err == nil && !s.flags.part.takes(path) {
				s.elsewhere++
				continue
			}
			if err == nil && s.isArchive(path) {
				if !group.take(path, yield) {
					return
				}
				continue
			}
			if !group.flush(yield) {
				return
			}
			var in uploader.Input
			if err == nil {
				in, err = s.open(path)
			}
			if err != nil {
				in = failedInput{path, sourceError{err}}
			}
			if !yield(in) {
				return
			}
		}
		group.flush(yield)
	}
}

// isArchive reports whether to take the DAGs in a file, and not the file.
func (s *inputs) isArchive(path string) bool {
	if s.flags.asFile || !strings.EqualFold(filepath.Ext(path), ".car") {
		return false
	}
	if strings.HasPrefix(path, objectScheme) {
		return true
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// archives opens an archive.
func (s *inputs) archives(path string) (*uploader.CARSet, error) {
	if !strings.HasPrefix(path, objectScheme) {
		return uploader.CARs(path)
	}
	o, err := s.object(path)
	if err != nil {
		return nil, err
	}
	return uploader.CARSources(o)
}

// archiveGroup is a run of archives with the same roots: they are shards of the
// same DAGs.
type archiveGroup struct {
	open func(path string) (*uploader.CARSet, error)
	root cid.Cid // the wanted root, whatever the headers say
	set  *uploader.CARSet
	path string // path of the first one
}

// take adds an archive. If it does not belong to the group, take yields the
// group first.
func (g *archiveGroup) take(path string, yield func(uploader.Input) bool) bool {
	set, err := g.open(path)
	if err != nil {
		return g.flush(yield) && yield(failedInput{path, archiveError(err)})
	}
	if g.set != nil && (g.root.Defined() || slices.Equal(g.set.Roots(), set.Roots())) {
		g.set.Add(set)
		return true
	}
	if !g.flush(yield) {
		return false
	}
	g.set, g.path = set, path
	return true
}

// flush yields an input for each root of the archives.
func (g *archiveGroup) flush(yield func(uploader.Input) bool) bool {
	set := g.set
	g.set = nil
	if set == nil {
		return true
	}
	roots := set.Roots()
	if g.root.Defined() {
		roots = []cid.Cid{g.root}
	}
	if len(roots) == 0 {
		err := withHint(coded{fmt.Errorf("archive %q names no root", g.path), exitSources}, "name the DAG with --root CID; carload inspect shows what is in the archive")
		return yield(failedInput{g.path, err})
	}
	for _, r := range roots {
		if !yield(foreign{set.Input(r)}) {
			return false
		}
	}
	return true
}

// all yields the paths of the arguments and then those of the lists.
func (s *inputs) all() iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, p := range s.paths {
			if !yield(p, nil) {
				return
			}
		}
		for _, list := range []struct {
			name string
			end  byte
		}{{s.flags.filesFrom, '\n'}, {s.flags.filesFrom0, 0}} {
			if list.name == "" {
				continue
			}
			for p, err := range s.listed(list.name, list.end) {
				if !yield(p, err) {
					return
				}
			}
		}
		if s.flags.retryFrom == "" {
			return
		}
		for p, err := range s.retried(s.flags.retryFrom) {
			if !yield(p, err) {
				return
			}
		}
	}
}

// retried yields the paths that failed according to a report.
func (s *inputs) retried(name string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		r, err := s.app.openStream(name)
		if err != nil {
			yield(name, err)
			return
		}
		defer r.Close()
		failedInputs(name, r)(yield)
	}
}

// maxPathBytes limits an entry of --files-from.
const maxPathBytes = 64 << 10

// listed yields the paths in a list. In a list of lines it skips empty lines
// and those that begin with # or ;, as rclone does.
func (s *inputs) listed(name string, end byte) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		r, err := s.app.openStream(name)
		if err != nil {
			yield(name, err)
			return
		}
		defer r.Close()
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxPathBytes)
		lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
			if i := bytes.IndexByte(data, end); i >= 0 {
				return i + 1, data[:i], nil
			}
			if atEOF && len(data) > 0 {
				return len(data), data, nil
			}
			return 0, nil, nil
		})
		entry := 1
		for ; lines.Scan(); entry++ {
			p := lines.Text()
			if end == '\n' {
				p = strings.TrimSuffix(p, "\r")
				if strings.HasPrefix(p, "#") || strings.HasPrefix(p, ";") {
					continue
				}
			}
			if p == "" && end == 0 { // as in /dev/zero
				yield(name, fmt.Errorf("list of paths %q, path %d: %w", name, entry, errEmptyPath))
				return
			}
			if p != "" && !yield(p, nil) {
				return
			}
		}
		err = lines.Err()
		if errors.Is(err, bufio.ErrTooLong) {
			err = fmt.Errorf("line %d: a path of more than %d bytes", entry, maxPathBytes)
		}
		if err != nil {
			yield(name, fmt.Errorf("list of paths %q: %w", name, err))
		}
	}
}

// errNoPaths is the error for lists without a path.
func errNoPaths() error {
	return withHint(usagef("the list of paths is empty"),
		"--files-from skips lines that begin with # or ;; --files-from0 takes everything, and each path ends with a zero byte")
}

var errEmptyPath = errors.New(`"" is not a path`)

// open makes the input of one path.
func (s *inputs) open(path string) (uploader.Input, error) {
	if path == "-" {
		dir := s.flags.spoolDir
		if dir == "" {
			cache, err := s.app.env.cacheDir()
			if err != nil {
				return nil, fmt.Errorf("%w (--spool-dir)", err)
			}
			dir = filepath.Join(cache, "spool")
		}
		in := uploader.Stream("-", s.app.stdin(), uploader.StreamOptions{Chunker: s.options, Dir: dir, MaxBytes: s.limit})
		return spooled{in, dir}, nil
	}
	if path == "" {
		return nil, errEmptyPath
	}
	if strings.HasPrefix(path, objectScheme) {
		return s.openObject(path)
	}
	in, err := uploader.Path(path, s.tree(path))
	if err != nil {
		return nil, err
	}
	if _, isFile := in.(uploader.Sized); !isFile {
		in = warned{in, s.app.con}
	}
	return in, nil
}

// tree returns the options for a directory. They report each entry that can't
// be taken.
func (s *inputs) tree(path string) chunker.Options {
	opts := s.options
	opts.SkipRefused = s.flags.skipErrors
	opts.Refused = func(r chunker.Refusal) {
		text := printable(r.Err.Error())
		if errors.Is(r.Err, chunker.ErrName) {
			text += ": rename it, or use --raw-names"
		}
		if errors.Is(r.Err, chunker.ErrRenamed) {
			text += ": rename it, or use another --profile"
		}
		if r.Special {
			s.app.con.event(skippedEvent{header("skipped"), r.Path, text})
			s.app.con.warn("skipped %s: %s", quotePath(r.Path), text)
		} else {
			s.app.con.event(refusedEvent{header("refused"), r.Path, path, r.Size, exitSources, text})
			s.app.con.line("carload: error: " + text)
		}
		s.report.add(reportRow{Path: r.Path, Of: path, Bytes: r.Size, Code: exitSources, Error: text})
	}
	return opts
}

// begin opens the report, if one is wanted.
func (s *inputs) begin(target string) (err error) {
	if s.flags.report == "" {
		return nil
	}
	if s.report, err = newReport(s.flags.report); err != nil {
		return usageError{error: fmt.Errorf("--report: %w", err)}
	}
	s.report.target = target
	return nil
}

// wrapped makes one input: a directory of all paths.
func (s *inputs) wrapped() (uploader.Input, error) {
	tree := chunker.NewTree()
	opts := s.tree(".")
	paths, lost := 0, 0
	for path, err := range s.all() {
		if err != nil {
			return nil, err
		}
		paths++
		if path == "-" {
			return nil, usagef("standard input has no name, so --wrap can't take it")
		}
		if strings.HasPrefix(path, objectScheme) {
			return nil, usagef("--wrap takes only local files, and %s is in a bucket", quotePath(path))
		}
		if _, err := os.Stat(path); err != nil && !s.flags.skipErrors { // before hours of reading the others
			lost++
			opts.Refused(chunker.Refusal{Path: path, Err: err})
			continue
		}
		abs, err := filepath.Abs(path) // so that "." has a name
		if err != nil {
			return nil, err
		}
		if err := tree.AddDisk(filepath.Base(abs), path); err != nil {
			return nil, err
		}
	}
	if paths == 0 {
		return nil, errNoPaths()
	}
	if lost > 0 {
		return nil, withHint(fmt.Errorf("can't take %s; --wrap makes one root of all paths, so there is no root", ofPaths(lost, paths)), skipHint)
	}
	return warned{nowhere{uploader.Tree(".", tree, opts)}, s.app.con}, nil
}

func ofPaths(n, all int) string {
	if all == 1 {
		return "the path"
	}
	return fmt.Sprintf("%d of the %d paths", n, all)
}

const skipHint = "--skip-errors leaves them out and takes the rest; --report FILE lists them for --retry-from"

// warned is a directory as an input. It warns if the directory has no payload.
type warned struct {
	uploader.Input
	con *console
}

// Location implements [uploader.Located].
func (t warned) Location() string { return locationOf(t.Input) }

func locationOf(in uploader.Input) string {
	if l, ok := in.(uploader.Located); ok {
		return l.Location()
	}
	return ""
}

// nowhere is an input that combines several paths.
type nowhere struct{ uploader.Input }

// Location implements [uploader.Located].
func (nowhere) Location() string { return "" }

// Describe implements [uploader.Input].
func (t warned) Describe(ctx context.Context, read *atomic.Int64) (uploader.DAG, error) {
	dag, err := t.Input.Describe(ctx, read)
	if errors.Is(err, chunker.ErrRefused) {
		err = withHint(err, skipHint)
	}
	if d, ok := dag.(*chunker.DAG); ok && err == nil && d.Size() == 0 {
		t.con.warn("%s: it contains no files, or only empty ones; use --hidden to take names that begin with a dot", quotePath(t.Name()))
	}
	return dag, err
}

// spooled is an input that needs disk space. If there is none, that is not the
// fault of the source.
type spooled struct {
	uploader.Input
	dir string
}

// Describe implements [uploader.Input].
func (s spooled) Describe(ctx context.Context, read *atomic.Int64) (uploader.DAG, error) {
	dag, err := s.Input.Describe(ctx, read)
	var at *fs.PathError
	if errors.As(err, &at) && (strings.HasPrefix(at.Path, s.dir) || strings.HasPrefix(s.dir, at.Path)) && !isNoSpace(err) {
		err = withHint(coded{err, exitUsage}, "choose another place for it with --spool-dir")
	}
	return dag, err
}

// foreign is an archive that someone else made. If it is invalid, the source is
// at fault, not this run.
type foreign struct{ uploader.Input }

// Location implements [uploader.Located].
func (f foreign) Location() string { return locationOf(f.Input) }

// Describe implements [uploader.Input].
func (f foreign) Describe(ctx context.Context, read *atomic.Int64) (uploader.DAG, error) {
	dag, err := f.Input.Describe(ctx, read)
	if err != nil && ctx.Err() == nil {
		err = archiveError(err)
	}
	return dag, err
}

// archiveError is an error of an archive, with a hint.
func archiveError(err error) error {
	hint := "--as-file treats the archive as an ordinary file"
	var incomplete *car.IncompleteError
	if errors.As(err, &incomplete) {
		hint = "one shard of several does not contain the whole DAG: give all of them, one after another"
	}
	return withHint(coded{err, exitSources}, hint)
}

// failedInput is a path that could not be opened.
type failedInput struct {
	path string
	err  error
}

func (f failedInput) Name() string       { return f.path }
func (f failedInput) UploadName() string { return "" }
func (f failedInput) Close() error       { return nil }

func (f failedInput) Describe(context.Context, *atomic.Int64) (uploader.DAG, error) {
	return nil, f.err
}

// stdin is standard input. Its reads end when the command must stop.
func (a *app) stdin() io.Reader { return interruptible(a.life.soft, a.stdio.In) }
