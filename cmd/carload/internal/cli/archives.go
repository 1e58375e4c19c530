package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multicodec"
	"github.com/spf13/cobra"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/unpack"
	"github.com/carload/carload/uploader"
)

// archiveSet is the archives in the arguments of a command.
type archiveSet struct {
	sources []car.Source
	paths   []string // paths of the sources
	root    cid.Cid  // undefined if the arguments name none
}

// archives splits the arguments into an optional root and archives. A directory
// stands for all .car files in it.
func (a *app) archives(cmd *cobra.Command, args []string) (*archiveSet, error) {
	set := &archiveSet{}
	if len(args) > 0 {
		if c, err := cid.Decode(args[0]); err == nil {
			set.root, args = c, args[1:]
		}
	}
	for _, arg := range args {
		if arg == "" {
			return nil, sourceError{errEmptyPath}
		}
		paths := []string{arg}
		info, err := os.Stat(arg)
		if err != nil {
			return nil, sourceError{err}
		}
		if info.IsDir() {
			if paths, err = carsIn(arg); err != nil {
				return nil, err
			}
		}
		for _, p := range paths {
			src, err := chunker.OpenFile(p)
			if err != nil {
				return nil, sourceError{err}
			}
			set.sources, set.paths = append(set.sources, src), append(set.paths, p)
		}
	}
	if len(set.sources) == 0 {
		return nil, usageError{errors.New("give a root, an archive, or a directory of archives"), helpFor(cmd)}
	}
	return set, nil
}

func carsIn(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, sourceError{err}
	}
	var paths []string
	for _, e := range entries {
		if strings.EqualFold(filepath.Ext(e.Name()), ".car") && !e.IsDir() {
			paths = append(paths, filepath.Join(dir, e.Name()))
		}
	}
	if len(paths) == 0 {
		return nil, sourceError{fmt.Errorf("there are no .car files in %q", dir)}
	}
	return paths, nil
}

// index indexes the archives, and returns the root from the arguments, or else
// the roots in the headers.
func (s *archiveSet) index(ctx context.Context) (*car.Index, []cid.Cid, error) {
	x := new(car.Index)
	var roots []cid.Cid
	for _, src := range s.sources {
		c, err := x.Add(ctx, src)
		if err != nil {
			return nil, nil, fmt.Errorf("archive %q: %w", src.Name(), err)
		}
		for _, r := range c.Roots {
			if !slices.Contains(roots, r) {
				roots = append(roots, r)
			}
		}
	}
	if s.root.Defined() {
		roots = []cid.Cid{s.root}
	}
	return x, roots, nil
}

// one indexes the archives for a command that needs exactly one root.
func (s *archiveSet) one(ctx context.Context) (*car.Index, cid.Cid, error) {
	x, roots, err := s.index(ctx)
	switch {
	case err != nil:
		return nil, cid.Undef, err
	case len(roots) == 0:
		return nil, cid.Undef, usagef("the archives name no root: give it as the first argument")
	case len(roots) > 1:
		return nil, cid.Undef, usagef("the archives have %d roots, such as %s and %s: give one of them as the first argument", len(roots), roots[0], roots[1])
	}
	return x, roots[0], nil
}

// lacking gives an error about a DAG in archives its exit code.
func lacking(err error) error {
	if errors.Is(err, unpack.ErrMissing) || errors.Is(err, car.ErrIncomplete) {
		return coded{err, exitUnverified}
	}
	if errors.Is(err, unixfs.ErrForeign) {
		return withHint(coded{err, exitOther}, "carload can list and restore only UnixFS files and directories; carload verify checks DAGs of all kinds")
	}
	if errors.Is(err, unixfs.ErrInvalid) {
		return coded{err, exitMismatch}
	}
	if errors.Is(err, unpack.ErrTooLarge) {
		return withHint(coded{err, exitLimit}, "--max-bytes sets the limit")
	}
	if errors.Is(err, unpack.ErrName) {
		return withHint(usageError{error: err}, "--file-name needs a name without a directory")
	}
	return err
}

func (a *app) unpackCommand() *cobra.Command {
	var out string
	var opts unpack.Options
	cmd := &cobra.Command{
		Use:   "unpack [ROOT] -o DIR SHARD…",
		Short: "Restore files from shards, and check every block",
		Long: `Restore the files under a root from shards, or from one archive. carload hashes
every block before it uses it. Files appear complete or not at all, and nothing
is written outside the directory. Permissions and times are restored if the DAG
has them, but not setuid, setgid and sticky bits. If you give a directory,
carload takes all .car files in it. You can leave out the root if all archives
name the same one.`,
		Example: `  carload unpack -o restored shards/
  carload unpack ROOT -o - shards/*.car > movie.mkv`,
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := a.archives(cmd, args)
			switch {
			case err != nil:
				return err
			case out == "":
				return usageError{errors.New("give the directory to restore into with -o DIR"), "carload help unpack"}
			case out == "-" && a.con.json:
				return usagef("-o - and --json both write to standard output: use one of them")
			}
			return a.unpack(cmd.Context(), set, out, opts)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&out, "output", "o", "", "directory to restore into, created if missing; - writes one file to standard output")
	f.BoolVarP(&opts.Force, "force", "f", false, "replace files that exist")
	f.BoolVar(&opts.KeepGoing, "keep-going", false, "restore as much as possible, and report all errors")
	f.StringVar(&opts.Name, "file-name", "", "name for a root that is a file (default: its CID)")
	limit := (*size)(&opts.MaxBytes)
	f.Var(limit, "max-bytes", "refuse to write more than this; 0 for no limit")
	return cmd
}

type unpackedEvent struct {
	eventHeader
	Root     string `json:"root"`
	Files    int64  `json:"files"`
	Dirs     int64  `json:"dirs"`
	Symlinks int64  `json:"symlinks"`
	Bytes    int64  `json:"bytes"`
}

func (a *app) unpack(ctx context.Context, set *archiveSet, out string, opts unpack.Options) error {
	x, root, err := set.one(ctx)
	if err != nil {
		return err
	}
	if out == "-" {
		_, err := unpack.WriteFile(ctx, x, root, a.stdio.Out, opts)
		return lacking(err)
	}
	var wrote atomic.Int64
	opts.Wrote = &wrote
	stop := a.showProgress(phases{first: "restoring"}, func() uploader.Progress { return uploader.Progress{BytesHashed: wrote.Load()} })
	made, err := unpack.Restore(ctx, x, root, out, opts)
	stop()
	if err != nil {
		return a.unrestored(made, err, opts)
	}
	a.con.event(unpackedEvent{header("unpacked"), root.String(), made.Files, made.Dirs, made.Symlinks, made.Bytes})
	a.con.result(root.String() + "\t" + quotePath(out))
	a.sayRestored(made)
	return nil
}

func (a *app) sayRestored(made unpack.Restored) {
	a.con.say("restored: %s, %s, %s, %s", count(int(made.Files), "file"), count(int(made.Dirs), "directory"), count(int(made.Symlinks), "symlink"), formatBytes(made.Bytes))
	if made.Stripped > 0 {
		a.con.warn("setuid, setgid and sticky bits are not restored: %s had some", count(int(made.Stripped), "path"))
	}
}

// unrestored returns the error of a command after Restore failed. With
// KeepGoing it prints each error.
func (a *app) unrestored(made unpack.Restored, err error, opts unpack.Options) error {
	explain := func(err error) error {
		err = lacking(a.blame(err))
		if errors.Is(err, fs.ErrExist) && !opts.Force {
			err = withHint(err, "--force replaces existing files")
		}
		return err
	}
	all, several := err.(interface{ Unwrap() []error })
	if made.Failed == 0 || !several {
		return explain(err)
	}
	worst := exitOK
	for _, err := range all.Unwrap() {
		err = explain(err)
		worst = worse(worst, exitCode(err))
		a.con.errorLine(err, exitCode(err))
	}
	a.sayRestored(made)
	a.con.line(fmt.Sprintf("carload: error: %s could not be restored", count(int(made.Failed), "thing")))
	return silent{worst}
}

// entryEvent is a file, directory or symlink of a DAG.
type entryEvent struct {
	eventHeader
	Cid    string `json:"cid"`
	Kind   string `json:"kind"`
	Bytes  int64  `json:"bytes"`
	Path   string `json:"path"`
	Target string `json:"target,omitempty"` // only for a symlink
	Of     string `json:"of,omitempty"`     // the input that contains it
}

func (a *app) lsCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "ls [ROOT] SHARD…",
		Short:   "List the files inside shards: CID, type, bytes, path",
		Example: "  carload ls shards/",
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := a.archives(cmd, args)
			if err != nil {
				return err
			}
			return a.ls(cmd.Context(), set)
		},
	}
}

func (a *app) ls(ctx context.Context, set *archiveSet) error {
	x, root, err := set.one(ctx)
	if err != nil {
		return err
	}
	worst := exitOK
	rows := a.con.table("CID", "TYPE", "SIZE", "PATH")
	for e, err := range unpack.List(ctx, x, root) {
		if err != nil {
			var missing *unpack.BlockError
			if !errors.As(err, &missing) {
				rows.flush()
				return err
			}
			err = lacking(err)
			worst = worse(worst, exitCode(err))
			a.con.errorLine(err, exitCode(err))
			continue
		}
		a.con.event(entryEvent{header("entry"), e.Cid.String(), e.Type.String(), e.Size, e.Path, e.Target, ""})
		path := quotePath(e.Path)
		if e.Type == unixfs.Symlink {
			path += " -> " + quotePath(e.Target)
		}
		rows.row(textCell(e.Cid.String()), textCell(e.Type.String()), bytesCell(e.Size), textCell(path))
	}
	rows.flush()
	a.sayUnhashed()
	if worst != exitOK {
		return silent{worst}
	}
	return nil
}

type archiveEvent struct {
	eventHeader
	Path       string         `json:"path"`
	Bytes      int64          `json:"bytes"`
	Version    int            `json:"version"`
	Roots      []string       `json:"roots"`
	Sections   int            `json:"sections"`
	Duplicates int            `json:"duplicates"`
	Inline     int            `json:"inline"`
	Payload    int64          `json:"payloadBytes"`
	Codecs     map[string]int `json:"codecs"`
}

type rootEvent struct {
	eventHeader
	Root     string   `json:"root"`
	Complete bool     `json:"complete"`
	Blocks   int      `json:"blocks,omitempty"`
	Bytes    int64    `json:"bytes,omitempty"`
	Missing  []string `json:"missing,omitempty"`
	Lacks    int      `json:"missingCount,omitempty"`
	Inline   bool     `json:"inline,omitempty"` // the CID contains the root block
	Error    string   `json:"error,omitempty"`
}

func (a *app) inspectCommand() *cobra.Command {
	var pieces bool
	cmd := &cobra.Command{
		Use:   "inspect SHARD…",
		Short: "Show what archives contain, and whether their DAGs are complete",
		Example: `  carload inspect backup.car
  carload inspect --json shards/`,
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := a.archives(cmd, args)
			if err != nil {
				return err
			}
			if err := a.inspect(cmd.Context(), set); err != nil || !pieces {
				return err
			}
			return a.pieces(set.paths)
		},
	}
	cmd.Flags().BoolVar(&pieces, "piece-cids", false, "also show the Filecoin piece CIDs of the archives")
	return cmd
}

func (a *app) inspect(ctx context.Context, set *archiveSet) error {
	report, _, err := unpack.Inspect(ctx, set.sources...)
	if err != nil {
		return err
	}
	for _, c := range report.Archives {
		e := archiveEvent{
			eventHeader: header("archive"), Path: c.Name, Bytes: c.Bytes, Version: c.Version, Roots: []string{},
			Sections: c.Sections, Duplicates: c.Duplicates, Inline: c.Inline, Payload: c.Payload, Codecs: map[string]int{},
		}
		var codecs []string
		for code, n := range c.Codecs {
			name := multicodec.Code(code).String()
			e.Codecs[name] = n
			codecs = append(codecs, fmt.Sprintf("%s %d", name, n))
		}
		for _, r := range c.Roots {
			e.Roots = append(e.Roots, r.String())
		}
		slices.Sort(codecs)
		a.con.event(e)
		a.con.result(fmt.Sprintf("%s\tCARv%d\t%d bytes\t%d blocks (%s)\troots %s",
			quotePath(c.Name), c.Version, c.Bytes, c.Sections, strings.Join(codecs, ", "), strings.Join(e.Roots, " ")))
	}
	worst := exitOK
	for _, r := range report.Roots {
		e := rootEvent{eventHeader: header("root"), Root: r.Cid.String(), Complete: r.Complete(), Blocks: r.Blocks, Bytes: r.Bytes}
		state := fmt.Sprintf("complete\t%d blocks\t%d bytes", r.Blocks, r.Bytes)
		if r.Missing != nil {
			for _, c := range r.Missing.Missing {
				e.Missing = append(e.Missing, c.String())
			}
			e.Lacks = r.Missing.Count
			state = "incomplete\t" + printable(r.Missing.Error())
		}
		if r.Err != nil {
			e.Error = printable(r.Err.Error())
			state = "damaged\t" + e.Error
			worst = exitMismatch
		}
		if car.IsIdentity(r.Cid) {
			e.Inline = true
			state += "\tthe CID contains the root block"
		}
		a.con.event(e)
		a.con.result(r.Cid.String() + "\t" + state)
	}
	a.sayUnhashed()
	if worst != exitOK {
		return silent{worst}
	}
	return nil
}

// sayUnhashed warns that the output repeats what the archives claim.
func (a *app) sayUnhashed() {
	a.con.say("blocks without links were not hashed: carload verify checks them")
}
