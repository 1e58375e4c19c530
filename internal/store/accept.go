package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
)

// Accept makes a received shard part of the store, and of an upload. Without an
// upload the shard is for all that pin its root. When it returns without an
// error, the shard is durable and counted. The error is a [QuotaError] if the
// caller has no room for it, and matches [ErrClosed] if the store was closed.
func (st *Store) Accept(ctx context.Context, in *Incoming, up *NewUpload) error {
	// From here on a client that hangs up changes nothing.
	ctx = context.WithoutCancel(ctx)
	done, err := st.change()
	if err != nil {
		return err
	}
	defer done()
	st.commit.Lock()
	defer st.commit.Unlock()
	err = in.publish()
	if err == nil {
		err = st.db.update(ctx, func(tx *sql.Tx) error {
			if up != nil {
				if err := checkQuota(ctx, tx, up.Caller, in.Bytes, in.shard.cid); err != nil {
					return err
				}
			}
			return st.record(ctx, tx, in, up)
		})
	}
	if err != nil && in.done {
		// A commit that failed may have taken place: the index says.
		if known, kerr := st.knows(ctx, in.shard.cid); kerr != nil {
			err = errors.Join(err, kerr) // the next start decides
		} else if !known {
			err = errors.Join(err, st.files.remove(in.shard.cid))
		}
	}
	if err != nil {
		return fmt.Errorf("store shard %s: %w", in.shard.cid, err)
	}
	return nil
}

// record writes what a shard adds to the database.
func (st *Store) record(ctx context.Context, tx *sql.Tx, in *Incoming, up *NewUpload) error {
	now := st.now()
	id, fresh, err := recordShard(ctx, tx, in.shard, in.Bytes, now)
	if err != nil {
		return err
	}
	x := newIndexer(ctx, st, tx)
	in.shard.id = id
	if fresh {
		err = x.add(in.shard)
	} else {
		err = x.again(in.shard)
	}
	if err != nil {
		return err
	}
	if err := x.demandRoot(keyOf(in.Root)); err != nil {
		return err
	}
	if up == nil {
		return recordFetched(ctx, tx, in.Root, id, now)
	}
	uploadID, err := recordUpload(ctx, tx, in.Root, in.DAGSize, up, now)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO upload_shards (upload_id, shard_id, key_id) VALUES (?, ?, ?)
		ON CONFLICT (upload_id, shard_id) DO UPDATE SET key_id = excluded.key_id`, uploadID, id, keyOrNull(up.Caller.KeyID))
	return err
}

// recordFetched gives a shard to all pins of its root.
func recordFetched(ctx context.Context, tx *sql.Tx, root cid.Cid, shardID, now int64) error {
	content, err := recordContent(ctx, tx, root, -1, now)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT OR IGNORE INTO upload_shards (upload_id, shard_id, key_id)
		SELECT id, ?, key_id FROM uploads WHERE content_cid = ? AND deleted IS NULL`, shardID, content)
	return err
}

func recordShard(ctx context.Context, tx *sql.Tx, sh shard, size, now int64) (id int64, fresh bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id FROM shards WHERE cid = ?`, sh.cid.Bytes()).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, false, err
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO shards (cid, size, payload, payload_end, created) VALUES (?, ?, ?, ?, ?)`,
		sh.cid.Bytes(), size, sh.payload, sh.end, now)
	if err != nil {
		return 0, false, err
	}
	id, err = res.LastInsertId()
	return id, true, err
}

// CheckQuota returns a [QuotaError] if a caller has no room for a shard of this
// size. It may be one that counts already if it has the size of one.
func (st *Store) CheckQuota(ctx context.Context, who *Caller, size int64) error {
	return checkQuota(ctx, st.db.read, who, size, cid.Undef)
}

// checkQuota is CheckQuota for a shard whose CID may be known. One that counts
// already needs no room.
func checkQuota(ctx context.Context, q querier, who *Caller, size int64, shardCID cid.Cid) error {
	if who.QuotaBytes == 0 {
		return nil
	}
	same, this := `size = ?`, any(size)
	if shardCID.Defined() {
		same, this = `cid = ?`, shardCID.Bytes()
	}
	var used int64
	var counts bool
	err := q.QueryRowContext(ctx, `SELECT COALESCE(sum(size), 0), COALESCE(max(`+same+`), 0) FROM shards WHERE id IN
		(SELECT us.shard_id FROM upload_shards us JOIN uploads u ON u.id = us.upload_id WHERE us.key_id = ? AND u.deleted IS NULL)`,
		this, who.KeyID).Scan(&used, &counts)
	if err != nil {
		return fmt.Errorf("add up quota: %w", err)
	}
	if !counts && used+size > who.QuotaBytes {
		return &QuotaError{Quota: who.QuotaBytes, Used: used}
	}
	return nil
}
