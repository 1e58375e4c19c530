package service

import (
	"context"
	"database/sql"
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
)

const (
	fetchWorkers = 2
	// fetchShardBytes is when blocks that were fetched become a shard, so
	// that what was fetched is not lost with the rest.
	fetchShardBytes = 32 << 20
	fetchRetryAfter = time.Minute
	// maxWanted bounds the links of a DAG that are kept in memory while its
	// blocks stream in. A DAG with more is fetched block by block.
	maxWanted = 1 << 18
)

// fetcher gets content that is pinned but not held from other gateways. Its
// goroutines end with stop.
type fetcher struct {
	s      *Service
	client *http.Client
	from   []string
	wake   chan struct{}
	cancel context.CancelFunc
	group  *errgroup.Group
}

func (s *Service) startFetcher(ctx context.Context) (*fetcher, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // fetches outlive the call
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = s.opts.IdleTimeout
	f := &fetcher{
		s: s, client: &http.Client{Transport: transport}, wake: make(chan struct{}, fetchWorkers), // one token each
		cancel: cancel, group: new(errgroup.Group),
	}
	for _, base := range s.opts.FetchFrom {
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" {
			cancel()
			return nil, fmt.Errorf("fetch from %q: not an HTTP URL", base)
		}
		f.from = append(f.from, strings.TrimSuffix(base, "/"))
	}
	// What was being fetched when a process ended is fetched on.
	if _, err := s.st.write.ExecContext(ctx, `UPDATE fetches SET state = 'queued' WHERE state = 'pinning'`); err != nil {
		cancel()
		return nil, fmt.Errorf("resume fetches: %w", err)
	}
	if len(f.from) > 0 {
		for range fetchWorkers {
			f.group.Go(func() error { f.work(ctx); return nil })
		}
	}
	return f, nil
}

// stop ends all fetches. They go on when the store is opened again.
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

// requestFetch queues a fetch of content that is not held.
func (s *Service) requestFetch(ctx context.Context, tx *sql.Tx, root nodeKey) error {
	done, err := complete(ctx, tx, root)
	if err != nil || done {
		return err
	}
	state, reason := "queued", ""
	if len(s.opts.FetchFrom) == 0 {
		state, reason = "failed", "the content is not held, and the service has no gateway to fetch it from"
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO fetches (content_cid, state, reason) VALUES (?, ?, ?)
		ON CONFLICT (content_cid) DO UPDATE SET state = excluded.state, reason = excluded.reason, attempts = 0
		WHERE state IN ('failed', 'done')`, root.cid().String(), state, reason)
	return err
}

func (f *fetcher) work(ctx context.Context) {
	for {
		content, err := f.next(ctx)
		if err == nil && content != "" {
			err = f.run(ctx, content)
			if err == nil {
				continue
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			f.s.log.LogAttrs(ctx, slog.LevelError, "fetch", slog.String("cid", content), slog.Any("error", err))
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

// next takes a fetch off the queue; an empty name means there is none.
func (f *fetcher) next(ctx context.Context) (content string, err error) {
	err = f.s.st.write.QueryRowContext(ctx, `UPDATE fetches SET state = 'pinning', attempts = attempts + 1
		WHERE content_cid = (SELECT content_cid FROM fetches WHERE state = 'queued' LIMIT 1) RETURNING content_cid`).Scan(&content)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return content, err
}

// run fetches a content and writes down how it ended.
func (f *fetcher) run(ctx context.Context, content string) error {
	root, err := cid.Decode(content)
	if err != nil {
		return fmt.Errorf("content %q in the index: %w", content, err)
	}
	err = f.fetch(ctx, root)
	state, reason := "done", ""
	switch {
	case ctx.Err() != nil:
		state = "queued"
	case err != nil:
		state, reason = "failed", err.Error()
	}
	_, dbErr := f.s.st.write.ExecContext(context.WithoutCancel(ctx),
		`UPDATE fetches SET state = ?, reason = ? WHERE content_cid = ?`, state, reason, content)
	return dbErr
}

// fetch gets what is missing of a DAG: first as one CAR from each gateway in
// turn, which is fast, then block by block, which goes on where that broke off.
func (f *fetcher) fetch(ctx context.Context, root cid.Cid) error {
	for _, base := range f.from {
		if err := f.fetchCAR(ctx, base, root); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			f.s.log.LogAttrs(ctx, slog.LevelInfo, "fetch as CAR", slog.String("from", base), slog.Any("cid", root), slog.Any("error", err))
		}
		if done, err := complete(ctx, f.s.st.read, keyOf(root)); err != nil || done {
			return err
		}
	}
	return f.fetchBlocks(ctx, root)
}

// saver collects fetched blocks in shards.
type saver struct {
	s    *Service
	root cid.Cid
	b    *builder
}

func (v *saver) save(ctx context.Context, c cid.Cid, data []byte) error {
	if v.b == nil {
		b, err := v.s.st.newBuilderFor(v.root)
		if err != nil {
			return err
		}
		v.b = b
	}
	if err := v.b.write(c, data); err != nil {
		return err
	}
	if v.b.off >= fetchShardBytes {
		return v.flush(ctx)
	}
	return nil
}

// flush makes a shard of what was saved.
func (v *saver) flush(ctx context.Context) (err error) {
	if v.b == nil {
		return nil
	}
	b := v.b
	v.b = nil
	defer func() { err = errors.Join(err, b.file.remove()) }()
	sub, err := b.finish(ctx, v.root, -1)
	if err != nil {
		return err
	}
	sub.kind = typeFetched
	return v.s.accept(ctx, sub)
}

func (v *saver) discard() error {
	if v.b == nil {
		return nil
	}
	return v.b.file.remove()
}

// open asks a gateway for something and returns the body of its answer.
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
	return &patient{body: res.Body, cancel: cancel, idle: f.s.opts.IdleTimeout}, nil
}

// patient gives up on a body that stands still.
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

// fetchCAR takes the blocks of a CAR as long as they are wanted: the root, and
// what a wanted block links to. So a gateway cannot fill the disk with others.
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
	out := &saver{s: f.s, root: root}
	defer func() { err = errors.Join(err, out.flush(context.WithoutCancel(ctx))) }()
	wanted := map[nodeKey]bool{keyOf(root): true}
	for {
		sec, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		k := keyOf(sec.Cid)
		if !wanted[k] {
			continue // repeated, or not ours
		}
		delete(wanted, k)
		if err := f.usable(k, sec.Data); err != nil {
			return err
		}
		if hasLinks(k.codec) {
			children, err := links(k.codec, sec.Data)
			if err != nil {
				return err
			}
			for _, child := range children {
				wanted[child] = true
			}
			if len(wanted) > maxWanted {
				return errors.New("the DAG has too many links to stream it")
			}
		}
		if err := out.save(ctx, sec.Cid, sec.Data); err != nil {
			return err
		}
	}
}

// usable refuses blocks that an upload could not have either.
func (f *fetcher) usable(k nodeKey, data []byte) error {
	if len(data) > maxBlockBytes {
		return fmt.Errorf("block %s is larger than %d bytes", k.cid(), maxBlockBytes)
	}
	return checkBlock(k.cid(), data)
}

// fetchBlocks walks the DAG, over what is held and what is not, and fetches
// the latter. It holds the links of the nodes above the current one.
func (f *fetcher) fetchBlocks(ctx context.Context, root cid.Cid) (err error) {
	out := &saver{s: f.s, root: root}
	defer func() {
		if err == nil || ctx.Err() == nil {
			err = errors.Join(err, out.flush(context.WithoutCancel(ctx)))
		} else {
			err = errors.Join(err, out.discard())
		}
	}()
	stack := []nodeKey{keyOf(root)}
	seen := make(map[nodeKey]bool)
	for len(stack) > 0 {
		k := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if done, err := complete(ctx, f.s.st.read, k); err != nil {
			return err
		} else if done || seen[k] {
			continue
		}
		if hasLinks(k.codec) {
			seen[k] = true
		}
		data, err := f.block(ctx, out, k)
		if err != nil {
			return err
		}
		children, err := links(k.codec, data)
		if hasLinks(k.codec) && err != nil {
			return fmt.Errorf("block %s: %w", k.cid(), err)
		}
		stack = append(stack, children...)
	}
	return nil
}

// block returns a block that is held and sound, or fetches and saves it.
func (f *fetcher) block(ctx context.Context, out *saver, k nodeKey) ([]byte, error) {
	data, err := f.s.st.readBlock(ctx, f.s.st.read, k.cid())
	if !errors.Is(err, errNotHeld) && !errors.Is(err, errDamaged) {
		return data, err
	}
	var failures []error
	for _, base := range f.from {
		data, err := f.get(ctx, base, k)
		if err == nil {
			return data, out.save(ctx, k.cid(), data)
		}
		failures = append(failures, err)
	}
	return nil, fmt.Errorf("no gateway has block %s: %w", k.cid(), errors.Join(failures...))
}

func (f *fetcher) get(ctx context.Context, base string, k nodeKey) (data []byte, err error) {
	body, err := f.open(ctx, base+"/ipfs/"+k.cid().String()+"?format=raw", "application/vnd.ipld.raw")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if data, err = io.ReadAll(io.LimitReader(body, maxBlockBytes+1)); err != nil {
		return nil, err
	}
	return data, f.usable(k, data)
}
