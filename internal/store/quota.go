package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
)

// These things count against a key's quota: the shards that it sent, and those
// fetched for its pins; the other records of its uploads; and for pins of other
// users' content, everything that their roots claim. Deleted data uses space
// until it is collected. Together, a key can use at most twice its quota.

// demand is what a caller needs room for.
type demand struct {
	shard cid.Cid // if known: a shard that counts already needs no room
	bytes int64   // of the shard
	words int64   // of the records of an upload
	pin   int64   // the upload that the shard is fetched for; it no longer counts as a pin without shards
}

// words returns the size of those records of an upload that have no limit of
// their own.
func (up *NewUpload) words() int64 {
	name := 0
	if up.Name != nil {
		name = max(len(*up.Name)-freeName, 0)
	}
	return int64(max(len(up.Files)-2, 0) + length(up.Meta) + length(up.Origins) + name)
}

const freeName = 255 // bytes of a name that do not count

// CheckQuota returns a [QuotaError] if a caller has no room for a shard of this
// size. A shard of the same size as one that counts already may be that one, so
// it is allowed.
func (st *Store) CheckQuota(ctx context.Context, who *Caller, size int64) error {
	err := checkQuota(ctx, st.db.read, who, demand{bytes: size})
	st.crowd(err)
	return err
}

const (
	countedShards = `SELECT us.shard_id FROM upload_shards us JOIN uploads u ON u.id = us.upload_id WHERE us.key_id = ?2 AND u.deleted IS NULL
		UNION SELECT shard FROM staging WHERE key_id = ?2 AND active = 1`
	countedWords = `SELECT COALESCE(sum(max(octet_length(files) - 2, 0) + COALESCE(octet_length(meta), 0) + COALESCE(octet_length(origins), 0)
			+ max(COALESCE(octet_length(name), 0) - 255, 0)), 0)
		FROM uploads WHERE key_id = ?2 AND deleted IS NULL`
	countedPins = `SELECT COALESCE(sum(min(c.size, 1 << 40)), 0) FROM uploads u JOIN contents c ON c.cid = u.content_cid
		WHERE u.key_id = ?2 AND u.deleted IS NULL AND u.id <> ?3 AND NOT EXISTS (SELECT 1 FROM upload_shards us WHERE us.upload_id = u.id)`
	uncollected = `SELECT COALESCE(sum(size), 0) FROM shards WHERE id IN
		(SELECT us.shard_id FROM upload_shards us JOIN uploads u ON u.id = us.upload_id WHERE us.key_id = ?2 AND u.deleted IS NOT NULL
			AND NOT EXISTS (SELECT 1 FROM upload_shards o JOIN uploads v ON v.id = o.upload_id WHERE o.shard_id = us.shard_id AND v.deleted IS NULL)
		UNION SELECT shard FROM staging WHERE key_id = ?2 AND active <> 1)`
)

// checkQuota returns a [QuotaError] if a caller has no room for a demand.
func checkQuota(ctx context.Context, q querier, who *Caller, d demand) error {
	if who.QuotaBytes == 0 {
		return nil
	}
	same, this := `size = ?1`, any(d.bytes)
	if d.shard.Defined() {
		same, this = `cid = ?1`, d.shard.Bytes()
	}
	var shards, words, pins, left int64
	var counts bool
	err := q.QueryRowContext(ctx, `SELECT COALESCE(sum(size), 0), COALESCE(max(`+same+`), 0), (`+countedWords+`), (`+countedPins+`), (`+uncollected+`)
		FROM shards WHERE id IN (`+countedShards+`)`, this, who.KeyID, d.pin).Scan(&shards, &counts, &words, &pins, &left)
	if err != nil {
		return fmt.Errorf("add up quota: %w", err)
	}
	used, wanted := shards+words+pins, d.words
	if !counts {
		wanted += d.bytes
	}
	if wanted == 0 {
		return nil
	}
	if used+wanted > who.QuotaBytes {
		return &QuotaError{Quota: who.QuotaBytes, Used: used}
	}
	if used+wanted+left > 2*who.QuotaBytes {
		return &QuotaError{Quota: who.QuotaBytes, Used: used, Uncollected: left}
	}
	return nil
}

// crowd triggers a collection if the error says that there was no room.
func (st *Store) crowd(err error) {
	if quota := new(QuotaError); errors.As(err, &quota) {
		select {
		case st.crowded <- struct{}{}:
		default:
		}
	}
}
