package unpack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
)

// Getter fetches blocks, for example from a service or from a set of archives.
// It must be safe for concurrent use. It need not check what it fetches.
type Getter interface {
	// Get returns the payload of a block, in buf if it fits. If there is no
	// such block, the error matches [ErrMissing].
	Get(ctx context.Context, c cid.Cid, buf []byte) ([]byte, error)
}

// VerifyOptions configure [Verify].
type VerifyOptions struct {
	Workers int           // concurrent fetches; 0 means one per core
	Checked *atomic.Int64 // if not nil, counts the bytes of blocks that were right
}

// Verified is the result of [Verify].
type Verified struct {
	Blocks int64 // distinct blocks that were right
	Bytes  int64 // their total size
	Faults []Fault
	Count  int64 // of all faults; Faults has the first of them
}

// Fault is a block that is missing or wrong.
type Fault struct {
	Cid    cid.Cid
	Parent cid.Cid // the block that links to it; undefined for the root
	Err    error   // matches ErrMissing, car.ErrCorrupt or links.ErrInvalid
}

func (f Fault) Error() string {
	if !f.Parent.Defined() {
		return fmt.Sprintf("block %s: %v", f.Cid, f.Err)
	}
	return fmt.Sprintf("block %s, linked by %s: %v", f.Cid, f.Parent, f.Err)
}

// Unwrap returns Err.
func (f Fault) Unwrap() error { return f.Err }

const (
	maxFaults   = 1000
	verifyBatch = 4 // leaves that a worker hashes together
)

// Verify fetches every block of the DAG under root once and hashes it. It goes
// on past blocks that are missing or wrong. It needs some 60 bytes of memory
// per block, plus the payloads being fetched. It returns an error if the
// context ends, or if the getter fails with an error that is not about a block.
func Verify(ctx context.Context, root cid.Cid, g Getter, opts VerifyOptions) (Verified, error) {
	if opts.Workers <= 0 {
		opts.Workers = runtime.GOMAXPROCS(0)
	}
	if opts.Checked == nil {
		opts.Checked = new(atomic.Int64)
	}
	v := &verifier{getter: g, opts: opts, seen: make(map[nodeKey]struct{})}
	v.changed.L = &v.mu
	if data, ok := links.Identity(root); ok {
		children, err := linksOf(root, data)
		if err != nil {
			return Verified{Count: 1, Faults: []Fault{{root, cid.Undef, err}}}, nil
		}
		v.result.Blocks, v.result.Bytes = 1, int64(len(data))
		for _, c := range slices.Backward(children) {
			v.add(c, root)
		}
	} else {
		v.add(root, cid.Undef)
	}
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.stopped = true
		v.changed.Broadcast()
	})
	defer stop()
	for range opts.Workers {
		group.Go(func() error { return v.work(ctx) })
	}
	err := group.Wait()
	return v.result, err
}

// VerifyIndex is [Verify] for the blocks of indexed archives.
func VerifyIndex(ctx context.Context, x *car.Index, root cid.Cid, opts VerifyOptions) (Verified, error) {
	g := &indexGetter{index: x}
	v, err := Verify(ctx, root, g, opts)
	return v, errors.Join(err, g.close())
}

// indexGetter reads blocks from archives.
type indexGetter struct {
	index *car.Index
	mu    sync.Mutex
	idle  []*car.Loader // guarded by mu; at most one per worker
}

func (g *indexGetter) Get(_ context.Context, c cid.Cid, buf []byte) ([]byte, error) {
	b, ok := g.index.Find(c)
	if !ok {
		return nil, ErrMissing
	}
	l := g.take()
	defer g.put(l)
	return l.Read(b, buf)
}

func (g *indexGetter) take() *car.Loader {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.idle); n > 0 {
		l := g.idle[n-1]
		g.idle = g.idle[:n-1]
		return l
	}
	return new(car.Loader)
}

func (g *indexGetter) put(l *car.Loader) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.idle = append(g.idle, l)
}

func (g *indexGetter) close() error {
	var err error
	for _, l := range g.idle {
		err = errors.Join(err, l.Close())
	}
	return err
}

// verifier is the state of a walk by several goroutines. They take the links
// that were found last first, to keep the list of pending links short.
type verifier struct {
	getter Getter
	opts   VerifyOptions

	mu      sync.Mutex
	changed sync.Cond // uses mu; signals that there is more to do, or that no more will come
	pending []pendingLink
	active  int // workers that may still find links
	stopped bool
	seen    map[nodeKey]struct{}
	result  Verified
}

type pendingLink struct{ cid, parent cid.Cid }

// nodeKey identifies a node.
type nodeKey struct {
	digest [32]byte
	codec  uint64 // complemented if digest is the hash of the multihash
}

func keyOf(c cid.Cid) nodeKey {
	k := nodeKey{codec: c.Prefix().Codec}
	mh := c.Hash()
	if len(mh) == 34 && mh[0] == multihash.SHA2_256 {
		k.digest = [32]byte(mh[2:])
	} else {
		k.digest, k.codec = sha256.Sum256(mh), ^k.codec
	}
	return k
}

// add records a link, unless its block was found before. The caller holds the
// lock, or there are no workers yet.
func (v *verifier) add(c, parent cid.Cid) {
	k := keyOf(c)
	if _, ok := v.seen[k]; ok {
		return
	}
	v.seen[k] = struct{}{}
	v.pending = append(v.pending, pendingLink{c, parent})
}

// take waits for something to do: one block that can have links, or several
// that can't. It returns nothing when everything is done.
func (v *verifier) take(into []pendingLink) []pendingLink {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.pending) == 0 && v.active > 0 && !v.stopped {
		v.changed.Wait()
	}
	if v.stopped {
		return nil
	}
	for len(v.pending) > 0 && len(into) < verifyBatch {
		next := v.pending[len(v.pending)-1]
		leaf := !links.Possible(next.cid.Prefix().Codec)
		if !leaf && len(into) > 0 {
			break
		}
		v.pending = v.pending[:len(v.pending)-1]
		into = append(into, next)
		if !leaf {
			break
		}
	}
	if len(into) > 0 {
		v.active++
	}
	return into
}

// done reports the result of a worker's blocks, and the links that it found in
// them.
func (v *verifier) done(blocks, bytes int64, faults []Fault, found []cid.Cid, parent cid.Cid) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.active--
	v.result.Blocks += blocks
	v.result.Bytes += bytes
	v.result.Count += int64(len(faults))
	v.result.Faults = append(v.result.Faults, faults[:min(len(faults), maxFaults-len(v.result.Faults))]...)
	for i := len(found) - 1; i >= 0; i-- {
		v.add(found[i], parent)
	}
	v.changed.Broadcast()
}

func (v *verifier) work(ctx context.Context) error {
	var (
		todo     []pendingLink
		bufs     [verifyBatch][]byte
		cids     []cid.Cid
		payloads [][]byte
	)
	for {
		if todo = v.take(todo[:0]); len(todo) == 0 {
			return context.Cause(ctx)
		}
		var faults []Fault
		cids, payloads = cids[:0], payloads[:0]
		var good []pendingLink
		for i, l := range todo {
			p, err := v.getter.Get(ctx, l.cid, bufs[i])
			switch {
			case err == nil:
				bufs[i] = p
				good, cids, payloads = append(good, l), append(cids, l.cid), append(payloads, p)
			case errors.Is(err, ErrMissing), errors.Is(err, car.ErrCorrupt):
				faults = append(faults, Fault{l.cid, l.parent, err})
			default:
				v.done(0, 0, nil, nil, cid.Undef)
				return fmt.Errorf("fetch block %s: %w", l.cid, err)
			}
		}
		var blocks, bytes int64
		var found []cid.Cid
		for len(cids) > 0 {
			bad, err := car.Mismatch(cids, payloads)
			n := bad
			if bad < 0 {
				n = len(cids)
			}
			for i := range n {
				links, err := linksOf(cids[i], payloads[i])
				if err != nil {
					faults = append(faults, Fault{cids[i], good[i].parent, err})
					continue
				}
				found = append(found, links...)
				blocks++
				bytes += int64(len(payloads[i]))
			}
			if bad < 0 {
				break
			}
			if err == nil {
				err = car.ErrCorrupt
			}
			faults = append(faults, Fault{cids[bad], good[bad].parent, err})
			cids, payloads, good = cids[bad+1:], payloads[bad+1:], good[bad+1:]
		}
		v.opts.Checked.Add(bytes)
		v.done(blocks, bytes, faults, found, todo[0].cid)
	}
}

func linksOf(c cid.Cid, data []byte) ([]cid.Cid, error) {
	var out []cid.Cid
	err := links.Each(c, data, func(l cid.Cid) error {
		out = append(out, l)
		return nil
	})
	return out, err
}
