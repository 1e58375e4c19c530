package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
)

// DefaultScrubEvery is how often a scrub begins by default.
const DefaultScrubEvery = 24 * time.Hour

// ScrubOptions configure [Store.Scrub].
type ScrubOptions struct {
	BytesPerSecond int64         // read from the disk; 0 means no limit
	Every          time.Duration // from one start to the next; 0 means DefaultScrubEvery
}

// ScrubStatus is the progress of a scrub. It outlives the process.
type ScrubStatus struct {
	Last     int64     `json:"last"`   // the last shard that was checked, by its number in the index
	Shards   int       `json:"shards"` // checked since it began
	Bytes    int64     `json:"bytes"`
	Problems int       `json:"problems"`
	Began    time.Time `json:"began"`
	Ended    time.Time `json:"ended"` // zero while it is running
	Cycles   int       `json:"cycles"`
}

const settingScrub = "scrub"

// Scrub slowly checks one shard after another, as [Store.Fsck] does, again and
// again until the context is done. After a restart, it continues where it
// stopped. The error matches [ErrDiscards] if the store discards payloads.
func (st *Store) Scrub(ctx context.Context, opts ScrubOptions) error {
	if st.discard {
		return fmt.Errorf("scrub store %s: %w", st.files.dir, ErrDiscards)
	}
	if opts.Every == 0 {
		opts.Every = DefaultScrubEvery
	}
	pace := rate.NewLimiter(rate.Inf, paceBytes)
	if opts.BytesPerSecond > 0 {
		pace.SetLimit(rate.Limit(opts.BytesPerSecond))
	}
	for ctx.Err() == nil {
		s, err := st.scrubStatus(ctx)
		if err != nil {
			return stopped(ctx, err)
		}
		if wait := time.Until(s.Began.Add(opts.Every)); !s.Ended.IsZero() && wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
			timer.Stop()
			continue
		}
		if s.Began.IsZero() || !s.Ended.IsZero() {
			s = ScrubStatus{Began: time.Now(), Cycles: s.Cycles}
			if s.Problems, err = st.survey(ctx); err != nil {
				return stopped(ctx, err)
			}
		}
		if err := st.scrubNext(ctx, s, pace); err != nil {
			return stopped(ctx, err)
		}
	}
	return nil
}

// stopped drops an error that occurred because the context is done.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("scrub: %w", err)
}

// scrubNext checks the shard after the last one, or ends the cycle.
func (st *Store) scrubNext(ctx context.Context, s ScrubStatus, pace *rate.Limiter) error {
	k, err := st.shardAfter(ctx, s.Last)
	if errors.Is(err, sql.ErrNoRows) {
		s.Ended = time.Now()
		s.Cycles++
		if err := st.keepScrubStatus(ctx, s); err != nil {
			return err
		}
		st.log.LogAttrs(ctx, slog.LevelInfo, "scrubbed", slog.Int("shards", s.Shards), slog.Int64("bytes", s.Bytes), slog.Int("problems", s.Problems))
		return nil
	}
	if err != nil {
		return err
	}
	e, err := st.examine(ctx, k, pace)
	if err != nil {
		return err
	}
	s.Last = k.id
	if !e.collected {
		s.Shards++
		s.Bytes += e.bytes
		s.Problems += len(e.problems)
	}
	return st.keepScrubStatus(ctx, s)
}

func (st *Store) scrubStatus(ctx context.Context) (s ScrubStatus, err error) {
	var raw []byte
	err = st.db.read.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = ?`, settingScrub).Scan(&raw)
	if errors.Is(err, sql.ErrNoRows) {
		return s, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	if err != nil {
		return s, fmt.Errorf("read status of scrub: %w", err)
	}
	return s, nil
}

func (st *Store) keepScrubStatus(ctx context.Context, s ScrubStatus) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode status of scrub: %w", err)
	}
	done, err := st.change()
	if err != nil {
		return err
	}
	defer done()
	if _, err := st.db.exec(ctx, `INSERT OR REPLACE INTO settings VALUES (?, ?)`, settingScrub, raw); err != nil {
		return fmt.Errorf("keep status of scrub: %w", err)
	}
	return nil
}

// Status describes a store as a whole.
type Status struct {
	Shards        int         `json:"shards"`
	Bytes         int64       `json:"bytes"`         // of all shards
	DamagedShards int         `json:"damagedShards"` // marked as damaged; they must be uploaded again
	LostBlocks    int         `json:"lostBlocks"`    // without a sound copy
	Scrub         ScrubStatus `json:"scrub"`
}

// Status computes the status from the index. It reads no shards.
func (st *Store) Status(ctx context.Context) (s Status, err error) {
	err = st.db.read.QueryRowContext(ctx, `SELECT count(*), COALESCE(sum(size), 0),
		(SELECT count(DISTINCT d.shard) FROM damage d JOIN shards s ON s.id = d.shard),
		(SELECT count(DISTINCT d.mh) FROM damage d WHERE d.mh <> x'' AND NOT EXISTS (SELECT 1 FROM blocks b WHERE b.mh = d.mh))
		FROM shards`).Scan(&s.Shards, &s.Bytes, &s.DamagedShards, &s.LostBlocks)
	if err != nil {
		return s, fmt.Errorf("status of store: %w", err)
	}
	s.Scrub, err = st.scrubStatus(ctx)
	return s, err
}
