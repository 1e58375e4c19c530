// Package doctor tries what a target does: with a few small uploads, which it
// removes again where that can be done, it sees which promises hold there.
//
// It is for targets that nobody here has met. The same checks are run over every
// target of this module, by package targettest.
package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
)

// Options are the knobs of [Examine].
type Options struct {
	Target uploader.Target
	// Stranger is the same far side, asked with a secret that is not good; nil
	// if there is no secret.
	Stranger uploader.Target
	// Dir is where the uploads are spooled.
	Dir string
	// LargestBody is up to which size larger and larger shards are tried; 0 for
	// none.
	LargestBody int64
	// VerifyTimeout is how long the target may take to call an upload complete;
	// 0 means a minute.
	VerifyTimeout time.Duration
	Logger        *slog.Logger // nil for none
}

// Verdict is what a check found.
type Verdict int

// The verdicts.
const (
	Works Verdict = iota
	Lacks         // the target does not offer it
	Fails
)

// String is the verdict in a word.
func (v Verdict) String() string { return [...]string{"works", "lacks", "fails"}[v] }

// Finding is what came of a check.
type Finding struct {
	Check   string
	Promise string // of carload's that hangs on it; may be empty
	Verdict Verdict
	Detail  string
	Err     error // why it fails, or what it lacks
}

// lack is what a target does not offer.
type lack struct{ what string }

func (l lack) Error() string { return l.what }

type check struct {
	name, promise string
	run           func(ctx context.Context, x *exam) (detail string, err error)
}

// checks are in an order in which later ones use the uploads of earlier ones.
var checks = []check{
	{"authorization", "a secret that is not good is refused, and not tried again", authorization},
	{"receipts", "verified means verified: each shard has a receipt of the far side", receipts},
	{"fetching", "verification by sample and in full", fetching},
	{"status", "what is incomplete is not called done", status},
	{"resuming", "what has arrived is not sent again", resuming},
	{"listing", "carload list", listing},
	{"limits", "what a target does not take is refused before a byte is sent", limits},
	{"clock", "", clock},
	{"latency", "", latency},
	{"throughput", "", throughput},
	{"deleting", "carload rm", deleting},
}

// exam is an examination under way.
type exam struct {
	opts    Options
	samples []*sample
	whole   *sample // that was uploaded
	part    *sample // of which the target has the first shard
	ledger  *uploader.MemoryLedger
}

// Examine runs all checks and yields what each found. Uploads that were made
// are removed at the end, or when the caller has seen enough.
func Examine(ctx context.Context, opts Options) iter.Seq[Finding] {
	if opts.VerifyTimeout == 0 {
		opts.VerifyTimeout = time.Minute
	}
	return func(yield func(Finding) bool) {
		x := &exam{opts: opts, ledger: new(uploader.MemoryLedger)}
		defer x.close(context.WithoutCancel(ctx))
		for _, c := range checks {
			if ctx.Err() != nil {
				return
			}
			f := Finding{Check: c.name, Promise: c.promise}
			f.Detail, f.Err = c.run(ctx, x)
			switch {
			case errors.As(f.Err, new(lack)):
				f.Verdict = Lacks
			case f.Err != nil:
				f.Verdict = Fails
			}
			if !yield(f) {
				return
			}
		}
	}
}

// close removes what is left of the uploads.
func (x *exam) close(ctx context.Context) {
	d, _ := x.opts.Target.(uploader.Deleter)
	for _, s := range x.samples {
		if d != nil && s.there {
			_ = d.Delete(ctx, s.root) // that it can't was said by its check
		}
		_ = s.input.Close()
	}
}

// sample is an upload of random bytes.
type sample struct {
	name  string
	input uploader.Input
	plan  *splitter.Plan
	root  cid.Cid
	there bool // something of it is at the target
}

// leafBytes are small, so that little makes many blocks.
const leafBytes = 64 << 10

// Uploads of several shards.
const (
	sampleBytes = 700_000
	sampleShard = 250_000
)

// sample makes an upload of n bytes in shards of a size.
func (x *exam) sample(ctx context.Context, n, shard int64) (*sample, error) {
	profile, err := chunker.UnixFSv1().With(fmt.Sprintf("size-%d", leafBytes))
	if err != nil {
		return nil, err
	}
	if t, ok := x.opts.Target.(uploader.Limited); ok && t.Limits().OneShard {
		shard = t.Limits().ShardBytes
	}
	s := &sample{name: "carload-test-" + rand.Text()[:8]}
	s.input = uploader.Stream(s.name, io.LimitReader(rand.Reader, n), uploader.StreamOptions{Dir: x.opts.Dir, Chunker: chunker.Options{Profile: profile}})
	dag, err := s.input.Describe(ctx, new(atomic.Int64))
	if err != nil {
		return nil, errors.Join(err, s.input.Close())
	}
	x.samples = append(x.samples, s)
	s.root = dag.Root()
	s.plan, err = splitter.Split(dag, splitter.Options{MaxShardBytes: shard})
	return s, err
}

// uploader is one with the options that all checks share.
func (x *exam) uploader(target uploader.Target, opts uploader.Options) (*uploader.Uploader, error) {
	opts.VerifyTimeout, opts.Logger = x.opts.VerifyTimeout, x.opts.Logger
	if opts.Ledger == nil {
		opts.Ledger = x.ledger
	}
	if opts.Retries == 0 {
		opts.Retries = 2
	}
	return uploader.New(target, opts)
}

// send sends a sample.
func (x *exam) send(ctx context.Context, s *sample, target uploader.Target, opts uploader.Options) (uploader.Result, error) {
	opts.MaxShardBytes, opts.UploadName = s.plan.MaxShardBytes, s.name
	u, err := x.uploader(target, opts)
	if err != nil {
		return uploader.Result{}, err
	}
	s.there = true
	return u.Send(ctx, s.name, s.plan)
}

// unknown is a root that nobody has.
func unknown() cid.Cid {
	mh, err := multihash.Sum([]byte(rand.Text()), multihash.SHA2_256, -1)
	if err != nil {
		panic(err) // SHA-256 is always there
	}
	return cid.NewCidV1(cid.DagProtobuf, mh)
}

// orNothing makes an error of none.
func orNothing(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
