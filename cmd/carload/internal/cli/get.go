package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"

	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/unpack"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/gateway"
	"github.com/carload/carload/uploader/nftstorage"
)

// sourceFlags say where to fetch DAGs.
type sourceFlags struct {
	endpointFlags
	from    []string
	retries int
}

func (s *sourceFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.Var(&s.gateways, "gateway", "URL of a trustless gateway; repeat it to use several at once (default: the endpoint)")
	f.StringArrayVar(&s.from, "from", nil, "fetch from this target, named as for up --to, such as s3://BUCKET/PREFIX, or from the gateway at this URL; may be repeated, also with --gateway")
	f.StringArrayVar(&s.to, "to", nil, "the same as --from")
	f.StringVar(&s.endpoint, "endpoint", "", "URL of a service whose gateway to use (default: the built-in service)")
	f.StringVar(&s.token.file, "token-file", "", "file with the API key of a target; CARLOAD_TOKEN can also hold it")
	f.StringVar(&s.token.command, "token-command", "", "program that prints the API key; run without a shell")
	f.StringVar(&s.caCert, "ca-cert", "", "trust the certificate authorities in this PEM file too")
	f.DurationVar(&s.stall, "stall-timeout", time.Minute, "give up a request when no byte has moved for this long")
	f.IntVar(&s.retries, "retries", gateway.DefaultRetries, "further attempts for a block after all gateways have failed")
	s.rate.text = "off"
	f.Var(&s.rate, "tpslimit", "limit of requests, such as 30/10s; off for no limit")
	f.Var(&s.share, "rate-share", "this host's part of --tpslimit, such as 1/16 if 16 hosts use the key; @FILE is read again before each request")
	addStore(cmd, &s.store)
	group(f, groupFrom, "gateway", "from", "to", "endpoint", "token-file", "token-command", "ca-cert", "store")
	group(f, groupSafety, "stall-timeout", "retries")
	group(f, groupSpeed, "tpslimit", "rate-share")
}

// urlList is a flag that may be repeated. Elsewhere it is a list with commas.
type urlList []string

// String implements pflag.Value.
func (l *urlList) String() string { return strings.Join(*l, ",") }

// Set implements pflag.Value.
func (l *urlList) Set(text string) error {
	for u := range strings.SplitSeq(text, ",") {
		if u != "" {
			*l = append(*l, u)
		}
	}
	return nil
}

// Type implements pflag.Value.
func (l *urlList) Type() string { return "string" }

// withPool opens what the flags name and calls f with it.
func (a *app) withPool(ctx context.Context, s sourceFlags, f func(*gateway.Pool) error) (err error) {
	if s.retries < 0 {
		return usagef("--retries %d: must not be negative", s.retries)
	}
	opts := gateway.Options{Retries: s.retries, Observer: observer{con: a.con}, Logger: a.log}
	if s.retries == 0 {
		opts.Retries = -1 // means none to the pool
	}
	from := slices.Concat(s.gateways, s.from, s.to)
	if len(from) == 0 && s.endpoint != "" {
		from = []string{s.endpoint}
	}
	if len(from) == 0 {
		return a.withTarget(ctx, s.endpointFlags, func(t *target) error {
			return f(gateway.NewPool(opts, t.service))
		})
	}
	return a.withSources(ctx, s.endpointFlags, from, func(sources []gateway.Source) error {
		return f(gateway.NewPool(opts, sources...))
	})
}

// withSources opens all sources of blocks and calls f with them. A URL names a
// gateway; everything else is a target as for --to.
func (a *app) withSources(ctx context.Context, end endpointFlags, from []string, f func([]gateway.Source) error) (err error) {
	var sources []gateway.Source
	for _, name := range from {
		t, err := a.openSource(ctx, end, name)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, t.close()) }()
		s, ok := t.Target.(gateway.Source)
		if !ok {
			return t.lacks("can't return blocks")
		}
		sources = append(sources, s)
	}
	return f(sources)
}

// openSource opens one source of blocks.
func (a *app) openSource(ctx context.Context, end endpointFlags, from string) (*target, error) {
	c, name, err := a.lookUp(from)
	if err != nil {
		return nil, err
	}
	end.gateways, end.token, end.files = nil, tokenFlags{}, "" // these belong to another target
	if c.Type != kindService {
		t, err := a.open(ctx, end, name, c)
		if err == nil {
			t.name = from
		}
		return t, err
	}
	if end, err = end.with(c); err != nil {
		return nil, err
	}
	if name != "" { // it may list its uploads only with our key
		if secret, err := a.secretOf(ctx, end, name, c); err != nil || secret != "" {
			if err != nil {
				return nil, err
			}
			return a.openWith(end, c, secret)
		}
	}
	end.insecureHTTP = true // we send nothing secret there
	return a.openService(end, or(c.Gateway, c.URL), nftstorage.Token{})
}

func (a *app) getCommand() *cobra.Command {
	var from sourceFlags
	var out string
	var opts unpack.Options
	var archive bool
	cmd := &cobra.Command{
		Use:   "get ROOT[/PATH]…",
		Short: "Fetch files and directories, and check every block",
		Long: `Fetch what is under a root, or at a path below it, from one or more trustless
gateways. carload hashes every block before it writes it, so you need not trust
a gateway. If a gateway fails or returns wrong data, carload asks another one.

Files appear complete or not at all. After an interruption, run the same command
again: carload does not fetch again what is there and correct. A directory
becomes a directory, with its symlinks, and with modes and times if the DAG has
them.

With --car, carload writes an archive instead: a CAR file with all blocks of any
DAG. An archive appears complete or not at all, and always starts from the
beginning.`,
		Example: `  carload get ROOT -o movie.mkv
  carload get ROOT/photos/2024 --gateway https://gateway.example.org
  carload get ROOT -o - | tar x
  carload get ROOT --car -o backup.car`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("say what to get: a root, or a path below one"), helpFor(cmd)}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var wanted []gotten
			for _, arg := range args {
				g, err := parseWanted(arg)
				if err != nil {
					return err
				}
				wanted = append(wanted, g)
			}
			if out == "-" {
				switch {
				case a.con.json:
					return usagef("-o - and --json both write to standard output: use one of them")
				case len(wanted) != 1:
					return usagef("-o - takes one file")
				}
			}
			return a.withPool(cmd.Context(), from, func(p *gateway.Pool) error {
				defer littleGarbage.limit()()
				if archive {
					return a.getArchives(cmd.Context(), p, wanted, out, opts)
				}
				return a.get(cmd.Context(), p, wanted, out, opts)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&out, "output", "o", "", "file or directory to write (default: the last name of the path, or the root, in the current directory); - writes one file to standard output")
	f.BoolVar(&archive, "car", false, "write a CAR file of all blocks, called NAME.car unless --output is set")
	f.BoolVarP(&opts.Force, "force", "f", false, "replace existing files that differ")
	f.Var((*size)(&opts.MaxBytes), "max-bytes", "refuse to write more than this; 0 for no limit")
	from.add(cmd)
	return cmd
}

// gotten is something to fetch: a path below a root.
type gotten struct {
	root cid.Cid
	path string
}

// name returns its name where it is written.
func (g gotten) name() string {
	if g.path == "" {
		return g.root.String()
	}
	return path.Base(g.path)
}

func (g gotten) String() string {
	if g.path == "" {
		return g.root.String()
	}
	return g.root.String() + "/" + g.path
}

// parseWanted parses a root or a path below one, also in the forms that
// gateways use.
func parseWanted(arg string) (gotten, error) {
	text := strings.TrimPrefix(strings.TrimPrefix(arg, "ipfs://"), "/ipfs/")
	first, rest, _ := strings.Cut(text, "/")
	c, err := cid.Decode(first)
	if err != nil {
		return gotten{}, usagef("%q: give a root CID, or a path below it after a slash", arg)
	}
	rest = strings.Trim(rest, "/")
	for name := range strings.SplitSeq(rest, "/") {
		if name == "." || name == ".." {
			return gotten{}, usagef("%q: the path must not contain %q", arg, name)
		}
	}
	return gotten{c, rest}, nil
}

type gotEvent struct {
	eventHeader
	Root     string `json:"root"`
	Path     string `json:"path,omitempty"`
	Cid      string `json:"cid"`
	Output   string `json:"output"`
	Files    int64  `json:"files"`
	Held     int64  `json:"filesHeld,omitempty"`
	Dirs     int64  `json:"dirs"`
	Symlinks int64  `json:"symlinks"`
	Bytes    int64  `json:"bytes"`
}

func (a *app) get(ctx context.Context, p *gateway.Pool, wanted []gotten, out string, opts unpack.Options) error {
	var wrote, total atomic.Int64
	opts.Wrote, opts.Resume = &wrote, true
	stop := a.showProgress(phases{first: "fetching"}, func() uploader.Progress {
		return uploader.Progress{BytesHashed: wrote.Load(), BytesToHash: total.Load()}
	})
	defer stop()
	for _, g := range wanted {
		if err := a.getOne(ctx, p, g, out, len(wanted) > 1, &total, opts); err != nil {
			if errors.Is(err, context.Canceled) || errors.Is(err, uploader.ErrUnavailable) {
				defer a.con.say("carload does not fetch again what is there; resume with:\n  carload %s", shellQuote(a.args))
			}
			return a.ungotten(g, err, opts)
		}
	}
	return nil
}

// ungotten returns the error of get after one thing failed.
func (a *app) ungotten(g gotten, err error, opts unpack.Options) error {
	err = a.life.blame(err)
	if errors.Is(err, fs.ErrExist) && !opts.Force {
		err = withHint(err, "--force replaces existing files")
	}
	return fmt.Errorf("%s: %w", quotePath(g.String()), lacking(err))
}

// destination returns where to write a thing of this name.
func destination(out, name string, several, directory bool) (string, error) {
	info, err := os.Stat(out)
	switch {
	case out == "":
		return name, nil
	case err == nil && !info.Mode().IsRegular() && !info.IsDir():
		return "", usagef("%s is a device or a pipe: -o - writes to standard output", quotePath(out))
	case several, strings.HasSuffix(out, string(filepath.Separator)), err == nil && info.IsDir() && !directory:
		return filepath.Join(out, name), nil
	}
	return out, nil
}

// getOne fetches one thing. If there are several, it goes into a directory.
func (a *app) getOne(ctx context.Context, p *gateway.Pool, g gotten, out string, several bool, total *atomic.Int64, opts unpack.Options) error {
	r := p.NewReader(ctx)
	defer r.Close()
	e, err := unpack.Stat(ctx, r, g.root, g.path)
	if err != nil {
		return err
	}
	total.Add(e.Size)
	if out == "-" {
		_, err := unpack.WriteFileFrom(ctx, r, e.Cid, a.stdio.Out, opts)
		return err
	}
	dest, err := destination(out, g.name(), several, e.Type == unixfs.Directory)
	if err != nil {
		return err
	}
	dir := dest
	if e.Type != unixfs.Directory {
		dir, opts.Name = filepath.Dir(dest), filepath.Base(dest)
	}
	made, err := unpack.RestoreFrom(ctx, r, e.Cid, dir, opts)
	if err != nil {
		return err
	}
	a.con.event(gotEvent{header("got"), g.root.String(), g.path, e.Cid.String(), dest, made.Files, made.Held, made.Dirs, made.Symlinks, made.Bytes})
	a.con.result(e.Cid.String() + "\t" + quotePath(dest))
	said := ""
	if made.Held > 0 {
		said = fmt.Sprintf(" (%d already there)", made.Held)
	}
	a.con.say("fetched: %s%s, %s, %s, %s", count(int(made.Files), "file"), said, count(int(made.Dirs), "directory"), count(int(made.Symlinks), "symlink"), formatBytes(made.Bytes))
	return nil
}
