package cli

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"

	"github.com/carload/carload/car"
	"github.com/carload/carload/car/piece"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/dirtarget"
)

// sendFlags are the settings of the engine.
type sendFlags struct {
	transfers     int
	retries       int
	maxShardBytes size
	bwlimit       byteRate
	verify        uploader.VerifyLevel
	verifyTimeout time.Duration
	sample        int
	noResume      bool
	checksum      bool
	dryRun        bool
	rootOnly      bool
	pieceCIDs     bool
	pieceManifest string
	batchBelow    size
}

func (s *sendFlags) add(cmd *cobra.Command) {
	s.maxShardBytes = splitter.DefaultMaxShardBytes
	f := cmd.Flags()
	f.IntVar(&s.transfers, "transfers", uploader.DefaultTransfers, "shards in flight; if above 1, an upload of less than 256 KiB counts as an eighth")
	f.Var(&s.maxShardBytes, "max-shard-bytes", "largest shard")
	f.BoolVar(&s.pieceCIDs, "piece-cids", false, "compute and print the Filecoin piece CIDs of the shards while writing or sending them; --max-shard-bytes 66584576 fills pieces of 64 MiB")
	f.StringVar(&s.pieceManifest, "piece-manifest", "", "write the piece CIDs of all shards to this file, .csv or .jsonl, at the end")
	f.BoolVarP(&s.rootOnly, "root-only", "Q", false, "print the CID only")
	f.BoolVarP(&s.dryRun, "dry-run", "n", false, "say what would be sent; send and write nothing, and ask no service")
	group(f, groupSpeed, "transfers")
	group(f, groupRecipe, "max-shard-bytes")
	group(f, groupOutput, "piece-cids", "piece-manifest", "root-only", "dry-run")
	common(f, "root-only", "dry-run")
}

func (s *sendFlags) addRemote(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&s.retries, "retries", uploader.DefaultRetries, "further attempts for a shard after the first")
	f.Var(&s.bwlimit, "bwlimit", "bytes per second of all transfers together; off for no limit")
	f.TextVar(&s.verify, "verify", uploader.VerifyPinned, "what to check before an upload is done: receipt, pinned, sample or full")
	f.DurationVar(&s.verifyTimeout, "verify-timeout", uploader.DefaultVerifyTimeout, "how long to wait until the service has the complete DAG")
	f.IntVar(&s.sample, "sample", uploader.DefaultSampleBlocks, "blocks to fetch with --verify sample")
	f.BoolVar(&s.noResume, "no-resume", false, "send everything, even what is already there")
	f.BoolVar(&s.checksum, "checksum", false, "hash files again that look unchanged")
	group(f, groupSpeed, "bwlimit")
	group(f, groupSafety, "retries", "verify", "verify-timeout", "sample", "no-resume", "checksum")
	common(f, "transfers", "bwlimit", "verify")
}

// options returns the options of the engine.
func (s *sendFlags) options(a *app, src *inputs) (uploader.Options, error) {
	if s.transfers < 1 {
		return uploader.Options{}, usagef("--transfers %d: it must be at least 1", s.transfers)
	}
	if s.retries < 0 {
		return uploader.Options{}, usagef("--retries %d: it must not be negative", s.retries)
	}
	if s.maxShardBytes == 0 {
		return uploader.Options{}, usagef("--max-shard-bytes: it must not be 0")
	}
	if s.pieceManifest != "" {
		s.pieceCIDs = true
		if _, err := manifestForm(s.pieceManifest); err != nil {
			return uploader.Options{}, err
		}
	}
	if s.pieceCIDs && int64(s.maxShardBytes) > piece.MaxRawSize {
		return uploader.Options{}, usagef("--max-shard-bytes %d: the largest Filecoin piece has room for %d", s.maxShardBytes, int64(piece.MaxRawSize))
	}
	if s.verify == uploader.VerifySample && s.sample < 1 {
		return uploader.Options{}, usagef("--sample %d: it must be at least 1", s.sample)
	}
	opts := uploader.Options{
		Transfers: s.transfers, MaxShardBytes: int64(s.maxShardBytes), MaxUploadBytes: src.limit,
		Retries: s.retries, BytesPerSecond: int64(s.bwlimit.size), Verify: s.verify, VerifyTimeout: s.verifyTimeout,
		SampleBlocks: s.sample, NoResume: s.noResume, Rehash: s.checksum, PieceCIDs: s.pieceCIDs,
		Observer: observer{con: a.con, profile: src.options.Profile.Name, verbose: a.global.verbose > 0, board: &a.board},
		Logger:   a.log,
	}
	if s.retries == 0 {
		opts.Retries = -1 // means none to the engine
	}
	if err := opts.Validate(); err != nil {
		return opts, usageError{error: err}
	}
	return opts, nil
}

// leaveLimit lets the target choose the size of shards, unless the user set
// one: some targets want a DAG in one shard.
func (s *sendFlags) leaveLimit(cmd *cobra.Command, opts *uploader.Options) {
	if !cmd.Flags().Changed("max-shard-bytes") {
		opts.MaxShardBytes = 0
	}
}

func (a *app) upCommand() *cobra.Command {
	var in inputFlags
	var send sendFlags
	var end endpointFlags
	var name, ledger, base string
	cmd := &cobra.Command{
		Use:     "up PATH…",
		Aliases: []string{"upload"},
		Short:   "Upload files and directories, and verify them",
		Long: `Upload files, directories, standard input (-) or CAR files to a service with the
NFT.Storage API, a Kubo node, a bucket or a directory, and verify that the
target has them. s3://BUCKET/KEY is an object in a bucket, or everything below
it as a directory.

Without --to or --endpoint, uploads go to your own store on this machine,
through the built-in service. With several --to, carload reads each file once
for all targets; a target that fails does not stop the others. If an upload is
interrupted, run the same command again to resume it. If a path has changed
since you last sent it, carload sends only the new blocks.

Thousands of small files cost a request each. With --batch-below 1MiB, smaller
files go up together, as entries of a directory, in a few requests. Each file
keeps the CID that it has alone, and you can fetch it by that CID. But the
service lists only the directory, and removing one file removes all that were
sent with it. The next run sends only new and changed files.`,
		Example: `  carload up movie.mkv
  CARLOAD_TOKEN=… carload up --endpoint https://api.example.org movie.mkv photos
  carload up --to home --to s3://shards/films movie.mkv
  tar c photos | carload up --name photos.tar -
  cid=$(carload up -Q movie.mkv)`,
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := a.inputs(cmd, in, args)
			if err != nil {
				return err
			}
			opts, err := send.options(a, src)
			if err != nil {
				return err
			}
			if in.wrap && send.batchBelow > 0 {
				return usagef("--wrap puts all paths into one directory, and --batch-below the small ones: use one of them")
			}
			if err := setBase(&opts, base); err != nil {
				return err
			}
			if send.dryRun {
				return a.dryRun(src, opts, send.rootOnly)
			}
			send.leaveLimit(cmd, &opts)
			return a.withTargets(cmd.Context(), end, func(targets []*target) error {
				opts.UploadName = name
				return a.withSomeLedger(ledger, func(l uploader.Ledger) error {
					opts.Ledger = l
					names := phases{first: "hashing", second: "sending"}
					if opts.Verify == uploader.VerifyFull {
						names.third = "verifying"
					}
					roots, err := a.ship(src, targets, opts, send, names, "uploaded")
					for _, t := range targets {
						if root := roots[t]; root != "" {
							t.sayWhere(a, root)
						}
					}
					return err
				})
			})
		},
	}
	end.add(cmd)
	cmd.Flags().StringVar(&end.files, "to-files", "", "where uploads appear in the files (MFS) of a Kubo node; end a directory with a slash")
	cmd.Flags().StringVar(&base, "base", "", "root at the service whose blocks need not be sent again (default: the last upload of the same path; none turns this off)")
	cmd.Flags().StringVar(&name, "name", "", "name of the upload at the service (default: the name of the file); an existing upload keeps its name")
	cmd.Flags().Var(&send.batchBelow, "batch-below", "upload files smaller than this together, many in one upload; 0 for each by itself")
	send.add(cmd)
	send.addRemote(cmd)
	addLedger(cmd, &ledger)
	in.add(cmd)
	f := cmd.Flags()
	group(f, groupWhere, "to-files", "name")
	group(f, groupSafety, "base", "ledger")
	common(f, "name")
	return cmd
}

// noBase is the value of --base for no base.
const noBase = "none"

func setBase(opts *uploader.Options, base string) error {
	switch base {
	case "":
		return nil
	case noBase:
		opts.NoBase = true
		return nil
	}
	root, err := cid.Decode(base)
	if err != nil {
		return usagef("--base %q: %w", base, err)
	}
	opts.Base = root
	return nil
}

// ship runs the engine over the inputs, for each target. It returns the roots
// of the last input that succeeded there.
func (a *app) ship(src *inputs, targets []*target, opts uploader.Options, send sendFlags, names phases, what string) (roots map[*target]string, err error) {
	defer littleGarbage.limit()()
	only := ""
	if len(targets) == 1 {
		only = targets[0].String()
	}
	if err := src.begin(only); err != nil {
		return nil, err
	}
	res := a.newResults(send.rootOnly)
	res.newName, res.src = opts.UploadName, src
	if send.pieceManifest != "" {
		if res.manifest, err = newManifest(send.pieceManifest); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, res.manifest.discard()) }()
	}
	defer func() { err = errors.Join(err, src.close()) }()
	roots = map[*target]string{}
	inputs := src.each()
	if send.batchBelow > 0 {
		inputs = uploader.Batches(inputs, int64(send.batchBelow))
	}
	p, err := a.round(inputs, targets, opts, names, res, roots)
	if again := src.remote.again(a); err == nil && again != nil {
		opts.NoResume = true // the ledger has shards of another plan
		var more uploader.Progress
		more, err = a.round(again, targets, opts, names, res, roots)
		p.Retries, p.BytesResent = p.Retries+more.Retries, p.BytesResent+more.BytesResent
	}
	if err != nil {
		return nil, err
	}
	err = res.finish(p, what)
	if err != nil && a.life.soft.Err() != nil {
		a.con.say("carload does not send again what has arrived; resume with:")
		a.con.say("  carload %s", shellQuote(a.args))
	}
	return roots, err
}

// round sends inputs, and adds their outcomes to the results.
func (a *app) round(inputs iter.Seq[uploader.Input], targets []*target, opts uploader.Options, names phases, res *results, roots map[*target]string) (uploader.Progress, error) {
	several := len(targets) > 1
	var uploaders []*uploader.Uploader
	of := map[uploader.Target]*target{}
	for _, t := range targets {
		mine := opts
		if o, ok := opts.Observer.(observer); ok && several {
			o.target = t.label()
			mine.Observer = o
		}
		u, err := uploader.New(t.Target, mine)
		if errors.Is(err, uploader.ErrLimit) {
			err = withHint(usageError{error: err}, "lower --max-shard-bytes")
		}
		if err != nil {
			return uploader.Progress{}, err
		}
		uploaders = append(uploaders, u)
		of[t.Target] = t
	}
	group, err := uploader.NewGroup(uploaders...)
	if err != nil {
		return uploader.Progress{}, err
	}
	begun := time.Now()
	defer context.AfterFunc(a.life.soft, func() {
		p := group.Progress()
		group.Drain()
		a.sayWhatIsLeft(p, time.Since(begun), opts.BytesPerSecond)
	})()
	defer a.showProgress(names, group.Progress)()
	for o, err := range group.Upload(a.life.hard, inputs) {
		t := of[o.Target]
		if res.src.remote.lied(a, o.Result, err) {
			continue
		}
		res.target, res.other = "", t != targets[0]
		if several {
			res.target = t.label()
		}
		a.board.end(observer{target: res.target}.name(o.Name))
		_, res.verifies = o.Target.(uploader.StatusChecker) // a directory can't be asked
		_, res.files = o.Target.(*dirtarget.Target)
		res.add(o.Result, res.src.remote.blame(err))
		if err == nil && o.Root.Defined() {
			roots[t] = o.Root.String()
		}
	}
	return group.Progress(), nil
}

// sayWhatIsLeft says what a stop waits for.
func (a *app) sayWhatIsLeft(p uploader.Progress, took time.Duration, limit int64) {
	if p.ShardsOnTheirWay == 0 {
		return
	}
	rate := float64(p.BytesSent) / took.Seconds()
	if limit > 0 {
		rate = float64(limit)
	}
	line := fmt.Sprintf("waiting for %s in flight: %s left", count(int(p.ShardsOnTheirWay), "shard"), formatBytes(p.BytesOnTheirWay))
	if left := time.Duration(float64(p.BytesOnTheirWay) / rate * float64(time.Second)); rate > 0 && left < time.Hour {
		line += ", about " + formatDuration(left)
		if left > grace {
			line += fmt.Sprintf("; shards that are not done in %s will be sent again next time", formatDuration(grace))
		}
	}
	a.con.say("%s", line)
}

// dryRun describes the inputs and says what would be sent.
func (a *app) dryRun(src *inputs, opts uploader.Options, rootOnly bool) error {
	d, err := uploader.NewDescriber(opts)
	if err != nil {
		return usageError{error: err}
	}
	return a.describeAll(src, d, a.newResults(rootOnly), "described", func(in uploader.Input, dag uploader.DAG) error {
		name := in.Name()
		plan, err := d.Split(name, dag)
		if err != nil {
			return err
		}
		for i, s := range plan.Shards {
			a.con.event(shardEvent{eventHeader: header("shard"), Path: name, Root: dag.Root().String(), Index: i, Count: len(plan.Shards), Bytes: s.Size})
		}
		a.con.say("%s: would send at most %s, in %s of at most %s, and nothing that is already there", quotePath(name), formatBytes(plan.Size()), count(len(plan.Shards), "shard"), formatBytes(plan.MaxShardBytes))
		return nil
	})
}

func (a *app) packCommand() *cobra.Command {
	var in inputFlags
	var send sendFlags
	var out string
	cmd := &cobra.Command{
		Use:   "pack PATH… -o DIR",
		Short: "Write the shards into a directory instead of sending them",
		Long: `Write the shards of files and directories into a directory, as CAR files called
ROOT-00001-of-00335.car. They appear complete or not at all. With -o -, a single
archive of one input goes to standard output.`,
		Example: `  carload pack movie.mkv -o shards
  carload pack movie.mkv -o - | ssh host 'ipfs dag import'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := a.inputs(cmd, in, args)
			if err != nil {
				return err
			}
			opts, err := send.options(a, src)
			if err != nil {
				return err
			}
			switch {
			case send.dryRun:
				return a.dryRun(src, opts, send.rootOnly)
			case out == "":
				return usageError{errors.New("give the directory for the shards with -o DIR"), "carload help pack"}
			case out == "-":
				return a.packToStdout(src, opts, send)
			}
			dir, err := dirtarget.New(filepath.Clean(out), dirtarget.Options{})
			if err != nil {
				return err
			}
			_, err = a.ship(src, []*target{{Target: dir}}, opts, send, phases{first: "hashing", second: "writing"}, "packed")
			return err
		},
	}
	cmd.Flags().StringVarP(&out, "output", "o", "", "directory for the shards, created if missing; - for standard output")
	send.add(cmd)
	in.add(cmd)
	return cmd
}

var errTerminal = errors.New("can't write an archive to the terminal: redirect standard output, or give a directory with -o DIR")

// packToStdout writes one archive of one input.
func (a *app) packToStdout(src *inputs, opts uploader.Options, send sendFlags) error {
	if isTerminal(a.stdio.Out) {
		return usageError{error: errTerminal}
	}
	if a.con.json {
		return usagef("-o - and --json both write to standard output: use one of them")
	}
	if src.flags.list {
		return usagef("-o - and --list both write to standard output: use one of them")
	}
	if len(src.paths) != 1 || src.flags.filesFrom != "" || src.flags.filesFrom0 != "" {
		return usagef("-o - takes one input")
	}
	if send.pieceManifest != "" {
		return usagef("-o - does not work with --piece-manifest: use --piece-cids to print the piece CID")
	}
	d, err := uploader.NewDescriber(opts)
	if err != nil {
		return usageError{error: err}
	}
	packed := false
	return a.describeAll(src, d, &results{app: a, started: time.Now(), hidden: true}, "packed", func(_ uploader.Input, dag uploader.DAG) error {
		if packed {
			return withHint(usagef("-o - takes one input, but the archive has several roots"), "--root CID picks one")
		}
		packed = true
		packer := car.Packer{Pieces: send.pieceCIDs}
		s := packer.Open(a.life.soft, car.NewArchive(dag.Root(), dag))
		_, err := s.WriteTo(a.stdio.Out)
		if err = errors.Join(err, s.Close()); err != nil {
			return err
		}
		if p, ok := s.Piece(); ok {
			a.con.say("piece %s, in version 1 %s, of %d bytes in %d", p.V2(), p.V1(), p.RawSize, p.PaddedSize())
		}
		return nil
	})
}
