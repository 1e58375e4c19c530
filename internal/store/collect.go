package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
)

// CollectReport says what a collection removed.
type CollectReport struct {
	Shards int   // that no upload needs any more
	Files  int   // that were never acknowledged
	Bytes  int64 // of both
}

// Collect removes the shards that no upload needs. It keeps a shard of a
// deleted upload if another upload is complete only because of its blocks.
// Uploads and reads continue meanwhile. If all copies of a node that an upload
// needs are damaged, Collect removes nothing, since it cannot know what the
// node links to. If the context ends, the next collection does the rest.
func (st *Store) Collect(ctx context.Context) (CollectReport, error) {
	done, err := st.change()
	if err != nil {
		return CollectReport{}, fmt.Errorf("collect garbage: %w", err)
	}
	defer done()
	st.collecting.Lock()
	defer st.collecting.Unlock()
	r, err := st.collect(ctx)
	if err != nil {
		return r, fmt.Errorf("collect garbage: %w", err)
	}
	return r, nil
}

func (st *Store) collect(ctx context.Context) (CollectReport, error) {
	var report CollectReport
	var gone []cid.Cid
	var bad []suspect
	err := st.sliced(ctx, func(x *indexer) error {
		m := &marker{x: x}
		var err error
		gone, err = m.collect()
		bad = m.bad
		return err
	}, nil)
	st.report(ctx, bad)
	if err != nil {
		return report, err
	}
	for _, c := range gone {
		size, err := st.discardFile(ctx, c)
		if err != nil {
			return report, err
		}
		report.Bytes += size
		report.Shards++
	}
	err = st.files.each(func(c cid.Cid, _ string) error {
		known, err := st.knows(ctx, c)
		if err != nil || known {
			return err
		}
		size, err := st.discardFile(ctx, c)
		if size > 0 {
			report.Files++
			report.Bytes += size
		}
		return err
	})
	return report, err
}

// discardFile removes the file of a shard if the index does not have the shard.
// It checks because the shard may have been sent again.
func (st *Store) discardFile(ctx context.Context, c cid.Cid) (size int64, err error) {
	st.commit.Lock()
	defer st.commit.Unlock()
	known, err := st.knows(ctx, c)
	if err != nil || known {
		return 0, err
	}
	info, err := os.Stat(st.files.path(c))
	if err == nil {
		size, err = info.Size(), st.files.remove(c)
	}
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return size, err
}

// CollectOptions say when [Store.CollectRegularly] collects.
type CollectOptions struct {
	Every time.Duration
}

// CollectRegularly collects until the context ends, whenever there is something
// to collect: at regular times, and soon after a quota had no room only because
// deleted data was not collected yet. It logs errors.
func (st *Store) CollectRegularly(ctx context.Context, opts CollectOptions) {
	tick := time.NewTicker(opts.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-st.crowded:
		}
		garbage, err := exists(ctx, st.db.read, `SELECT 1 FROM uploads WHERE deleted IS NOT NULL UNION ALL SELECT 1 FROM staging WHERE active <> 1`)
		var r CollectReport
		if err == nil && garbage {
			r, err = st.Collect(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			st.log.LogAttrs(ctx, slog.LevelError, "collect", slog.Any("error", err))
		case r != CollectReport{}:
			st.log.LogAttrs(ctx, slog.LevelInfo, "collected", slog.Int("shards", r.Shards), slog.Int("files", r.Files), slog.Int64("bytes", r.Bytes))
		}
	}
}

// marker finds the shards that can be removed. It keeps what it has seen in
// temporary tables, so its memory does not grow with the store. Others write
// while it searches. It searches once more what they add in the meantime.
// Whatever they add after that is checked when things are removed.
type marker struct {
	x     *indexer
	bad   []suspect // found on the way
	roots int64     // uploads up to this time have been searched

	walked int64 // the last node that was walked
}

const markTables = `
DROP TABLE IF EXISTS temp.unowned; DROP TABLE IF EXISTS temp.needed; DROP TABLE IF EXISTS temp.marked;
DROP TABLE IF EXISTS temp.absent; DROP TABLE IF EXISTS temp.garbage;
CREATE TEMP TABLE unowned (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE needed (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE marked (id INTEGER PRIMARY KEY, mh BLOB NOT NULL, codec INTEGER NOT NULL, UNIQUE (mh, codec));
CREATE TEMP TABLE absent (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE garbage (id INTEGER PRIMARY KEY);
INSERT INTO unowned SELECT id FROM shards WHERE id NOT IN ` + owned + `;
`

// owned are the shards of uploads, and those of uploads being accepted.
const owned = `(SELECT us.shard_id FROM upload_shards us JOIN uploads u ON u.id = us.upload_id WHERE u.deleted IS NULL
	UNION SELECT shard FROM staging WHERE active = 1)`

// markPasses is the number of marking passes. The later ones only mark what
// came during the one before, so they are short.
const markPasses = 3

// collect removes from the database what no upload needs. It returns the shards
// that were removed.
func (m *marker) collect() ([]cid.Cid, error) {
	x := m.x
	if _, err := x.tx.ExecContext(x.ctx, markTables); err != nil {
		return nil, fmt.Errorf("find shards without uploads: %w", err)
	}
	unowned, err := exists(x.ctx, x.tx, `SELECT 1 FROM unowned`)
	if err != nil {
		return nil, err
	}
	if !unowned {
		return nil, m.forget()
	}
	for pass := range markPasses {
		if pass == markPasses-1 {
			if err := m.dontPause(); err != nil {
				return nil, err
			}
		}
		if err := m.mark(); err != nil {
			return nil, err
		}
		if err := x.pause(); err != nil {
			return nil, err
		}
	}
	gone, err := (&sweeper{x}).sweep()
	if err != nil {
		return gone, err
	}
	if err := m.forget(); err != nil || len(gone) == 0 {
		return gone, err
	}
	return gone, m.tidy()
}

// dontPause handles indexes with nodes that have no rows in parents. There,
// marking and removing must be in one transaction.
func (m *marker) dontPause() error {
	parentless, err := exists(m.x.ctx, m.x.tx, `SELECT 1 FROM settings WHERE name = 'parentless'`)
	if err != nil {
		return fmt.Errorf("look up settings: %w", err)
	}
	if parentless {
		m.x.yield = nil
	}
	return nil
}

// tidy removes the records of removed nodes that could not be read, bit by bit.
func (m *marker) tidy() error {
	x := m.x
	const window = `SELECT max(child) FROM (SELECT child FROM parents WHERE child > ? ORDER BY child LIMIT 10000)`
	for last := int64(math.MinInt64); ; {
		var end sql.NullInt64
		if err := x.tx.QueryRowContext(x.ctx, window, last).Scan(&end); err != nil {
			return fmt.Errorf("tidy the index: %w", err)
		}
		if !end.Valid {
			return nil
		}
		if _, err := x.tx.ExecContext(x.ctx, `DELETE FROM parents WHERE child > ? AND child <= ? AND parent NOT IN (SELECT id FROM nodes)`,
			last, end.Int64); err != nil {
			return fmt.Errorf("tidy the index: %w", err)
		}
		last = end.Int64
		if err := x.pause(); err != nil {
			return err
		}
	}
}

// forget removes deleted uploads of which nothing is left.
func (m *marker) forget() error {
	for _, q := range []string{
		`DELETE FROM uploads WHERE deleted IS NOT NULL AND NOT EXISTS (SELECT 1 FROM upload_shards us WHERE us.upload_id = uploads.id)`,
		`DELETE FROM fetches WHERE content_cid NOT IN (SELECT content_cid FROM uploads)`,
		`DELETE FROM contents WHERE cid NOT IN (SELECT content_cid FROM uploads)`,
	} {
		if _, err := m.x.tx.ExecContext(m.x.ctx, q); err != nil {
			return fmt.Errorf("forget deleted uploads: %w", err)
		}
	}
	return nil
}

// mark walks everything that uploads reach and that was not walked before.
func (m *marker) mark() error {
	x := m.x
	since := m.roots
	m.roots = x.st.now()
	for _, q := range []string{
		`INSERT OR IGNORE INTO marked (mh, codec) SELECT c.mh, c.codec FROM contents c JOIN uploads u ON u.content_cid = c.cid
			WHERE u.deleted IS NULL AND u.updated >= ?1`,
		fmt.Sprintf(needQuery, `SELECT c.mh FROM contents c JOIN uploads u ON u.content_cid = c.cid WHERE u.deleted IS NULL AND u.updated >= ?1`),
	} {
		if _, err := x.tx.ExecContext(x.ctx, q, since); err != nil {
			return fmt.Errorf("mark roots: %w", err)
		}
	}
	// Nodes that were not held before may be held now.
	if err := m.walk(`SELECT m.id, m.mh, m.codec FROM absent a JOIN marked m ON m.id = a.id WHERE m.id > ?`); err != nil {
		return err
	}
	if err := m.walk(`SELECT m.id, m.mh, m.codec FROM marked m WHERE m.id > ? AND m.codec IN ` + innerCodecs); err != nil {
		return err
	}
	return m.clear()
}

// walk visits marked nodes in the order of their IDs, and marks what they link
// to. It records the nodes that are not held.
func (m *marker) walk(query string) error {
	x := m.x
	type root struct {
		id   int64
		key  nodeKey
		held bool
	}
	again := strings.Contains(query, "absent")
	last := m.walked
	if again {
		last = 0
	}
	for {
		var batch []root
		err := eachRow(x.ctx, x.tx, `SELECT m.id, m.mh, m.codec, EXISTS (SELECT 1 FROM blocks b WHERE b.mh = m.mh) FROM (`+query+` ORDER BY m.id LIMIT 64) m`,
			[]any{last}, func(scan scanRow) error {
				var r root
				err := scan(&r.id, &r.key.mh, &r.key.codec, &r.held)
				batch = append(batch, r)
				return err
			})
		if err != nil {
			return fmt.Errorf("mark: %w", err)
		}
		if len(batch) == 0 {
			return nil
		}
		for _, r := range batch {
			last = r.id
			if !again {
				m.walked = last
			}
			note := `INSERT OR IGNORE INTO absent VALUES (?)`
			if r.held {
				data, err := m.read(r.key)
				if err != nil {
					return fmt.Errorf("what uploads need is not clear, so nothing is removed: %w", err)
				}
				if n := parse(r.key, data); !n.broken {
					if err := m.children(n.links); err != nil {
						return err
					}
				}
				note = `DELETE FROM absent WHERE id = ?`
			}
			if r.held == again {
				if _, err := x.tx.ExecContext(x.ctx, note, r.id); err != nil {
					return fmt.Errorf("mark: %w", err)
				}
			}
		}
		if err := x.rest(); err != nil {
			return err
		}
	}
}

// clear returns an error if a node that an upload reaches is known to be lost,
// since it is then unknown what the upload needs.
func (m *marker) clear() error {
	lost, err := scanKey(m.x.tx.QueryRowContext(m.x.ctx, `SELECT m.mh, m.codec FROM marked m WHERE m.codec IN `+innerCodecs+`
		AND EXISTS (SELECT 1 FROM damage d WHERE d.mh = m.mh) AND NOT EXISTS (SELECT 1 FROM blocks b WHERE b.mh = m.mh)`).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		_, err = m.read(lost) // its error names the shard
	}
	return fmt.Errorf("what uploads need is not clear, so nothing is removed: %w", err)
}

// read returns a node. If the shards that stay have only damaged copies of it,
// it marks the shard that the copy comes from.
func (m *marker) read(k nodeKey) ([]byte, error) {
	data, from, bad, err := m.x.st.readCopy(m.x.ctx, m.x.tx, k.cid(), copiesQuery+
		` ORDER BY b.shard IN (SELECT id FROM unowned) AND b.shard NOT IN (SELECT id FROM needed), b.shard`)
	m.bad = append(m.bad, bad...)
	if err != nil {
		return nil, err
	}
	_, err = m.x.tx.ExecContext(m.x.ctx, `INSERT OR IGNORE INTO needed SELECT id FROM unowned WHERE id = ?`, from.id)
	return data, err
}

// needQuery marks a shard for each block that only shards without uploads have,
// unless one of them is marked already.
const needQuery = `INSERT OR IGNORE INTO needed SELECT max(shard) FROM blocks WHERE mh IN (%s) GROUP BY mh
	HAVING min(shard IN (SELECT id FROM unowned)) = 1 AND max(shard IN (SELECT id FROM needed)) = 0`

func (m *marker) children(all []nodeKey) error {
	return chunks(all, func(part []nodeKey) error {
		if err := m.x.exec(needQuery, `?`, len(part), hashes(part)); err != nil {
			return fmt.Errorf("mark shards: %w", err)
		}
		var args []any
		for _, k := range part {
			if hasLinks(k.codec) {
				args = append(args, []byte(k.mh), k.codec)
			}
		}
		if len(args) == 0 {
			return nil
		}
		if err := m.x.exec(`INSERT OR IGNORE INTO marked (mh, codec) VALUES %s`, `(?,?)`, len(args)/2, args); err != nil {
			return fmt.Errorf("mark nodes: %w", err)
		}
		return nil
	})
}
