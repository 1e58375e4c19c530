package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"

	"github.com/ipfs/go-cid"
)

// CollectReport says what a collection took away.
type CollectReport struct {
	Shards int   // that no upload needs any more
	Files  int   // that were never acknowledged
	Bytes  int64 // of both
}

// Collect removes the shards that no upload needs. A shard of a deleted upload
// stays if another upload is complete only because of blocks in it. Uploads wait
// while it runs; reading goes on. If all copies of a node are damaged that an
// upload needs, nothing is removed: what it links to is not known.
func (st *Store) Collect(ctx context.Context) (CollectReport, error) {
	done, err := st.change()
	if err != nil {
		return CollectReport{}, fmt.Errorf("collect garbage: %w", err)
	}
	defer done()
	r, err := st.collect(ctx)
	if err != nil {
		return r, fmt.Errorf("collect garbage: %w", err)
	}
	return r, nil
}

func (st *Store) collect(ctx context.Context) (CollectReport, error) {
	st.commit.Lock()
	defer st.commit.Unlock()
	var report CollectReport
	var gone []cid.Cid
	var bad []suspect
	err := st.db.update(ctx, func(tx *tx) error {
		m := &marker{x: newIndexer(ctx, st, tx)} // nobody else writes until it is done
		var err error
		gone, err = m.collect()
		bad = m.bad
		return err
	})
	st.report(ctx, bad)
	if err != nil {
		return report, err
	}
	for _, c := range gone {
		info, err := os.Stat(st.files.path(c))
		if err == nil {
			report.Bytes += info.Size()
			err = st.files.remove(c)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return report, err
		}
		report.Shards++
	}
	err = st.files.each(func(c cid.Cid, path string) error {
		known, err := st.knows(ctx, c)
		if err != nil || known {
			return err
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		report.Files++
		report.Bytes += info.Size()
		return st.files.remove(c)
	})
	return report, err
}

// marker finds the shards that can go. It keeps what it has seen in tables of
// the transaction, so its memory does not grow with the store.
type marker struct {
	x   *indexer
	bad []suspect // found on the way
}

const markTables = `
DROP TABLE IF EXISTS temp.unowned; DROP TABLE IF EXISTS temp.needed; DROP TABLE IF EXISTS temp.marked;
CREATE TEMP TABLE unowned (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE needed (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE marked (id INTEGER PRIMARY KEY, mh BLOB NOT NULL, codec INTEGER NOT NULL, UNIQUE (mh, codec));
INSERT INTO unowned SELECT id FROM shards WHERE id NOT IN
	(SELECT us.shard_id FROM upload_shards us JOIN uploads u ON u.id = us.upload_id WHERE u.deleted IS NULL
	UNION SELECT shard FROM staging WHERE active);
`

// collect removes from the database what no upload needs, and returns the
// shards that are no longer in it.
func (m *marker) collect() ([]cid.Cid, error) {
	x := m.x
	if _, err := x.tx.ExecContext(x.ctx, markTables); err != nil {
		return nil, fmt.Errorf("find shards without uploads: %w", err)
	}
	unowned, err := exists(x.ctx, x.tx, `SELECT 1 FROM unowned`)
	if err != nil {
		return nil, err
	}
	if unowned {
		if err := m.mark(); err != nil {
			return nil, err
		}
	}
	gone, err := rowsOf(x.ctx, x.tx, `SELECT cid FROM shards WHERE id IN (SELECT id FROM unowned EXCEPT SELECT id FROM needed)`, nil, scanCID)
	if err != nil {
		return nil, fmt.Errorf("list shards to remove: %w", err)
	}
	if len(gone) > 0 {
		if err := m.sweep(); err != nil {
			return nil, err
		}
	}
	return gone, m.forget()
}

// sweep takes the shards out of the index. What is said of nodes that no
// upload reaches may no longer be true, so it is forgotten; it is worked out
// again when one reaches them.
func (m *marker) sweep() error {
	const doomed = `(SELECT id FROM unowned EXCEPT SELECT id FROM needed)`
	for _, q := range []string{
		`DELETE FROM blocks WHERE shard IN ` + doomed,
		`DELETE FROM nodes WHERE NOT EXISTS (SELECT 1 FROM marked m WHERE m.mh = nodes.mh AND m.codec = nodes.codec)`,
		`DELETE FROM waiting WHERE parent NOT IN (SELECT id FROM nodes)`,
		`DELETE FROM parents WHERE parent NOT IN (SELECT id FROM nodes)`,
		`DELETE FROM upload_shards WHERE shard_id IN ` + doomed,
		`DELETE FROM staging WHERE shard IN ` + doomed,
		`DELETE FROM shards WHERE id IN ` + doomed,
		`DELETE FROM damage WHERE shard NOT IN (SELECT id FROM shards)`,
		`DELETE FROM pieces WHERE cid NOT IN (SELECT cid FROM shards)`,
	} {
		if _, err := m.x.tx.ExecContext(m.x.ctx, q); err != nil {
			return fmt.Errorf("remove shards from the index: %w", err)
		}
	}
	return nil
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

// mark walks all that the uploads reach.
func (m *marker) mark() error {
	x := m.x
	type root struct {
		id  int64
		key nodeKey
	}
	if _, err := x.tx.ExecContext(x.ctx, `INSERT OR IGNORE INTO marked (mh, codec)
		SELECT c.mh, c.codec FROM contents c JOIN uploads u ON u.content_cid = c.cid WHERE u.deleted IS NULL`); err != nil {
		return fmt.Errorf("mark roots: %w", err)
	}
	if _, err := x.tx.ExecContext(x.ctx, fmt.Sprintf(needQuery, `SELECT mh FROM marked`)); err != nil {
		return fmt.Errorf("mark roots: %w", err)
	}
	for last := int64(0); ; {
		var batch []root
		err := eachRow(x.ctx, x.tx, `SELECT m.id, m.mh, m.codec FROM marked m
			WHERE m.id > ? AND m.codec IN `+innerCodecs+` AND EXISTS (SELECT 1 FROM blocks b WHERE b.mh = m.mh)
			ORDER BY m.id LIMIT 64`, []any{last},
			func(scan scanRow) error {
				var r root
				err := scan(&r.id, &r.key.mh, &r.key.codec)
				batch = append(batch, r)
				return err
			})
		if err != nil {
			return fmt.Errorf("mark: %w", err)
		}
		if len(batch) == 0 {
			return m.clear()
		}
		for _, r := range batch {
			last = r.id
			data, err := m.read(r.key)
			if err != nil {
				return fmt.Errorf("what uploads need is not clear, so nothing is removed: %w", err)
			}
			if n := parse(r.key, data); !n.broken {
				if err := m.children(n.links); err != nil {
					return err
				}
			}
		}
	}
}

// clear returns an error if it is known that a node which uploads reach is lost:
// then it is not known what they need.
func (m *marker) clear() error {
	lost, err := scanKey(m.x.tx.QueryRowContext(m.x.ctx, `SELECT m.mh, m.codec FROM marked m WHERE m.codec IN `+innerCodecs+`
		AND EXISTS (SELECT 1 FROM damage d WHERE d.mh = m.mh) AND NOT EXISTS (SELECT 1 FROM blocks b WHERE b.mh = m.mh)`).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err == nil {
		_, err = m.read(lost) // says which shard
	}
	return fmt.Errorf("what uploads need is not clear, so nothing is removed: %w", err)
}

// read returns a node, and marks the shard that it is from if those that stay
// have only damaged copies of it.
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

// needQuery marks a shard for each block that only shards without uploads
// have, unless one of these is marked already.
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
