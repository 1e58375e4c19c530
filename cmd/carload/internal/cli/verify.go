package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/unpack"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/gateway"
)

type verifiedEvent struct {
	eventHeader
	Root   string        `json:"root"`
	Level  string        `json:"level"`
	Blocks int64         `json:"blocks,omitempty"`
	Bytes  int64         `json:"bytes,omitempty"`
	Sample *sampleReport `json:"sample,omitempty"`
}

type faultEvent struct {
	eventHeader
	Root    string `json:"root"`
	Cid     string `json:"cid"`
	Message string `json:"message"`
}

func (a *app) verifyCommand() *cobra.Command {
	var end endpointFlags
	var from []string
	var sample, retries int
	var full bool
	var timeout time.Duration
	var ledger string
	cmd := &cobra.Command{
		Use:   "verify [ROOT] SHARD… | verify ROOT",
		Short: "Check shards on disk, or an upload at a service",
		Long: `With shards, or a directory of them: check that they contain the complete DAG
under the root, and that every block matches its CID. You can leave out the root
if all archives name the same one.

With a root alone: check that the service has it. The service must report the
DAG complete, and carload fetches random blocks and hashes them: 300, or as many
as you set with --sample. --sample 0 only asks the service; --full fetches and
hashes everything. carload records what is missing or wrong, and "carload up" of
the same source then sends it again.

With --from, or with --gateway and no service, carload fetches the blocks from
there: any trustless gateway works, and no key is needed. You can repeat both; a
block is then correct if one of them has it. carload records nothing in this
case.`,
		Example: `  carload verify shards/
  carload verify ROOT
  carload verify ROOT --sample 0
  carload verify ROOT --full
  carload verify ROOT --full --from https://gateway.example.org`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if root, err := cid.Decode(args[0]); err == nil {
					if sample < 0 {
						return usagef("--sample %d: it must not be negative", sample)
					}
					if retries < 0 {
						return usagef("--retries %d: it must not be negative", retries)
					}
					if len(from) > 0 && (cmd.Flags().Changed("to") || cmd.Flags().Changed("endpoint")) {
						return usagef("--from checks other places than a service: leave out --to and --endpoint")
					}
					if len(from) > 0 || len(end.gateways) > 0 && end.endpoint == "" && len(end.to) == 0 && end.store == "" {
						if !full && sample == 0 {
							return usagef("--sample 0 only asks a service, and there is none: say how many blocks, or use --full")
						}
						end.to = nil
						return a.withPool(cmd.Context(), sourceFlags{endpointFlags: end, from: from, retries: retries}, func(p *gateway.Pool) error {
							if !full {
								return a.verifyRemote(cmd.Context(), &target{Target: fetched{p}}, root, uploader.Options{Verify: uploader.VerifySample, SampleBlocks: sample})
							}
							defer littleGarbage.limit()()
							return a.verifyFetched(cmd.Context(), p, root)
						})
					}
					opts := uploader.Options{Retries: retries, Verify: uploader.VerifyPinned, SampleBlocks: sample, VerifyTimeout: timeout}
					return a.withTarget(cmd.Context(), end, func(t *target) error {
						_, gives := t.Target.(uploader.BlockFetcher)
						switch {
						case full:
							opts.Verify = uploader.VerifyFull
						case sample > 0 && (gives || cmd.Flags().Changed("sample")):
							opts.Verify = uploader.VerifySample
						}
						return a.withSomeLedger(ledger, func(l uploader.Ledger) error {
							opts.Ledger = l
							err := a.verifyRemote(cmd.Context(), t, root, opts)
							return withHint(err, a.mendHints(cmd, err, t, root, l)...)
						})
					})
				}
			}
			set, err := a.archives(cmd, args)
			if err != nil {
				return err
			}
			return a.verifyArchives(cmd.Context(), set)
		},
	}
	end.add(cmd)
	cmd.Flags().StringArrayVar(&from, "from", nil, "check this: the URL of a trustless gateway, or a target as for --to; may be repeated")
	group(cmd.Flags(), groupWhere, "from")
	common(cmd.Flags(), "from")
	cmd.Flags().IntVar(&sample, "sample", uploader.DefaultSampleBlocks, "number of random blocks to fetch from the service; 0 only asks it")
	cmd.Flags().IntVar(&retries, "retries", uploader.DefaultRetries, "further attempts for a request after the first")
	cmd.Flags().DurationVar(&timeout, "verify-timeout", 5*time.Second, "how long to wait until the service has the complete DAG")
	addLedger(cmd, &ledger)
	cmd.Flags().BoolVar(&full, "full", false, "fetch everything from the service, whatever --sample says")
	return cmd
}

// verifyArchives checks the DAGs in archives.
func (a *app) verifyArchives(ctx context.Context, set *archiveSet) error {
	x, roots, err := set.index(ctx)
	if err != nil {
		return err
	}
	if len(roots) == 0 {
		return usagef("the archives name no root: give it as the first argument")
	}
	var checked atomic.Int64
	var total int64
	for i := range x.Len() {
		total += int64(x.Size(i))
	}
	stop := a.showProgress(phases{first: "checking"}, func() uploader.Progress {
		return uploader.Progress{BytesHashed: checked.Load(), BytesToHash: total}
	})
	defer stop()
	worst := exitOK
	for _, root := range roots {
		code := exitUnverified
		v, err := unpack.VerifyIndex(ctx, x, root, unpack.VerifyOptions{Checked: &checked})
		if err != nil {
			return err
		}
		for _, f := range v.Faults {
			if !errors.Is(f, unpack.ErrMissing) {
				code = exitMismatch
			}
			a.con.event(faultEvent{header("fault"), root.String(), f.Cid.String(), printable(f.Error())})
			a.con.line("carload: error: " + f.Error())
		}
		if v.Count > 0 {
			worst = worse(worst, code)
			a.con.errorLine(fmt.Errorf("%s: %s of the DAG missing or wrong", root, count(int(v.Count), "block")), code)
			continue
		}
		a.con.event(verifiedEvent{eventHeader: header("verified"), Root: root.String(), Level: "full", Blocks: v.Blocks, Bytes: v.Bytes})
		a.con.result(root.String() + "\tverified")
		a.con.say("%s: complete: %s, %s", root, count(int(v.Blocks), "block"), formatBytes(v.Bytes))
	}
	if worst != exitOK {
		return silent{worst}
	}
	return nil
}

// verifyRemote checks what a service has.
func (a *app) verifyRemote(ctx context.Context, t *target, root cid.Cid, opts uploader.Options) error {
	opts.Observer, opts.Logger = observer{con: a.con}, a.log
	if opts.Retries == 0 {
		opts.Retries = -1 // means none to the engine
	}
	if err := opts.Validate(); err != nil {
		return usageError{error: err}
	}
	u, err := uploader.New(t.Target, opts)
	if err != nil {
		return usageError{error: err}
	}
	if _, ok := t.Target.(uploader.StatusChecker); !ok && opts.Verify < uploader.VerifySample {
		return t.lacks("can't report what it has: carload verify checks the shards in a directory")
	}
	defer context.AfterFunc(a.life.soft, u.Drain)()
	stop := func() {}
	if opts.Verify == uploader.VerifyFull {
		defer littleGarbage.limit()()
		stop = a.showProgress(phases{third: "checking"}, u.Progress)
	}
	report, err := u.Verify(ctx, root)
	stop()
	var finding *uploader.VerifyError
	if errors.As(err, &finding) {
		a.faults(root, finding.Missing, "missing")
		a.faults(root, finding.Wrong, car.ErrCorrupt.Error())
	}
	if err != nil {
		return err
	}
	event := verifiedEvent{eventHeader: header("verified"), Root: root.String(), Level: opts.Verify.String()}
	if report != nil {
		event.Sample = &sampleReport{report.Blocks, report.Sample}
		a.con.say("%s: %s", root, report)
	}
	a.con.event(event)
	a.con.result(root.String() + "\t" + opts.Verify.String())
	return nil
}

// fetched combines sources as a target that accepts nothing. The sources have
// already retried.
type fetched struct{ pool *gateway.Pool }

// String implements [uploader.Target].
func (fetched) String() string { return "what it is fetched from" }

// Put implements [uploader.Target].
func (fetched) Put(context.Context, *uploader.Shard) (uploader.Receipt, error) {
	return uploader.Receipt{}, errors.ErrUnsupported
}

// FetchBlock implements [uploader.BlockFetcher].
func (f fetched) FetchBlock(ctx context.Context, c cid.Cid, _ int) ([]byte, error) {
	return f.pool.Block(ctx, c)
}

// verifyFetched checks what gateways return.
func (a *app) verifyFetched(ctx context.Context, p *gateway.Pool, root cid.Cid) error {
	var checked, total, blocks atomic.Int64
	finding := &uploader.VerifyError{Root: root}
	stop := a.showProgress(phases{third: "checking"}, func() uploader.Progress {
		return uploader.Progress{BytesVerified: checked.Load(), BytesToVerify: total.Load()}
	})
	err := p.Walk(ctx, root, gateway.Walk{
		Total: &total,
		Visit: func(_ cid.Cid, data []byte) error {
			blocks.Add(1)
			checked.Add(int64(len(data)))
			return nil
		},
		Fault: func(c cid.Cid, err error) error {
			switch {
			case len(finding.Missing)+len(finding.Wrong) >= mostFaults:
				return finding
			case errors.Is(err, uploader.ErrNotFound):
				finding.Missing = append(finding.Missing, c)
			default:
				finding.Wrong = append(finding.Wrong, c)
			}
			return nil
		},
	})
	stop()
	a.faults(root, finding.Missing, "missing")
	a.faults(root, finding.Wrong, car.ErrCorrupt.Error())
	if err == nil && len(finding.Missing)+len(finding.Wrong) > 0 {
		err = finding
	}
	if err != nil {
		return fmt.Errorf("%s: %w", root, a.life.blame(err))
	}
	a.con.event(verifiedEvent{eventHeader: header("verified"), Root: root.String(), Level: uploader.VerifyFull.String(), Blocks: blocks.Load(), Bytes: checked.Load()})
	a.con.result(root.String() + "\t" + uploader.VerifyFull.String())
	a.con.say("%s: complete: %s, %s", root, count(int(blocks.Load()), "block"), formatBytes(checked.Load()))
	return nil
}

// mostFaults limits the list of missing and wrong blocks.
const mostFaults = 1000

// mendHints say what to type to send again what a service lacks of a root.
func (a *app) mendHints(cmd *cobra.Command, err error, t *target, root cid.Cid, l uploader.Ledger) []string {
	if !errors.Is(err, uploader.ErrIncomplete) {
		return nil
	}
	sources, errLedger := l.Sources(context.WithoutCancel(cmd.Context()), t.String(), root)
	if errLedger != nil {
		return []string{"the ledger does not know what this is: " + printable(errLedger.Error())}
	}
	words := []string{"carload", "up"}
	for _, name := range []string{"endpoint", "gateway", "store", "token-file", "token-command", "insecure-http", "ca-cert", "ledger"} {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed {
			words = append(words, "--"+name+"="+f.Value.String())
		}
	}
	if to, err := cmd.Flags().GetStringArray("to"); err == nil {
		for _, name := range to {
			words = append(words, "--to="+name)
		}
	}
	const say = "to send again what is missing: "
	if len(sources) == 0 {
		return []string{say + shellQuote(append(words, "PATH")) + ", with the PATH and flags of the upload, which this ledger does not have"}
	}
	var hints []string
	for _, source := range sources[:min(len(sources), mostSources)] {
		hint := say + shellQuote(append(words[:len(words):len(words)], source))
		if _, err := os.Stat(source); err != nil {
			hint += ", which no longer exists"
		}
		hints = append(hints, hint)
	}
	return hints
}

// mostSources limits how many sources of an upload are named.
const mostSources = 3

func (a *app) faults(root cid.Cid, blocks []cid.Cid, what string) {
	for _, c := range blocks {
		a.con.event(faultEvent{header("fault"), root.String(), c.String(), what})
		a.con.say("%s: %s", c, what)
	}
}
