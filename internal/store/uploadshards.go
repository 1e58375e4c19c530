package store

import (
	"context"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
)

// UploadShard is a shard of an upload.
type UploadShard struct {
	CID     cid.Cid
	Size    int64
	Created time.Time
	Damaged bool   // it is marked as damaged and must be uploaded again
	Key     string // name of the key that sent it, if any
}

// UploadShards lists the first shards of an upload in the order of their
// arrival, and returns the number and size of all.
func (st *Store) UploadShards(ctx context.Context, uploadID int64, limit int) (page []UploadShard, count int, bytes int64, err error) {
	err = st.db.read.QueryRowContext(ctx, `SELECT count(*), COALESCE(sum(s.size), 0)
		FROM upload_shards us JOIN shards s ON s.id = us.shard_id WHERE us.upload_id = ?`, uploadID).Scan(&count, &bytes)
	if err != nil {
		return nil, 0, 0, fmt.Errorf("count shards: %w", err)
	}
	page, err = rowsOf(ctx, st.db.read, `SELECT s.cid, s.size, s.created, COALESCE(k.name, ''),
			EXISTS (SELECT 1 FROM damage d WHERE d.shard = s.id)
		FROM upload_shards us JOIN shards s ON s.id = us.shard_id LEFT JOIN keys k ON k.id = us.key_id
		WHERE us.upload_id = ? ORDER BY us.seq LIMIT ?`, []any{uploadID, limit},
		func(scan scanRow) (u UploadShard, err error) {
			var created int64
			err = scan((*cidColumn)(&u.CID), &u.Size, &created, &u.Key, &u.Damaged)
			u.Created = time.UnixMicro(created)
			return u, err
		})
	if err != nil {
		return nil, 0, 0, fmt.Errorf("list shards: %w", err)
	}
	return page, count, bytes, nil
}
