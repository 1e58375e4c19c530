package store

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/ipfs/go-cid"
)

// Block returns a block after checking that its bytes are what its CID says.
// The error matches [ErrNotHeld] if no shard has it, and [ErrDamaged] if all
// copies are damaged or lost: then it has to be uploaded again. Copies that are
// found damaged are marked, and count as not held from then on.
func (st *Store) Block(ctx context.Context, c cid.Cid) ([]byte, error) {
	data, _, bad, err := st.readCopy(ctx, st.db.read, c, copiesQuery)
	st.report(ctx, bad)
	if errors.Is(err, ErrNotHeld) {
		return st.missed(ctx, c, err)
	}
	return data, err
}

// missed is for a block that the index does not have. If nodes count on it that
// is the index's mistake: then it is looked for in the shards.
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

// search looks for a block in the shards that the index has, and makes the
// blocks of one that has it known again.
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
			continue // what is wrong with it is found by others
		}
		return true, st.mark(context.WithoutCancel(ctx), func(x *indexer) error { return x.add(k.shard) })
	}
	return false, nil
}

// contains goes through the framing of a shard file.
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
