package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/internal/sha256mb"
)

// Batch says where some blocks are. It is not safe for concurrent use.
type Batch struct {
	st    *Store
	cids  []cid.Cid
	at    []location     // shard ID 0 for blocks that are not held
	found map[int][]byte // blocks that the index lacked but a shard had
	told  int            // the first block that the system was not asked to read ahead

	// Absent says why the first missing block is not held; nil if all are held.
	// It matches [ErrNotHeld] or [ErrDamaged].
	Absent error

	sums [][sha256mb.Size]byte
	msgs [][]byte
}

// Find looks up where blocks are, in one query. No CID may be an identity CID.
func (st *Store) Find(ctx context.Context, cids []cid.Cid) (*Batch, error) {
	b := &Batch{st: st, cids: cids, at: make([]location, len(cids))}
	index := make(map[string][]int, len(cids))
	var mhs []any
	for i, c := range cids {
		mh := string(c.Hash())
		if index[mh] == nil {
			mhs = append(mhs, []byte(mh))
		}
		index[mh] = append(index[mh], i)
	}
	shards := make(map[int64]cid.Cid)
	for part := range slices.Chunk(mhs, statementRows) {
		query := `SELECT b.mh, b.shard, s.cid, b.off, b.len FROM blocks b JOIN shards s ON s.id = b.shard WHERE b.mh IN (` +
			marks(len(part)) + `) ORDER BY b.mh, b.shard`
		err := eachRow(ctx, st.db.read, query, part, func(scan scanRow) error {
			var mh, shard []byte
			var l location
			if err := scan(&mh, &l.id, &shard, &l.off, &l.len); err != nil {
				return err
			}
			places := index[string(mh)]
			if len(places) == 0 || b.at[places[0]].id != 0 {
				return nil // another copy of the same block
			}
			var ok bool
			if l.shard, ok = shards[l.id]; !ok {
				var err error
				if l.shard, err = cid.Cast(shard); err != nil {
					return fmt.Errorf("CID of a shard in the index: %w", err)
				}
				shards[l.id] = l.shard
			}
			for _, i := range places {
				b.at[i] = l
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("look up %d blocks: %w", len(cids), err)
		}
	}
	i := slices.IndexFunc(b.at, func(l location) bool { return l.id == 0 })
	if i < 0 {
		return b, nil
	}
	// The index may be wrong. In that case, Block mends it.
	switch data, err := st.Block(ctx, cids[i]); {
	case err == nil:
		b.found = map[int][]byte{i: data}
	case errors.Is(err, ErrNotHeld), errors.Is(err, ErrDamaged):
		b.Absent = err
	default:
		return nil, err
	}
	return b, nil
}

// Size returns the length of block i, or -1 if it is not held.
func (b *Batch) Size(i int) int {
	if data, ok := b.found[i]; ok {
		return len(data)
	}
	if b.at[i].id == 0 {
		return -1
	}
	return b.at[i].len
}

// Read reads the blocks from i up to j, all of which are held, into buf one
// after the other, and hashes them. If the first copy of a block is damaged, it
// reads another one. It returns how many blocks were right before the first
// that is not, and for that one an error like that of [Store.Block].
func (b *Batch) Read(ctx context.Context, i, j int, buf []byte) (int, error) {
	if j < len(b.at) || j-i > 1 {
		b.readAhead(i, j)
	}
	b.msgs = b.msgs[:0]
	failed := make(map[int]bool)
	var open *openFile
	defer func() {
		if open != nil {
			b.st.files.open.put(open)
		}
	}()
	for k := i; k < j; k++ {
		if err := context.Cause(ctx); err != nil {
			return 0, err
		}
		p := buf[:b.Size(k)]
		buf = buf[len(p):]
		b.msgs = append(b.msgs, p)
		l := b.at[k]
		if data, ok := b.found[k]; ok {
			copy(p, data)
			continue
		}
		if open != nil && (k == i || b.at[k-1].id != l.id) {
			b.st.files.open.put(open)
			open = nil
		}
		if open == nil {
			var err error
			if open, err = b.st.files.open.get(l.shard, b.st.files.path(l.shard)); err != nil {
				failed[k] = true
				continue
			}
		}
		if _, err := open.f.ReadAt(p, l.off); err != nil {
			failed[k] = true
		}
	}
	b.hash()
	for k := i; k < j; k++ {
		p := b.msgs[k-i]
		if !failed[k] && matches(b.cids[k], p, b.sums[k-i][:]) == nil {
			continue
		}
		// Block finds out what is wrong with this one, and records it.
		if err := b.st.files.open.drop(b.at[k].shard); err != nil {
			return k - i, err
		}
		data, err := b.st.Block(ctx, b.cids[k])
		if err == nil && len(data) != len(p) {
			err = fmt.Errorf("block %s has %d bytes in one copy and %d in another: %w", b.cids[k], len(data), len(p), ErrDamaged)
		}
		if err != nil {
			return k - i, err
		}
		copy(p, data)
	}
	return j - i, nil
}

// How far ahead the disk reads, and how much it is asked for at once. Smaller
// pieces are left to the system.
const (
	aheadBytes = 16 << 20
	askBytes   = 4 << 20
	leastAsked = 128 << 10
)

// readAhead asks the system to read the blocks from i up to j and those after
// them, so that the disk is busy while blocks are hashed and sent.
func (b *Batch) readAhead(i, j int) {
	ahead := 0 // bytes after block j that were asked for
	for k := j; k < b.told; k++ {
		ahead += b.at[k].len
	}
	for k := max(b.told, i); k < len(b.at) && ahead < aheadBytes; {
		l := b.at[k]
		from, to := l.off, l.off+int64(l.len)
		n := 1
		for ; k+n < len(b.at) && to-from < askBytes; n++ {
			next := b.at[k+n]
			if next.id != l.id || next.off < to || next.off > to+framing {
				break
			}
			to = next.off + int64(next.len)
		}
		if k += n; k > j {
			ahead += int(to - from)
		}
		if to-from >= leastAsked {
			b.ask(l, from, to)
		}
		b.told = k
	}
}

// framing is the most that lies between adjacent blocks: the length and a CID
// of the usual kind.
const framing = 64

func (b *Batch) ask(l location, from, to int64) {
	open, err := b.st.files.open.get(l.shard, b.st.files.path(l.shard))
	if err != nil {
		return // reading will report the error
	}
	defer b.st.files.open.put(open)
	durable.ReadAhead(open.f, from, to)
}

// hash computes the SHA-256 of everything that was read, in parallel lanes.
func (b *Batch) hash() {
	b.sums = slices.Grow(b.sums[:0], len(b.msgs))[:len(b.msgs)]
	sha256mb.Sum(b.sums, b.msgs)
}
