package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/store"
)

const (
	fetchWorkers = 2
	// fetchShardBytes is the size at which fetched blocks become a shard. They
	// are kept even if the rest of the fetch fails.
	fetchShardBytes = 32 << 20
	fetchRetryAfter = time.Minute
	// maxWanted limits the links of a DAG that are kept in memory while its
	// blocks stream in. A DAG with more is fetched block by block.
	maxWanted = 1 << 18
)

// fetcher fetches pinned content that is not held from other gateways. Its
// goroutines run until stop.
type fetcher struct {
	intake
	log    *slog.Logger
	client *http.Client
	idle   time.Duration
	from   []string
	wake   chan struct{}
	cancel context.CancelFunc
	group  *errgroup.Group
}

func startFetcher(ctx context.Context, in intake, opts Options) (*fetcher, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // fetches outlive the call
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = opts.IdleTimeout
	f := &fetcher{
		intake: in, log: opts.Logger, client: &http.Client{Transport: transport}, idle: opts.IdleTimeout,
		wake:   make(chan struct{}, fetchWorkers), // one token for each worker
		cancel: cancel, group: new(errgroup.Group),
	}
	for _, base := range opts.FetchFrom {
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" {
			cancel()
			return nil, fmt.Errorf("fetch from %q: not an HTTP URL", base)
		}
		f.from = append(f.from, strings.TrimSuffix(base, "/"))
	}
	// Continue the fetches that were running when the last process ended.
	if err := f.st.ResumeFetches(ctx); err != nil {
		cancel()
		return nil, err
	}
	if len(f.from) > 0 {
		for range fetchWorkers {
			f.group.Go(func() error { f.work(ctx); return nil })
		}
	}
	return f, nil
}

// stop ends all fetches. They continue when the store is next opened.
func (f *fetcher) stop() error {
	f.cancel()
	err := f.group.Wait()
	f.client.CloseIdleConnections()
	return err
}

// poke tells a worker that there may be something to do.
func (f *fetcher) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *fetcher) work(ctx context.Context) {
	for {
		content, err := f.st.NextFetch(ctx)
		if err == nil && content.Defined() {
			err = f.run(ctx, content)
			if err == nil {
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			f.log.LogAttrs(ctx, slog.LevelError, "fetch", slog.Any("cid", content), slog.Any("error", err))
		}
		timer := time.NewTimer(fetchRetryAfter)
		select {
		case <-f.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// run fetches a content and records the outcome.
func (f *fetcher) run(ctx context.Context, content cid.Cid) error {
	err := f.fetch(ctx, content)
	end, reason := store.FetchDone, ""
	switch {
	case ctx.Err() != nil:
		end = store.FetchAgain
	case err != nil:
		end, reason = store.FetchFailed, err.Error()
	}
	return f.st.EndFetch(context.WithoutCancel(ctx), content, end, reason)
}

// fetch gets the missing blocks of a DAG. It first asks each gateway in turn
// for one CAR, which is fast. If no CAR completes the DAG, it fetches the rest
// block by block.
func (f *fetcher) fetch(ctx context.Context, root cid.Cid) error {
	for _, base := range f.from {
		if err := f.fetchCAR(ctx, base, root); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			f.log.LogAttrs(ctx, slog.LevelInfo, "fetch as CAR", slog.String("from", base), slog.Any("cid", root), slog.Any("error", err))
		}
		if done, err := f.st.Complete(ctx, root); err != nil || done {
			return err
		}
	}
	return f.fetchBlocks(ctx, root)
}

// saver collects fetched blocks in shards.
type saver struct {
	intake
	root cid.Cid
	b    *store.Builder
}

func (v *saver) save(ctx context.Context, c cid.Cid, data []byte) (err error) {
	if v.b == nil {
		if v.b, err = v.st.NewBuilder(v.root); err != nil {
			return err
		}
	}
	if err := v.b.Add(c, data); err != nil {
		return err
	}
	if v.b.Bytes() >= fetchShardBytes {
		return v.flush(ctx)
	}
	return nil
}

// flush makes a shard of the blocks saved so far.
func (v *saver) flush(ctx context.Context) (err error) {
	if v.b == nil {
		return nil
	}
	b := v.b
	v.b = nil
	defer func() { err = errors.Join(err, b.Close()) }()
	in, err := b.Finish(ctx, v.root, -1)
	if err != nil {
		return err
	}
	return v.accept(ctx, in, nil)
}

func (v *saver) discard() error {
	if v.b == nil {
		return nil
	}
	return v.b.Close()
}

// open sends a request to a gateway and returns the body of its reply.
func (f *fetcher) open(ctx context.Context, target, accept string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		cancel(err)
		return nil, err
	}
	req.Header.Set("Accept", accept)
	res, err := f.client.Do(req)
	if err != nil {
		cancel(err)
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		err := fmt.Errorf("%s answered %s", target, res.Status)
		cancel(err)
		return nil, errors.Join(err, res.Body.Close())
	}
	return &patient{body: res.Body, cancel: cancel, idle: f.idle}, nil
}

// patient is a body that gives up when it stalls.
type patient struct {
	body   io.ReadCloser
	cancel context.CancelCauseFunc
	idle   time.Duration
}

// Read implements io.Reader.
func (p *patient) Read(b []byte) (int, error) {
	timer := time.AfterFunc(p.idle, func() { p.cancel(errors.New("the gateway stopped sending")) })
	defer timer.Stop()
	return p.body.Read(b)
}

// Close implements io.Closer.
func (p *patient) Close() error {
	p.cancel(context.Canceled)
	return p.body.Close()
}

// fetchCAR takes the wanted blocks from a CAR: the root, and blocks that a
// wanted block links to. It ignores others, so a gateway cannot fill the disk
// with them.
func (f *fetcher) fetchCAR(ctx context.Context, base string, root cid.Cid) (err error) {
	body, err := f.open(ctx, base+"/ipfs/"+root.String()+"?format=car&dag-scope=all", "application/vnd.ipld.car; order=dfs; dups=n")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	in, err := car.NewReader(body, car.ReaderOptions{})
	if err != nil {
		return err
	}
	out := &saver{intake: f.intake, root: root}
	defer func() { err = errors.Join(err, out.flush(context.WithoutCancel(ctx))) }()
	wanted := map[cid.Cid]bool{nodeOf(root): true}
	for {
		sec, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		k := nodeOf(sec.Cid)
		if !wanted[k] {
			continue // a repetition, or not wanted
		}
		delete(wanted, k)
		if err := usable(k, sec.Data); err != nil {
			return err
		}
		if err := eachChild(k, sec.Data, func(child cid.Cid) { wanted[child] = true }); err != nil {
			return err
		}
		if len(wanted) > maxWanted {
			return errors.New("the DAG has too many links to be streamed")
		}
		if err := out.save(ctx, sec.Cid, sec.Data); err != nil {
			return err
		}
	}
}

// nodeOf returns the normal form of a node's CID.
func nodeOf(c cid.Cid) cid.Cid { return cid.NewCidV1(c.Prefix().Codec, c.Hash()) }

// eachChild calls f for each block that c links to.
func eachChild(c cid.Cid, data []byte, f func(cid.Cid)) error {
	if !links.Possible(c.Prefix().Codec) {
		return nil
	}
	err := links.OfCodec(c.Prefix().Codec, data, func(child cid.Cid) error {
		f(nodeOf(child))
		return nil
	})
	if err != nil {
		return fmt.Errorf("block %s: %w", c, err)
	}
	return nil
}

// usable refuses blocks that an upload could not contain either.
func usable(c cid.Cid, data []byte) error {
	if len(data) > store.MaxBlockBytes {
		return fmt.Errorf("block %s is larger than %d bytes", c, store.MaxBlockBytes)
	}
	return store.CheckBlock(c, data)
}

// fetchBlocks walks the whole DAG and fetches the blocks that are not held. It
// keeps the pending links of the nodes on its path in memory.
func (f *fetcher) fetchBlocks(ctx context.Context, root cid.Cid) (err error) {
	out := &saver{intake: f.intake, root: root}
	defer func() {
		if err == nil || ctx.Err() == nil {
			err = errors.Join(err, out.flush(context.WithoutCancel(ctx)))
		} else {
			err = errors.Join(err, out.discard())
		}
	}()
	stack := []cid.Cid{nodeOf(root)}
	seen := make(map[cid.Cid]bool)
	for len(stack) > 0 {
		c := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if done, err := f.st.Complete(ctx, c); err != nil {
			return err
		} else if done || seen[c] {
			continue
		}
		if links.Possible(c.Prefix().Codec) {
			seen[c] = true
		}
		data, err := f.block(ctx, out, c)
		if err != nil {
			return err
		}
		if err := eachChild(c, data, func(child cid.Cid) { stack = append(stack, child) }); err != nil {
			return err
		}
	}
	return nil
}

// block returns a block. It fetches and saves the block if it is not held or is
// damaged.
func (f *fetcher) block(ctx context.Context, out *saver, c cid.Cid) ([]byte, error) {
	data, err := f.st.Block(ctx, c)
	if !errors.Is(err, store.ErrNotHeld) && !errors.Is(err, store.ErrDamaged) {
		return data, err
	}
	var failures []error
	for _, base := range f.from {
		data, err := f.get(ctx, base, c)
		if err == nil {
			return data, out.save(ctx, c, data)
		}
		failures = append(failures, err)
	}
	return nil, fmt.Errorf("no gateway has block %s: %w", c, errors.Join(failures...))
}

func (f *fetcher) get(ctx context.Context, base string, c cid.Cid) (data []byte, err error) {
	body, err := f.open(ctx, base+"/ipfs/"+c.String()+"?format=raw", "application/vnd.ipld.raw")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if data, err = io.ReadAll(io.LimitReader(body, store.MaxBlockBytes+1)); err != nil {
		return nil, err
	}
	return data, usable(c, data)
}
