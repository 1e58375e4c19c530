package store

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/ipfs/go-cid"
)

// Block returns a block after checking it against its CID. The error matches
// [ErrNotHeld] if no shard has it, and [ErrDamaged] if all copies are damaged
// or lost, so that it must be uploaded again. Copies that are found damaged are
// marked, and from then on count as not held.
func (st *Store) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, _, bad, err := st.readCopy(ctx, st.db.read, c, copiesQuery)
	st.report(ctx, bad)
	if errors.Is(err, ErrNotHeld) {
		return st.missed(ctx, c, err)
	}
	return data, err
}

// missed handles a block that is not in the index. If nodes rely on it, the
// index is wrong, and missed looks for the block in the shards.
func (st *Store) missed(ctx context.Context, c cid.Cid, notHeld error) ([]byte, error) {
	mh := []byte(c.Hash())
	needed, err := exists(ctx, st.db.read, `SELECT 1 FROM nodes WHERE mh = ? AND pending = -1 UNION ALL
		SELECT 1 FROM parents p JOIN nodes n ON n.id = p.parent WHERE p.child = ? AND n.pending = -1`, mh, childOf(string(mh)))
	if err != nil || !needed || st.db.write == nil {
		return nil, errors.Join(notHeld, err)
	}
	st.log.LogAttrs(ctx, slog.LevelError, "the index lacks a block that an upload needs", slog.String("block", c.String()))
	err = st.mark(context.WithoutCancel(ctx), func(x *indexer) error {
		return x.lose(func(l *loss) error { return l.takeHash(mh) })
	})
	if err != nil {
		return nil, err
	}
	found, err := st.search(ctx, c)
	if err != nil || !found {
		return nil, errors.Join(notHeld, err)
	}
	data, _, _, err := st.readCopy(ctx, st.db.read, c, copiesQuery)
	return data, err
}

// search looks for a block in all indexed shards. If a shard has it, search
// records that shard's blocks again.
func (st *Store) search(ctx context.Context, c cid.Cid) (bool, error) {
	all, err := st.shards(ctx)
	if err != nil {
		return false, err
	}
	for _, k := range all {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if found, err := st.contains(k.shard, c); err != nil || !found {
			continue // examine will report what is wrong with it
		}
		return true, st.mark(context.WithoutCancel(ctx), func(x *indexer) error {
			if there, err := x.has(k.shard); err != nil || !there {
				return err
			}
			return x.add(k.shard)
		})
	}
	return false, nil
}

// contains searches the framing of a shard file for a block.
func (st *Store) contains(sh shard, c cid.Cid) (bool, error) {
	f, err := os.Open(st.files.path(sh.cid))
	if err != nil {
		return false, err
	}
	defer f.Close()
	in, err := newSections(f, sh.payload, sh.end)
	for err == nil {
		var sec section
		if sec, err = in.next(); err == nil && sec.key.mh == string(c.Hash()) {
			return true, nil
		}
	}
	return false, err
}
