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

// recoveredUser owns the uploads for which [Rebuild] finds no owner.
const recoveredUser = "recovered"

// Rebuild makes a new index from the shard files of a store, and hashes all of
// them. It is for a store whose index is lost or wrong. No process may have the
// store open. If there is an index, Rebuild keeps its users, keys and uploads.
// Shards without an upload go to the user "recovered", unless their upload was
// deleted. Damaged shards are reported and left in place, but not indexed.
// After an interrupted rebuild, [Open] refuses the store until another one
// succeeds.
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
	// There is no index to say which shards were acknowledged.
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
			// A file that cannot be read at the moment must not be forgotten.
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

// reindex adds a sound shard to the index.
func (st *Store) reindex(ctx context.Context, tx execer, owner int64, res *scanResult) error {
	now := st.now()
	sh := shard{cid: res.cid, payload: res.payload, end: res.payloadEnd, runs: res.runs}
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

// dropLost removes shards from the index that are not on disk, so that clients
// learn that they must upload them again.
func (st *Store) dropLost(ctx context.Context, tx execer, sound map[string]bool, r *FsckReport) error {
	var lost []int64
	err := eachRow(ctx, tx, `SELECT id, cid FROM shards`, nil, func(scan scanRow) error {
		var id int64
		var c cid.Cid
		err := scan(&id, (*cidColumn)(&c))
		if err == nil && !sound[c.KeyString()] {
			lost = append(lost, id)
			r.problem(c, "removed from the index: it is damaged or lost, and must be uploaded again")
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
