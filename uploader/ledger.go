package uploader

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/ipfs/go-cid"
)

// Ledger remembers which shards have receipts, so that an interrupted upload
// can go on. A shard is recorded only after its receipt was checked, and Record
// returns only when the record is durable: a ledger is never ahead of the
// service. A Ledger is safe for concurrent use. What Begin promises holds for
// all processes that use the same ledger.
type Ledger interface {
	// Begin claims a root at a target: until end is called, no other Begin for
	// the same root and target returns. If it has to wait, it calls waits once,
	// before it waits.
	// The key's limit and base do not matter.
	Begin(ctx context.Context, u UploadKey, waits func()) (end func(), err error)

	// Receipts returns the archives recorded for an upload, by shard index.
	Receipts(ctx context.Context, u UploadKey) (map[int]cid.Cid, error)
	// Record adds one archive.
	Record(ctx context.Context, u UploadKey, index int, archive cid.Cid) error
	// Finish marks an upload as verified and clears the suspects of its root.
	// It also records archives, by shard index, that Record was not called for;
	// nil for none. If the source is not empty, the upload becomes the last one
	// of that source. An implementation need not write again what it already
	// has.
	Finish(ctx context.Context, u UploadKey, archives map[int]cid.Cid, f Finished) error
	// Forget drops everything known of an upload, except for suspects.
	Forget(ctx context.Context, u UploadKey) error

	// Last returns the last finished upload of a source to a target. Its root
	// is undefined if there is none.
	Last(ctx context.Context, target, source string) (UploadKey, error)
	// Sources returns the sources whose last upload to the target has this
	// root.
	Sources(ctx context.Context, target string, root cid.Cid) ([]string, error)

	// Suspects returns the blocks of a root that verification found missing or
	// wrong at the target. They are sent again, even if the target claims to
	// hold them. The key's limit and base do not matter.
	Suspects(ctx context.Context, u UploadKey) ([]cid.Cid, error)
	// Suspect replaces the suspects of a root.
	Suspect(ctx context.Context, u UploadKey, blocks []cid.Cid) error

	// Description returns what SaveDescription kept under the key, or nil.
	Description(ctx context.Context, key string) ([]byte, error)
	// SaveDescription keeps the description of a source, so that it need not be
	// hashed again. An empty description drops what was kept.
	SaveDescription(ctx context.Context, key string, description []byte) error
}

// UploadKey identifies an upload. Uploads with equal keys have equal shards.
type UploadKey struct {
	Target        string
	Root          cid.Cid
	MaxShardBytes int64
	Base          cid.Cid // a DAG whose blocks are not sent; undefined for none
}

// Finished describes an upload that was verified.
type Finished struct {
	Source string // location of the input, see [Located]; empty if it has none
	Bytes  int64  // of payload
	Level  VerifyLevel
}

// ofRoot returns the key for all uploads of the root to the target.
func (u UploadKey) ofRoot() UploadKey { return UploadKey{Target: u.Target, Root: u.Root} }

// MemoryLedger is a [Ledger] in memory. The zero value is ready to use.
type MemoryLedger struct {
	mu           sync.Mutex
	receipts     map[UploadKey]map[int]cid.Cid
	suspects     map[UploadKey][]cid.Cid // by the key of the root
	descriptions map[string][]byte
	last         map[string]map[string]UploadKey // by target and source
	claims       map[UploadKey]chan struct{}     // by the key of the root; closed when the claim ends
}

// Begin implements [Ledger].
func (l *MemoryLedger) Begin(ctx context.Context, u UploadKey, waits func()) (end func(), err error) {
	u = u.ofRoot()
	for {
		l.mu.Lock()
		claimed, busy := l.claims[u]
		if !busy {
			if l.claims == nil {
				l.claims = map[UploadKey]chan struct{}{}
			}
			mine := make(chan struct{})
			l.claims[u] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.claims, u)
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		waits()
		waits = func() {}
		select {
		case <-claimed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Receipts implements [Ledger].
func (l *MemoryLedger) Receipts(_ context.Context, u UploadKey) (map[int]cid.Cid, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[int]cid.Cid, len(l.receipts[u]))
	maps.Copy(out, l.receipts[u])
	return out, nil
}

// Record implements [Ledger].
func (l *MemoryLedger) Record(_ context.Context, u UploadKey, index int, archive cid.Cid) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.record(u, index, archive)
	return nil
}

func (l *MemoryLedger) record(u UploadKey, index int, archive cid.Cid) {
	if l.receipts == nil {
		l.receipts = map[UploadKey]map[int]cid.Cid{}
	}
	if l.receipts[u] == nil {
		l.receipts[u] = map[int]cid.Cid{}
	}
	l.receipts[u][index] = archive
}

// Finish implements [Ledger].
func (l *MemoryLedger) Finish(_ context.Context, u UploadKey, archives map[int]cid.Cid, f Finished) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range archives {
		l.record(u, i, c)
	}
	if f.Source != "" {
		if l.last == nil {
			l.last = map[string]map[string]UploadKey{}
		}
		if l.last[u.Target] == nil {
			l.last[u.Target] = map[string]UploadKey{}
		}
		l.last[u.Target][f.Source] = u
	}
	delete(l.suspects, u.ofRoot())
	return nil
}

// Last implements [Ledger].
func (l *MemoryLedger) Last(_ context.Context, target, source string) (UploadKey, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[target][source], nil
}

// Sources implements [Ledger].
func (l *MemoryLedger) Sources(_ context.Context, target string, root cid.Cid) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for source, u := range l.last[target] {
		if u.Root.Equals(root) {
			list = append(list, source)
		}
	}
	slices.Sort(list)
	return list, nil
}

// Suspects implements [Ledger].
func (l *MemoryLedger) Suspects(_ context.Context, u UploadKey) ([]cid.Cid, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	u = u.ofRoot()
	return slices.Clone(l.suspects[u]), nil
}

// Suspect implements [Ledger].
func (l *MemoryLedger) Suspect(_ context.Context, u UploadKey, blocks []cid.Cid) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	u = u.ofRoot()
	if len(blocks) == 0 {
		delete(l.suspects, u)
		return nil
	}
	if l.suspects == nil {
		l.suspects = map[UploadKey][]cid.Cid{}
	}
	l.suspects[u] = slices.Clone(blocks)
	return nil
}

// Forget implements [Ledger].
func (l *MemoryLedger) Forget(_ context.Context, u UploadKey) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.receipts, u)
	return nil
}

// Description implements [Ledger].
func (l *MemoryLedger) Description(_ context.Context, key string) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.descriptions[key], nil
}

// SaveDescription implements [Ledger].
func (l *MemoryLedger) SaveDescription(_ context.Context, key string, description []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(description) == 0 {
		delete(l.descriptions, key)
		return nil
	}
	if l.descriptions == nil {
		l.descriptions = map[string][]byte{}
	}
	l.descriptions[key] = description
	return nil
}

// shortLedger is the ledger of an [Uploader] that was not given one. It keeps
// no descriptions: an Uploader hardly ever uploads anything twice, and a
// description takes 32 bytes for each block.
type shortLedger struct{ *MemoryLedger }

// SaveDescription implements [Ledger].
func (shortLedger) SaveDescription(context.Context, string, []byte) error { return nil }
