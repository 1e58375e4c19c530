package doctor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
)

func authorization(ctx context.Context, x *exam) (string, error) {
	if x.opts.Stranger == nil {
		return "", lack{"it asks for no secret"}
	}
	s, err := x.sample(ctx, 1000, splitter.DefaultMaxShardBytes)
	if err != nil {
		return "", err
	}
	began := time.Now()
	_, err = x.send(ctx, s, x.opts.Stranger, uploader.Options{Ledger: new(uploader.MemoryLedger), Retries: -1})
	if err == nil {
		return "", errors.New("a wrong secret is accepted")
	}
	if !errors.Is(err, uploader.ErrUnauthorized) {
		return "", fmt.Errorf("a wrong secret is answered with: %w", err)
	}
	s.there = false
	return fmt.Sprintf("a wrong secret is refused in %s", round(time.Since(began))), nil
}

func receipts(ctx context.Context, x *exam) (string, error) {
	s, err := x.sample(ctx, sampleBytes, sampleShard)
	if err != nil {
		return "", err
	}
	r, err := x.send(ctx, s, x.opts.Target, uploader.Options{})
	if err != nil {
		return "", err
	}
	x.whole = s
	return fmt.Sprintf("%d shards, %d blocks, verified to the level %s", r.Shards, r.Blocks, r.Level), nil
}

func fetching(ctx context.Context, x *exam) (string, error) {
	blocks, ok := x.opts.Target.(uploader.BlockFetcher)
	switch {
	case !ok:
		return "", lack{"it does not return blocks"}
	case x.whole == nil:
		return "", lack{"nothing could be uploaded"}
	}
	if c, ok := x.opts.Target.(uploader.StatusChecker); ok {
		// The target may look for blocks only in uploads that it was asked
		// about.
		if _, err := c.Status(ctx, x.whole.root); err != nil {
			return "", err
		}
	}
	for i := range x.whole.plan.Blocks.Len() {
		b := x.whole.plan.Blocks.At(i)
		p, err := blocks.FetchBlock(ctx, b.Cid, b.Size())
		if err != nil {
			return "", fmt.Errorf("block %s: %w", b.Cid, err)
		}
		if bad, err := car.Mismatch([]cid.Cid{b.Cid}, [][]byte{p}); err != nil || bad >= 0 {
			return "", fmt.Errorf("block %s comes back with different bytes: %w", b.Cid, errors.Join(err, car.ErrCorrupt))
		}
	}
	if _, err := blocks.FetchBlock(ctx, unknown(), leafBytes); !errors.Is(err, uploader.ErrNotFound) {
		return "", fmt.Errorf("a block that nobody has is answered with: %w", orNothing(err))
	}
	u, err := x.uploader(x.opts.Target, uploader.Options{Verify: uploader.VerifyFull, Ledger: new(uploader.MemoryLedger)})
	if err != nil {
		return "", err
	}
	if _, err := u.Verify(ctx, x.whole.root); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d blocks came back, one by one and all together", x.whole.plan.Blocks.Len()), nil
}

// only is a target that accepts this many shards.
type only struct {
	uploader.Target
	left int
}

var errEnough = errors.New("that is enough")

// Put implements [uploader.Target].
func (o *only) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	if o.left--; o.left < 0 {
		return uploader.Receipt{}, &uploader.SourceError{Err: errEnough}
	}
	return o.Target.Put(ctx, s)
}

// sendPart sends the first shard of an upload with several.
func (x *exam) sendPart(ctx context.Context) error {
	s, err := x.sample(ctx, sampleBytes, sampleShard)
	if err != nil {
		return err
	}
	if len(s.plan.Shards) < 2 {
		return lack{"a DAG has to fit into one shard"}
	}
	if _, err := x.send(ctx, s, &only{x.opts.Target, 1}, uploader.Options{Transfers: 1}); !errors.Is(err, errEnough) {
		return orNothing(err)
	}
	x.part = s
	return nil
}

func status(ctx context.Context, x *exam) (string, error) {
	checker, ok := x.opts.Target.(uploader.StatusChecker)
	if !ok {
		return "", lack{"it does not report what it holds"}
	}
	if _, err := checker.Status(ctx, unknown()); !errors.Is(err, uploader.ErrNotFound) {
		return "", fmt.Errorf("a root that nobody has is answered with: %w", orNothing(err))
	}
	if x.whole != nil {
		if s, err := checker.Status(ctx, x.whole.root); err != nil || s.State != uploader.StatePinned {
			return "", fmt.Errorf("a complete upload is reported as %q: %w", s.State, orNothing(err))
		}
	}
	if err := x.sendPart(ctx); err != nil {
		return "", err
	}
	s, err := checker.Status(ctx, x.part.root)
	if err != nil && !errors.Is(err, uploader.ErrNotFound) {
		return "", err
	}
	if s.State == uploader.StatePinned {
		return "", errors.New("an incomplete upload is reported as complete")
	}
	f, ok := x.opts.Target.(uploader.Finisher)
	if !ok {
		return "it distinguishes complete, incomplete and unknown", nil
	}
	if err := f.Finish(ctx, x.part.upload()); !errors.Is(err, uploader.ErrIncomplete) {
		return "", fmt.Errorf("committing an incomplete upload is answered with: %w", orNothing(err))
	}
	if s, err := checker.Status(ctx, x.part.root); err == nil && s.State == uploader.StatePinned {
		return "", errors.New("an incomplete upload was committed")
	}
	return "it distinguishes complete, incomplete and unknown, and does not commit what is incomplete", nil
}

// upload returns the sample as a commit describes it.
func (s *sample) upload() uploader.Upload {
	d := uploader.Upload{Root: s.root, Name: s.name, Blocks: s.plan.Blocks.Len()}
	for i := range d.Blocks {
		b := s.plan.Blocks.At(i)
		d.BlockBytes += int64(b.Size())
	}
	for _, shard := range s.plan.Shards {
		d.Shards = append(d.Shards, uploader.UploadedShard{Size: shard.Size, First: s.plan.Blocks.At(shard.First).Cid})
	}
	return d
}

func resuming(ctx context.Context, x *exam) (string, error) {
	if x.part == nil {
		if err := x.sendPart(ctx); err != nil {
			return "", err
		}
	}
	r, err := x.send(ctx, x.part, x.opts.Target, uploader.Options{})
	if err != nil {
		return "", err
	}
	if left := x.part.plan.Size() - x.part.plan.Shards[0].Size; r.Sent != left {
		return "", fmt.Errorf("%d bytes were sent where %d were left", r.Sent, left)
	}
	if _, ok := x.opts.Target.(uploader.StatusChecker); !ok {
		return "by the ledger", nil
	}
	r, err = x.send(ctx, x.part, x.opts.Target, uploader.Options{Ledger: new(uploader.MemoryLedger)})
	if err != nil {
		return "", err
	}
	if r.Sent != 0 {
		return "", fmt.Errorf("without a ledger, %d bytes were sent again", r.Sent)
	}
	return "by the ledger, and without one", nil
}

func listing(ctx context.Context, x *exam) (string, error) {
	lister, ok := x.opts.Target.(uploader.Lister)
	switch {
	case !ok:
		return "", lack{"it does not list what it holds"}
	case x.whole == nil:
		return "", lack{"nothing could be uploaded"}
	}
	n := 0
	for h, err := range lister.List(ctx) {
		if err != nil {
			return "", err
		}
		n++
		switch {
		case !h.Root.Equals(x.whole.root):
		case h.State != uploader.StatePinned:
			return "", fmt.Errorf("a complete upload is listed as %q", h.State)
		case h.Name != x.whole.name:
			return "what was uploaded is there, without its name", nil
		default:
			return "what was uploaded is there, with its name", nil
		}
	}
	return "", fmt.Errorf("a complete upload is not among the %d listed", n)
}

func limits(ctx context.Context, x *exam) (string, error) {
	known := "it reports no limits"
	if t, ok := x.opts.Target.(uploader.Limited); ok {
		l := t.Limits()
		known = fmt.Sprintf("shards of %s bytes, blocks of %s bytes", orAny(l.ShardBytes), orAny(int64(l.BlockBytes)))
		if l.BlockBytes > 0 {
			if err := x.tooLarge(ctx, l.BlockBytes); err != nil {
				return "", err
			}
		}
	}
	var largest int64
	for _, n := range []int64{1, 2, 5, 10, 20, 50, 90, 100} {
		size := n << 20
		if size > x.opts.LargestBody {
			break
		}
		s, err := x.sample(ctx, size-size/500-8192, size)
		if err != nil {
			return "", err
		}
		if len(s.plan.Shards) > 1 {
			return "", fmt.Errorf("the test made %d shards of %d bytes", len(s.plan.Shards), size)
		}
		if _, err := x.send(ctx, s, x.opts.Target, uploader.Options{Retries: -1}); err != nil {
			return fmt.Sprintf("%s; a body of %d bytes is accepted, one of %d is not: %v", known, largest, s.plan.Size(), err), nil
		}
		largest = s.plan.Size()
	}
	if largest == 0 {
		return known, nil
	}
	return fmt.Sprintf("%s; a body of %d bytes is accepted", known, largest), nil
}

func orAny(n int64) string {
	if n == 0 {
		return "any number of"
	}
	return fmt.Sprintf("at most %d", n)
}

// tooLarge offers a block that exceeds the limit.
func (x *exam) tooLarge(ctx context.Context, limit int) error {
	profile := chunker.UnixFSv1()
	profile.ChunkBytes = limit + 1
	if profile.Validate() != nil {
		return nil // we make no such blocks
	}
	in := uploader.Stream("carload-test-large", io.LimitReader(rand.Reader, int64(limit)+1), uploader.StreamOptions{Dir: x.opts.Dir, Chunker: chunker.Options{Profile: profile}})
	u, err := x.uploader(x.opts.Target, uploader.Options{})
	if err != nil {
		return errors.Join(err, in.Close())
	}
	for _, err := range u.Upload(ctx, slices.Values([]uploader.Input{in})) {
		if !errors.Is(err, uploader.ErrLimit) {
			return fmt.Errorf("a block beyond the limit is answered with: %w", orNothing(err))
		}
	}
	if n := u.Progress().BytesSent; n > 0 {
		return fmt.Errorf("%d bytes were sent although the block exceeds the limit", n)
	}
	return nil
}

func clock(_ context.Context, x *exam) (string, error) {
	t, ok := x.opts.Target.(interface{ Skew() (time.Duration, bool) })
	if !ok {
		return "", lack{"it does not report its time"}
	}
	skew, known := t.Skew()
	switch {
	case !known:
		return "", lack{"it does not report its time"}
	case skew.Abs() > 5*time.Minute:
		return "", fmt.Errorf("its clock and ours differ by %s", skew.Round(time.Second))
	case skew.Abs() < 2*time.Second: // the time has a resolution of a second
		return "agrees with ours", nil
	}
	return fmt.Sprintf("differs from ours by %s", skew.Round(time.Second)), nil
}

func latency(ctx context.Context, x *exam) (string, error) {
	checker, ok := x.opts.Target.(uploader.StatusChecker)
	if !ok {
		return "", lack{"it does not report what it holds"}
	}
	root := unknown()
	if x.whole != nil {
		root = x.whole.root
	}
	var took []time.Duration
	for range 5 {
		began := time.Now()
		if _, err := checker.Status(ctx, root); err != nil && !errors.Is(err, uploader.ErrNotFound) {
			return "", err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return fmt.Sprintf("%s for a status (median of %d)", round(took[len(took)/2]), len(took)), nil
}

// throughputBytes is how much is sent to measure the throughput.
const throughputBytes = 16 << 20

func throughput(ctx context.Context, x *exam) (string, error) {
	s, err := x.sample(ctx, throughputBytes, throughputBytes/4)
	if err != nil {
		return "", err
	}
	began := time.Now()
	if _, err := x.send(ctx, s, x.opts.Target, uploader.Options{}); err != nil {
		return "", err
	}
	took := time.Since(began)
	return fmt.Sprintf("%.1f MB/s (%d MiB in %s)", float64(s.plan.Size())/1e6/took.Seconds(), throughputBytes>>20, round(took)), nil
}

func deleting(ctx context.Context, x *exam) (string, error) {
	d, ok := x.opts.Target.(uploader.Deleter)
	if !ok {
		return "", lack{"it does not delete: the test uploads are still there"}
	}
	n := 0
	for _, s := range x.samples {
		if !s.there {
			continue
		}
		if err := d.Delete(ctx, s.root); err != nil && !errors.Is(err, uploader.ErrNotFound) {
			return "", err
		}
		s.there = false
		n++
		checker, ok := x.opts.Target.(uploader.StatusChecker)
		if !ok {
			continue
		}
		if st, err := checker.Status(ctx, s.root); err == nil && st.State == uploader.StatePinned {
			return "", errors.New("a deleted upload is still reported as complete")
		}
	}
	if err := d.Delete(ctx, unknown()); !errors.Is(err, uploader.ErrNotFound) {
		return "", fmt.Errorf("deleting what nobody has is answered with: %w", orNothing(err))
	}
	return fmt.Sprintf("%d uploads were deleted", n), nil
}
