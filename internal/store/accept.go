package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
)

// Accept makes a received shard part of the store, and of an upload. Without an
// upload, the shard counts for all pins of its root. When Accept returns nil,
// the shard is durable and recorded. The error is a [QuotaError] if the caller
// has no room for it, and matches [ErrClosed] if the store was closed.
//
// A shard with very many blocks or links is indexed in several transactions, so
// that others need not wait. If the context ends between two of them, Accept
// gives up, and the next collection removes the shard. Once the whole shard is
// recorded, the end of the context no longer matters.
func (st *Store) Accept(ctx context.Context, in *Incoming, up *NewUpload) error {
	done, err := st.change()
	if err != nil {
		return err
	}
	defer done()
	if err := st.accept(ctx, in, up); err != nil {
		st.crowd(err)
		return fmt.Errorf("store shard %s: %w", in.shard.cid, err)
	}
	return nil
}

func (st *Store) accept(ctx context.Context, in *Incoming, up *NewUpload) error {
	defer st.accepting.lock(in.shard.cid)()
	st.commit.RLock()
	release := sync.OnceFunc(st.commit.RUnlock) // once the file has a row
	defer release()
	known := false
	err := in.publish()
	if err == nil {
		err = st.sliced(ctx, func(x *indexer) error {
			if in.small != nil {
				if err := st.journal.append(in.shard.cid, in.small); err != nil {
					return err
				}
			}
			return st.record(x, in, up)
		}, func() {
			known = true
			release()
		})
	}
	if err == nil || !in.done {
		return err
	}
	if known {
		_, left := st.db.exec(context.WithoutCancel(ctx), `UPDATE staging SET active = 0 WHERE shard = ?`, in.shard.id)
		return errors.Join(err, left)
	}
	// A commit that failed may still have taken effect. The index knows.
	if known, kerr := st.knows(context.WithoutCancel(ctx), in.shard.cid); kerr != nil {
		return errors.Join(err, kerr) // the next start will find out
	} else if !known {
		return errors.Join(err, st.files.remove(in.shard.cid))
	}
	return err
}

// record writes what a shard adds to the database.
func (st *Store) record(x *indexer, in *Incoming, up *NewUpload) error {
	var key sql.NullInt64
	if up != nil {
		if err := checkQuota(x.ctx, x.tx, up.Caller, demand{shard: in.shard.cid, bytes: in.Bytes, words: up.words()}); err != nil {
			return err
		}
		key = keyOrNull(up.Caller.KeyID)
	}
	id, fresh, err := recordShard(x.ctx, x.tx, in.shard, in.Bytes, st.now())
	if err != nil {
		return err
	}
	in.shard.id = id
	x.deferred = func(x *indexer) error {
		_, err := x.tx.ExecContext(x.ctx, `INSERT OR REPLACE INTO staging (shard, key_id, active) VALUES (?, ?, 1)`, id, key)
		return err
	}
	switch {
	case !fresh:
		err = x.again(in.shard)
	case in.small != nil:
		var s *sections
		if s, err = sectionsOf(in.small, in.shard.payload, in.shard.end); err == nil {
			err = x.addFrom(in.shard, s)
		}
	default:
		err = x.add(in.shard)
	}
	if err != nil {
		return err
	}
	if err := x.demandRoot(keyOf(in.Root)); err != nil {
		return err
	}
	// From here on, everything is in one transaction.
	if !fresh || x.yields > 0 {
		if _, err := x.tx.ExecContext(x.ctx, `DELETE FROM staging WHERE shard = ?`, id); err != nil {
			return err
		}
	}
	now := st.now()
	if up == nil {
		return recordFetched(x.ctx, x.tx, in, now)
	}
	uploadID, err := recordUpload(x.ctx, x.tx, in.Root, in.DAGSize, up, now)
	if err != nil {
		return err
	}
	_, err = x.tx.ExecContext(x.ctx, `INSERT INTO upload_shards (upload_id, shard_id, key_id) VALUES (?, ?, ?)
		ON CONFLICT (upload_id, shard_id) DO UPDATE SET key_id = excluded.key_id`, uploadID, id, key)
	if err != nil {
		return err
	}
	in.Upload, err = findUpload(x.ctx, x.tx, up.Caller.UserID, in.Root.String())
	return err
}

// finish completes what was interrupted when an earlier process ended. Shards
// that were being indexed become shards without an upload, which a collection
// removes. They are not undone, since others may already rely on their blocks.
// Shards that were being collected are left to the next collection.
func (st *Store) finish(ctx context.Context) error {
	left, err := rowsOf(ctx, st.db.read, stagedQuery+` WHERE g.active >= 0`, nil, scanShard)
	if err != nil {
		return fmt.Errorf("look up what was interrupted: %w", err)
	}
	for _, sh := range left {
		err := st.sliced(ctx, func(x *indexer) error { return x.complete(sh) }, nil)
		if err != nil {
			return fmt.Errorf("finish shard %s: %w", sh.cid, err)
		}
	}
	return st.sliced(ctx, (*indexer).settleAll, nil)
}

const stagedQuery = `SELECT s.id, s.cid, s.payload, s.payload_end FROM staging g JOIN shards s ON s.id = g.shard`

func scanShard(scan scanRow) (sh shard, err error) {
	err = scan(&sh.id, (*cidColumn)(&sh.cid), &sh.payload, &sh.end)
	return sh, err
}

// complete records the rest of a shard that is only partly recorded.
func (x *indexer) complete(sh shard) error {
	// A damaged shard is marked as such, or will be.
	if err := x.add(sh); err != nil && !isDamage(err) {
		return err
	}
	_, err := x.tx.ExecContext(x.ctx, `DELETE FROM staging WHERE shard = ?`, sh.id)
	return err
}

// recordFetched adds a shard to all pins of its root whose keys have room for
// it. The error is a [QuotaError] if there are pins, but none has room.
func recordFetched(ctx context.Context, tx execer, in *Incoming, now int64) error {
	content, err := recordContent(ctx, tx, in.Root, in.DAGSize, now)
	if err != nil {
		return err
	}
	type pin struct {
		id  int64
		key sql.NullInt64
		who Caller
	}
	pins, err := rowsOf(ctx, tx, `SELECT u.id, u.key_id, COALESCE(k.quota, 0) FROM uploads u LEFT JOIN keys k ON k.id = u.key_id
		WHERE u.content_cid = ? AND u.deleted IS NULL`, []any{content}, func(scan scanRow) (p pin, err error) {
		err = scan(&p.id, &p.key, &p.who.QuotaBytes)
		p.who.KeyID = p.key.Int64
		return p, err
	})
	if err != nil {
		return err
	}
	var full error
	given := 0
	for _, p := range pins {
		err := checkQuota(ctx, tx, &p.who, demand{shard: in.shard.cid, bytes: in.Bytes, pin: p.id})
		if quota := new(QuotaError); errors.As(err, &quota) {
			full = err
			continue
		}
		if err == nil {
			_, err = tx.ExecContext(ctx, `INSERT OR IGNORE INTO upload_shards (upload_id, shard_id, key_id) VALUES (?, ?, ?)`, p.id, in.shard.id, p.key)
		}
		if err != nil {
			return err
		}
		given++
	}
	if given > 0 {
		return nil
	}
	return full
}

func recordShard(ctx context.Context, tx execer, sh shard, size, now int64) (id int64, fresh bool, err error) {
	err = tx.QueryRowContext(ctx, `INSERT INTO shards (cid, size, payload, payload_end, created) VALUES (?, ?, ?, ?, ?) ON CONFLICT (cid) DO NOTHING RETURNING id`,
		sh.cid.Bytes(), size, sh.payload, sh.end, now).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, true, err
	}
	err = tx.QueryRowContext(ctx, `SELECT id FROM shards WHERE cid = ?`, sh.cid.Bytes()).Scan(&id)
	return id, false, err
}
