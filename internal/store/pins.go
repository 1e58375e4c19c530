package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
)

// Pin registers an upload without blocks, and queues a fetch of what is not
// held of it. If instead is not empty, it replaces the user's upload of that
// name. If obstacle is not empty, the fetch fails at once, with the obstacle as
// its reason. The error is a [QuotaError] if the caller has no room for what is
// held already.
func (st *Store) Pin(ctx context.Context, root cid.Cid, up *NewUpload, instead, obstacle string) error {
	err := st.sliced(ctx, func(x *indexer) error {
		// Do what takes time first, so that the rest is in one transaction.
		if err := x.demandRoot(keyOf(root)); err != nil {
			return err
		}
		tx, now := x.tx, st.now()
		size, err := x.sizeOf(root)
		if err != nil {
			return err
		}
		if err := checkQuota(ctx, tx, up.Caller, demand{bytes: min(max(size, 0), 1<<40), words: up.words()}); err != nil {
			return err
		}
		if _, err := recordUpload(ctx, tx, root, size, up, now); err != nil {
			return err
		}
		if instead != "" {
			if _, err := tx.ExecContext(ctx, `UPDATE uploads SET deleted = ?, updated = ? WHERE user_id = ? AND source_cid = ?`,
				now, now, up.Caller.UserID, instead); err != nil {
				return err
			}
		}
		if done, err := complete(ctx, tx, keyOf(root)); err != nil || done {
			return err
		}
		state := FetchAgain
		if obstacle != "" {
			state = FetchFailed
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO fetches (content_cid, state, reason) VALUES (?, ?, ?)
			ON CONFLICT (content_cid) DO UPDATE SET state = excluded.state, reason = excluded.reason, attempts = 0
			WHERE state IN ('failed', 'done')`, contentCID(root), state, obstacle)
		return err
	}, nil)
	if err != nil {
		st.crowd(err)
		return fmt.Errorf("pin %s: %w", root, err)
	}
	return nil
}

// sizeOf returns the size of the DAG as its root claims it, or -1 if the root
// is not held.
func (x *indexer) sizeOf(root cid.Cid) (int64, error) {
	data, _, _, err := x.st.readCopy(x.ctx, x.tx, root, copiesQuery)
	switch {
	case errors.Is(err, ErrNotHeld), errors.Is(err, ErrDamaged):
		return -1, nil
	case err != nil:
		return 0, err
	}
	return max(inspectRoot(root, data).size, -1), nil
}

// FetchEnd is the outcome of a fetch, as the index records it.
type FetchEnd string

// The outcomes of a fetch.
const (
	FetchDone   FetchEnd = "done"
	FetchFailed FetchEnd = "failed"
	FetchAgain  FetchEnd = "queued" // it was interrupted
)

// ResumeFetches queues the fetches again that were running when the last
// process ended.
func (st *Store) ResumeFetches(ctx context.Context) error {
	if st.db.write == nil {
		return nil
	}
	if _, err := st.db.exec(ctx, `UPDATE fetches SET state = 'queued' WHERE state = 'pinning'`); err != nil {
		return fmt.Errorf("resume fetches: %w", err)
	}
	return nil
}

// NextFetch takes a fetch off the queue. It returns [cid.Undef] if there is
// none. The caller must call EndFetch for it.
func (st *Store) NextFetch(ctx context.Context) (cid.Cid, error) {
	var content string
	err := st.db.update(ctx, func(tx *tx) error {
		return tx.QueryRowContext(ctx, `UPDATE fetches SET state = 'pinning', attempts = attempts + 1
			WHERE content_cid = (SELECT content_cid FROM fetches WHERE state = 'queued' LIMIT 1) RETURNING content_cid`).Scan(&content)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return cid.Undef, nil
	}
	if err != nil {
		return cid.Undef, fmt.Errorf("take fetch off the queue: %w", err)
	}
	root, err := cid.Decode(content)
	if err != nil {
		return cid.Undef, fmt.Errorf("content %q in the index: %w", content, err)
	}
	return root, nil
}

// EndFetch records the outcome of a fetch, and the reason.
func (st *Store) EndFetch(ctx context.Context, content cid.Cid, end FetchEnd, reason string) error {
	_, err := st.db.exec(ctx, `UPDATE fetches SET state = ?, reason = ? WHERE content_cid = ?`, end, reason, content.String())
	if err != nil {
		return fmt.Errorf("end fetch of %s: %w", content, err)
	}
	return nil
}
