package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/ipfs/go-cid"
)

// recoveredUser owns the uploads that [Rebuild] finds nobody to own.
const recoveredUser = "recovered"

// Rebuild makes the index of a store anew from its shard files, each of which
// is hashed again. It is for a store whose index is lost or wrong, and that no
// process has open. Users, keys and uploads are kept if there is an index to
// keep them from. Shards that no upload has, and nobody deleted, go to the user
// "recovered". Damaged shards are reported, left where they are and not
// indexed. After a rebuild that was interrupted [Open] refuses the store until
// another one comes to its end.
func Rebuild(ctx context.Context, dir string) (_ *FsckReport, err error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("rebuild index: %w", err)
	}
	st, err := open(ctx, Options{Dir: dir}, true)
	if err != nil {
		return nil, fmt.Errorf("rebuild index: %w", err)
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	r := new(FsckReport)
	// There is no index to ask which shards were acknowledged.
	if err := st.journal.replay(ctx, func(context.Context, cid.Cid) (bool, error) { return true, nil }); err != nil {
		return nil, fmt.Errorf("rebuild index: %w", err)
	}
	if err := st.rebuild(ctx, r); err != nil {
		return nil, fmt.Errorf("rebuild index: %w", err)
	}
	return r, nil
}

func (st *Store) rebuild(ctx context.Context, r *FsckReport) error {
	now := st.now()
	var owner int64
	err := st.db.update(ctx, func(tx *tx) error {
		for _, q := range []string{`DELETE FROM blocks`, `DELETE FROM nodes`, `DELETE FROM waiting`, `DELETE FROM parents`, `DELETE FROM damage`, `DELETE FROM staging`} {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
		var err error
		owner, _, err = ensureUser(ctx, tx, recoveredUser, now)
		return err
	})
	if err != nil {
		return err
	}
	sound := make(map[string]bool)
	err = st.files.each(func(c cid.Cid, _ string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		res, f, err := st.rescan(ctx, c, nil)
		if f != nil {
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// What cannot be read today is not forgotten for that.
			var path *fs.PathError
			if errors.As(err, &path) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EIO) {
				return err
			}
			r.problem(c, "%v", err)
			return nil
		}
		r.Shards++
		r.Bytes += res.size
		r.Blocks += int64(res.blocks)
		sound[c.KeyString()] = true
		return st.db.update(ctx, func(tx *tx) error { return st.reindex(ctx, tx, owner, res) })
	})
	if err != nil {
		return err
	}
	return st.db.update(ctx, func(tx *tx) error {
		if err := st.dropLost(ctx, tx, sound, r); err != nil {
			return err
		}
		return unset(ctx, tx, settingRebuilding)
	})
}

// reindex makes a sound shard known again.
func (st *Store) reindex(ctx context.Context, tx execer, owner int64, res *scanResult) error {
	now := st.now()
	sh := shard{cid: res.cid, payload: res.payload, end: res.payloadEnd}
	id, fresh, err := recordShard(ctx, tx, sh, res.size, now)
	if err != nil {
		return err
	}
	sh.id = id
	x := newIndexer(ctx, st, tx)
	if err := x.add(sh); err != nil {
		return err
	}
	if !fresh {
		return nil
	}
	name := "Recovered upload"
	uploadID, err := recordUpload(ctx, tx, res.root, max(res.facts.size, -1),
		&NewUpload{Caller: &Caller{UserID: owner}, Kind: KindCAR, Mime: "application/car", Name: &name}, now)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT OR IGNORE INTO upload_shards (upload_id, shard_id) VALUES (?, ?)`, uploadID, id)
	return err
}

// dropLost forgets shards that are in the index and not on disk, so that
// clients are told to send them again.
func (st *Store) dropLost(ctx context.Context, tx execer, sound map[string]bool, r *FsckReport) error {
	var lost []int64
	err := eachRow(ctx, tx, `SELECT id, cid FROM shards`, nil, func(scan scanRow) error {
		var id int64
		var c cid.Cid
		err := scan(&id, (*cidColumn)(&c))
		if err == nil && !sound[c.KeyString()] {
			lost = append(lost, id)
			r.problem(c, "forgotten: it is damaged or lost, and has to be uploaded again")
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, id := range lost {
		for _, q := range []string{`DELETE FROM upload_shards WHERE shard_id = ?`, `DELETE FROM shards WHERE id = ?`} {
			if _, err := tx.ExecContext(ctx, q, id); err != nil {
				return err
			}
		}
	}
	return nil
}
