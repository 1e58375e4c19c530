package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
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

// sourceFlags say where DAGs are fetched from.
type sourceFlags struct {
	endpointFlags
	from    []string
	retries int
}

func (s *sourceFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.Var(&s.gateways, "gateway", "URL of a trustless gateway; may be repeated: they are used side by side (default: the endpoint)")
	f.StringArrayVar(&s.from, "from", nil, "fetch from this target, as up --to names it, such as s3://BUCKET/PREFIX; a URL is that of a gateway; may be repeated, and used beside --gateway")
	f.StringArrayVar(&s.to, "to", nil, "the same as --from")
	f.StringVar(&s.endpoint, "endpoint", "", "URL of a service whose gateway is used (default: the built-in service)")
	f.StringVar(&s.token.file, "token-file", "", "file with the API key of a target; the variable CARLOAD_TOKEN can hold it as well")
	f.StringVar(&s.token.command, "token-command", "", "program that prints the API key; run without a shell")
	f.StringVar(&s.caCert, "ca-cert", "", "trust the certificate authorities in this PEM file as well as the system's")
	f.DurationVar(&s.stall, "stall-timeout", time.Minute, "give a request up when no byte moved for so long")
	f.IntVar(&s.retries, "retries", gateway.DefaultRetries, "tries of a block after all gateways have failed")
	s.rate.text = "off"
	f.Var(&s.rate, "tpslimit", "requests in a time, such as 30/10s; off for no limit")
	f.Var(&s.share, "rate-share", "the part of --tpslimit that this host takes, such as 1/16 when 16 hosts use the key; @FILE is read anew before each request")
	addStore(cmd, &s.store)
	group(f, groupFrom, "gateway", "from", "to", "endpoint", "token-file", "token-command", "ca-cert", "store")
	group(f, groupSafety, "stall-timeout", "retries")
	group(f, groupSpeed, "tpslimit", "rate-share")
}

// urlList is a flag that may be repeated. Elsewhere it is one with commas.
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

// withPool calls f with what the flags name.
func (a *app) withPool(ctx context.Context, s sourceFlags, f func(*gateway.Pool) error) (err error) {
	if s.retries < 0 {
		return usagef("--retries %d: must not be negative", s.retries)
	}
	opts := gateway.Options{Retries: s.retries, Observer: observer{con: a.con}, Logger: a.log}
	if s.retries == 0 {
		opts.Retries = -1 // the pool's word for none
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

// withSources opens everything that blocks come from, for f. A URL is that of a
// gateway; the rest are targets, as --to names them.
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
			return t.lacks("gives no blocks back")
		}
		sources = append(sources, s)
	}
	return f(sources)
}

// openSource opens one thing that blocks come from.
func (a *app) openSource(ctx context.Context, end endpointFlags, from string) (*target, error) {
	c, name, err := a.lookUp(from)
	if err != nil {
		return nil, err
	}
	end.gateways, end.token, end.files = nil, tokenFlags{}, "" // those of another
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
	if name != "" { // it may list what it holds to us only
		if secret, err := a.secretOf(ctx, end, name, c); err != nil || secret != "" {
			if err != nil {
				return nil, err
			}
			return a.openWith(end, c, secret)
		}
	}
	end.insecureHTTP = true // nothing that goes there is secret
	return a.openService(end, or(c.Gateway, c.URL), nftstorage.Token{})
}

func (a *app) getCommand() *cobra.Command {
	var from sourceFlags
	var out string
	var opts unpack.Options
	var archive bool
	cmd := &cobra.Command{
		Use:   "get ROOT[/PATH]…",
		Short: "Fetch files and directories back, every block checked",
		Long: `Fetch what is under a root, or below it at a path, from one trustless gateway or
several. Every block is hashed before it is written, so a gateway need not be
trusted; what one of them does wrong costs a try at another one.

Files appear complete or not at all. If it is interrupted, the same command goes
on where it was: what is there and right is not fetched again. A directory
becomes a directory, with its symlinks and, if the DAG has them, modes and times.

With --car it writes an archive instead, a CAR of all blocks, of any DAG. An
archive is complete or not there at all, and begins anew each time.`,
		Example: `  carload get ROOT -o movie.mkv
  carload get ROOT/photos/2024 --gateway https://gateway.example.org
  carload get ROOT -o - | tar x
  carload get ROOT --car -o backup.car`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("give what to get: a root, or a path below one"), helpFor(cmd)}
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
					return usagef("-o - and --json both want standard output")
				case len(wanted) != 1:
					return usagef("-o - takes one file")
				}
			}
			return a.withPool(cmd.Context(), from, func(p *gateway.Pool) error {
				defer frugal()()
				if archive {
					return a.getArchives(cmd.Context(), p, wanted, out, opts)
				}
				return a.get(cmd.Context(), p, wanted, out, opts)
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&out, "output", "o", "", "file or directory to write (default: the last name of the path, or the root, in this directory); - writes one file to standard output")
	f.BoolVar(&archive, "car", false, "write a CAR of all blocks, named NAME.car unless --output says otherwise")
	f.BoolVarP(&opts.Force, "force", "f", false, "replace files that exist and are others")
	f.Var((*size)(&opts.MaxBytes), "max-bytes", "refuse to write more than this; 0 for no limit")
	from.add(cmd)
	return cmd
}

// gotten is what is to be fetched: a path below a root.
type gotten struct {
	root cid.Cid
	path string
}

// name is what it is called where it is written.
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

// parseWanted takes a root, a path below one, and both as gateways write them.
func parseWanted(arg string) (gotten, error) {
	text := strings.TrimPrefix(strings.TrimPrefix(arg, "ipfs://"), "/ipfs/")
	first, rest, _ := strings.Cut(text, "/")
	c, err := cid.Decode(first)
	if err != nil {
		return gotten{}, usagef("%q: give a root CID, and a path below it after a slash", arg)
	}
	rest = strings.Trim(rest, "/")
	for name := range strings.SplitSeq(rest, "/") {
		if name == "." || name == ".." {
			return gotten{}, usagef("%q: the path may not have %q in it", arg, name)
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
				defer a.con.say("what is there is not fetched again; go on with:\n  carload %s", shellQuote(a.args))
			}
			return a.ungotten(g, err, opts)
		}
	}
	return nil
}

// ungotten is what get returns after an error of one thing.
func (a *app) ungotten(g gotten, err error, opts unpack.Options) error {
	err = a.life.blame(err)
	if errors.Is(err, fs.ErrExist) && !opts.Force {
		err = withHint(err, "--force replaces files that exist")
	}
	return fmt.Errorf("%s: %w", quotePath(g.String()), lacking(err))
}

// frugal has memory collected sooner, until the function that it returns is
// called: most of what is in use are buffers, which cost nothing to look through.
// What the user says by GOGC counts.
func frugal() (restore func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	was := debug.SetGCPercent(frugalPercent)
	return func() { debug.SetGCPercent(was) }
}

const frugalPercent = 30

// destination is where a thing of this name is written.
func destination(out, name string, several, directory bool) string {
	info, err := os.Stat(out)
	switch {
	case out == "":
		return name
	case several, strings.HasSuffix(out, string(filepath.Separator)), err == nil && info.IsDir() && !directory:
		return filepath.Join(out, name)
	}
	return out
}

// getOne fetches one thing. With others it goes into a directory.
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
	dest := destination(out, g.name(), several, e.Type == unixfs.Directory)
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
		said = fmt.Sprintf(" (%d there already)", made.Held)
	}
	a.con.say("fetched: %s%s, %s, %s, %s", count(int(made.Files), "file"), said, count(int(made.Dirs), "directory"), count(int(made.Symlinks), "symlink"), formatBytes(made.Bytes))
	return nil
}
