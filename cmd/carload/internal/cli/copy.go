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

// copyAhead is how many bytes to fetch ahead for each shard in flight: two
// requests of 2 MiB. Several shards are in flight at a time.
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
		Short: "Copy DAGs from gateways and targets to other targets, and verify them",
		Long: `Copy the DAGs under some roots from trustless gateways or other targets to any
target, without a copy on this machine. carload hashes every block before it
sends it, so you need not trust the source. With several --from, carload asks
another one if one lacks a block or returns wrong data. The roots stay the same,
and carload verifies them at their destination.

--all copies everything that the first --from lists, and keeps the names. That
works with a named target, a Kubo node, a bucket or a store.

If a copy is interrupted, run the same command again. carload fetches inner
nodes twice and everything else once; it neither fetches nor sends what has
arrived.`,
		Example: `  carload copy ROOT --from https://gateway.example.org --to home
  carload copy --files-from roots --from https://api.example.org --from home --to s3://shards/films
  carload copy --all --from home --to s3://shards/films`,
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := a.remoteInputs(cmd, in, args, from, all)
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
				retries = -1 // means none to the pool
			}
			return a.withSources(cmd.Context(), end, from, func(sources []gateway.Source) error {
				src.remote.pool = gateway.NewPool(gateway.Options{Retries: retries, AheadBytes: copyAhead, Observer: observer{con: a.con}, Logger: a.log}, sources...)
				src.remote.maxShardBytes = opts.MaxShardBytes
				if all {
					var ok bool
					if src.remote.list, ok = sources[0].(uploader.Lister); !ok {
						return usagef("%s can't list its uploads: give the roots", from[0])
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
	f.StringArrayVar(&from, "from", nil, "where to fetch blocks: the URL of a trustless gateway, or a target as for --to; may be repeated")
	end.add(cmd)
	f.StringVar(&end.files, "to-files", "", "where copies appear in the files (MFS) of a Kubo node; end a directory with a slash")
	f.BoolVar(&all, "all", false, "copy everything that the first --from lists, and keep the names")
	f.StringVar(&name, "name", "", "name of the upload at the target; an existing upload keeps its name")
	f.StringVar(&in.filesFrom, "files-from", "", "read more roots from this file, one per line; skip lines that begin with # or ; (- for standard input)")
	f.StringVar(&in.retryFrom, "retry-from", "", "copy the roots that failed in this report (- for standard input)")
	f.StringVar(&in.report, "report", "", "write the outcome of each root to this file: JSON lines if it ends in .json or .jsonl, otherwise CSV")
	f.Var(&in.part, "part", "take only part K of N, as K/N, by a hash of the root; auto/N in a Kubernetes or Slurm array job")
	f.Var(&in.maxUploadBytes, "max-upload-bytes", "refuse larger roots; 0 for no limit")
	send.add(cmd)
	send.addRemote(cmd)
	addLedger(cmd, &ledger)
	return cmd
}

// remoteInputs checks the flags and arguments. It opens nothing yet.
func (a *app) remoteInputs(cmd *cobra.Command, in inputFlags, args, from []string, all bool) (*inputs, error) {
	s := &inputs{app: a, flags: in, limit: int64(in.maxUploadBytes), paths: args, remote: &remote{}}
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
		return nil, usageError{errors.New("say where to fetch the blocks with --from"), helpFor(cmd)}
	}
	return s, nil
}

// parseRoot parses a root, also in the forms that gateways use.
func parseRoot(arg string) (cid.Cid, error) {
	g, err := parseWanted(arg)
	if err == nil && g.path != "" {
		err = usagef("%q: copy takes a root, not a path below it", arg)
	}
	return g.root, err
}

// remote is a set of DAGs at other places.
type remote struct {
	pool          *gateway.Pool
	list          uploader.Lister // lists the roots and their names; nil if the user gave the roots
	maxShardBytes int64
	names         map[string]string // names of listed roots
	lies          []cid.Cid         // roots with something that is not what a node announced
	exact         bool              // check every node instead of trusting announced sizes
}

// inputs yields an input for each root.
func (r *remote) inputs(s *inputs) iter.Seq[uploader.Input] {
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

// isListed reports whether the roots come from a list, which may be empty.
func (r *remote) isListed() bool { return r != nil && r.list != nil }

// listed yields the roots that a source lists. It skips incomplete ones with a
// warning, because they can't be copied.
func (r *remote) listed(s *inputs) iter.Seq2[string, error] {
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

// lied reports whether an input failed because something in it is not what a
// node announced. Then carload tries again, and this outcome does not count.
func (r *remote) lied(a *app, res uploader.Result, err error) bool {
	var lie *copying.SizeError
	if r == nil || r.exact || !errors.As(err, &lie) {
		return false
	}
	a.con.warn("%s: checking it again, block by block", err)
	if !slices.Contains(r.lies, res.Root) { // it may be going to several targets
		r.lies = append(r.lies, res.Root)
	}
	return true
}

// again yields the inputs to try again, or returns nil if there are none.
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

// blame distinguishes errors of the sources of blocks from errors of files.
func (r *remote) blame(err error) error {
	switch {
	case r == nil || !errors.As(err, new(*uploader.SourceError)):
	case errors.Is(err, uploader.ErrUnavailable):
		return coded{err, exitTemporary}
	case errors.Is(err, uploader.ErrNotFound):
		return withHint(err, "nothing that --from names has it: try another --from")
	}
	return err
}
