package cli

import (
	"errors"
	"iter"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/copying"
	"github.com/carload/carload/uploader/gateway"
)

// copyAhead is how much is fetched ahead for each shard on its way: two requests
// of 2 MiB. There are several shards.
const copyAhead = 5 << 20

func (a *app) copyCommand() *cobra.Command {
	var send sendFlags
	var end endpointFlags
	var in inputFlags
	var from []string
	var name, ledger string
	var all bool
	cmd := &cobra.Command{
		Use:   "copy [ROOT…] --from GATEWAY --to TARGET",
		Short: "Copy DAGs from gateways and targets to targets, verified",
		Long: `Copy what is under roots from one place to another, without a copy on this
machine: from trustless gateways, or from targets that give blocks back, to any
target. Every block is hashed before it is sent, so that where it comes from need
not be trusted. With several --from what one does not have, or gives wrongly, is
asked of another. The roots stay what they are, and are verified where they go.

--all copies all that the first --from lists, under the names that it has there:
a named target, a Kubo node, a bucket or a store.

If a copy is interrupted, the same command goes on where it was. Nodes without
content are fetched twice, everything else once; what is there already is neither
fetched nor sent.`,
		Example: `  carload copy ROOT --from https://gateway.example.org --to home
  carload copy --files-from roots --from https://api.example.org --from home --to s3://shards/films
  carload copy --all --from home --to s3://shards/films`,
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := a.remoteSource(cmd, in, args, from, all)
			if err != nil {
				return err
			}
			opts, err := send.options(a, src)
			if err != nil {
				return err
			}
			opts.UploadName, opts.NoBase = name, true
			retries := send.retries
			if retries == 0 {
				retries = -1 // the pool's word for none
			}
			return a.withSources(cmd.Context(), end, from, func(sources []gateway.Source) error {
				src.remote.pool = gateway.NewPool(gateway.Options{Retries: retries, AheadBytes: copyAhead, Observer: observer{con: a.con}, Logger: a.log}, sources...)
				src.remote.maxShardBytes = opts.MaxShardBytes
				if all {
					var ok bool
					if src.remote.list, ok = sources[0].(uploader.Lister); !ok {
						return usagef("%s does not list what it holds: give the roots", from[0])
					}
				}
				if send.dryRun {
					return a.dryRun(src, opts, send.rootOnly)
				}
				send.leaveLimit(cmd, &opts)
				return a.withTargets(cmd.Context(), end, func(targets []*target) error {
					return a.withSomeLedger(ledger, func(l uploader.Ledger) error {
						opts.Ledger = l
						names := phases{first: "looking", second: "copying"}
						if opts.Verify == uploader.VerifyFull {
							names.third = "verifying"
						}
						_, err := a.ship(src, targets, opts, send, names, "copied")
						return err
					})
				})
			})
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&from, "from", nil, "where blocks come from: the URL of a trustless gateway, or a target as --to names it; may be repeated")
	end.add(cmd)
	f.StringVar(&end.files, "to-files", "", "where copies appear in the files (MFS) of a Kubo node; a directory ends with a slash")
	f.BoolVar(&all, "all", false, "copy all that the first --from lists, under the names that it has there")
	f.StringVar(&name, "name", "", "what the target calls the upload; what is there keeps its name")
	f.StringVar(&in.filesFrom, "files-from", "", "read more roots from this file, one a line; lines that begin with # or ; are left out (- for standard input)")
	f.StringVar(&in.retryFrom, "retry-from", "", "take the roots that failed from this report (- for standard input)")
	f.StringVar(&in.report, "report", "", "write what became of each root into this file: CSV, or JSON lines if it ends in .json or .jsonl")
	f.Var(&in.part, "part", "take only the K-th of N parts of the roots, K/N, by a hash of the root; auto/N in a Kubernetes or Slurm array job")
	f.Var(&in.maxUploadBytes, "max-upload-bytes", "refuse roots that are larger; 0 for no limit")
	send.add(cmd)
	send.addRemote(cmd)
	addLedger(cmd, &ledger)
	return cmd
}

// remoteSource checks the flags and the arguments; nothing is opened yet.
func (a *app) remoteSource(cmd *cobra.Command, in inputFlags, args, from []string, all bool) (*source, error) {
	s := &source{app: a, flags: in, limit: int64(in.maxUploadBytes), paths: args, remote: &remote{}}
	if s.limit == 0 {
		s.limit = -1
	}
	if err := s.flags.part.resolve(a.env); err != nil {
		return nil, usageError{error: err}
	}
	for _, arg := range args {
		if _, err := parseRoot(arg); err != nil {
			return nil, err
		}
	}
	switch {
	case in.filesFrom == "-" && in.retryFrom == "-":
		return nil, usagef("standard input can be read only once")
	case all && (len(args) > 0 || in.filesFrom != "" || in.retryFrom != ""):
		return nil, usagef("--all takes no roots")
	case !all && len(args) == 0 && in.filesFrom == "" && in.retryFrom == "":
		return nil, usageError{errors.New("give at least one root, or --all"), helpFor(cmd)}
	case len(from) == 0:
		return nil, usageError{errors.New("say where the blocks come from by --from"), helpFor(cmd)}
	}
	return s, nil
}

// parseRoot takes a root, also as gateways write it.
func parseRoot(arg string) (cid.Cid, error) {
	g, err := parseWanted(arg)
	if err == nil && g.path != "" {
		err = usagef("%q: a root is copied, not what is below it", arg)
	}
	return g.root, err
}

// remote are DAGs that are held elsewhere.
type remote struct {
	pool          *gateway.Pool
	list          uploader.Lister // tells the roots and their names; nil if they are given
	maxShardBytes int64
	names         map[string]string // of roots that were listed
	lies          []cid.Cid         // roots of which something is not what it was to be
	exact         bool              // nothing is believed any more
}

// inputs yields an input for each root.
func (r *remote) inputs(s *source) iter.Seq[uploader.Input] {
	return func(yield func(uploader.Input) bool) {
		seen := map[string]bool{}
		roots := s.all()
		if r.isListed() {
			roots = r.listed(s)
		}
		for arg, err := range roots {
			var root cid.Cid
			if err == nil {
				root, err = parseRoot(arg)
			}
			var in uploader.Input = failedInput{arg, sourceError{err}}
			if err == nil {
				if seen[root.KeyString()] {
					s.app.con.warn("%s was given more than once", root)
					continue
				}
				seen[root.KeyString()] = true
				if !s.flags.part.takes(root.String()) {
					s.elsewhere++
					continue
				}
				in = r.input(s.app, root)
			}
			if !yield(in) {
				return
			}
		}
	}
}

// isListed tells whether the roots are those that a source lists, which may be
// none.
func (r *remote) isListed() bool { return r != nil && r.list != nil }

// listed yields the roots that a source lists. What is not complete there can't be
// copied, and gets a warning.
func (r *remote) listed(s *source) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		r.names = map[string]string{}
		for held, err := range r.list.List(s.app.life.soft) {
			if err != nil {
				yield("the list", err)
				return
			}
			root := held.Root.String()
			if held.State != uploader.StatePinned {
				s.app.con.warn("%s %s is left out: it is not complete there", root, quotePath(held.Name))
				continue
			}
			r.names[root] = held.Name
			if !yield(root, nil) {
				return
			}
		}
	}
}

func (r *remote) input(a *app, root cid.Cid) uploader.Input {
	return copying.NewInput(a.life.hard, r.pool, root, copying.Options{MaxShardBytes: r.maxShardBytes, Name: r.names[root.String()], Exact: r.exact})
}

// lied tells whether an input failed because something in it is not what it was
// to be. Then it is tried again, and this outcome does not count.
func (r *remote) lied(a *app, res uploader.Result, err error) bool {
	var lie *copying.SizeError
	if r == nil || r.exact || !errors.As(err, &lie) {
		return false
	}
	a.con.warn("%s: it is looked at again, block by block", err)
	if !slices.Contains(r.lies, res.Root) { // it may be on its way to several targets
		r.lies = append(r.lies, res.Root)
	}
	return true
}

// again yields the inputs that are to be tried again; nil if there are none.
func (r *remote) again(a *app) iter.Seq[uploader.Input] {
	if r == nil || len(r.lies) == 0 || a.life.soft.Err() != nil {
		return nil
	}
	r.exact = true
	return func(yield func(uploader.Input) bool) {
		for _, root := range r.lies {
			if !yield(r.input(a, root)) {
				return
			}
		}
	}
}

// blame tells errors of where blocks come from from those of files.
func (r *remote) blame(err error) error {
	switch {
	case r == nil || !errors.As(err, new(*uploader.SourceError)):
	case errors.Is(err, uploader.ErrUnavailable):
		return coded{err, exitTemporary}
	case errors.Is(err, uploader.ErrNotFound):
		return withHint(err, "nothing that --from names has it: another --from may")
	}
	return err
}
