package store

import (
	"fmt"
)

// loss removes copies of blocks from the index, and revokes what the index says
// about nodes that need them. Its working data is in temporary tables, so its
// memory does not grow with the damage.
type loss struct{ x *indexer }

// The table lost has multihashes that are no longer complete, and whose parents
// must be found; held is 1 if a copy is left. The table doubted has nodes that
// must be read again. The table harmed has the sizes of files that are too
// short, or -1 if they are lost.
const lossTables = `
DROP TABLE IF EXISTS temp.lost; DROP TABLE IF EXISTS temp.doubted; DROP TABLE IF EXISTS temp.harmed;
CREATE TEMP TABLE lost (id INTEGER PRIMARY KEY, mh BLOB NOT NULL UNIQUE, held INTEGER NOT NULL DEFAULT 0);
CREATE TEMP TABLE doubted (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE harmed (shard INTEGER PRIMARY KEY, size INTEGER NOT NULL);
`

// lose removes what f marks. Everything that relied on it is left for settle to
// read again.
func (x *indexer) lose(f func(*loss) error) error {
	x.st.db.write.losses++
	if err := x.flush(); err != nil { // so that all parents are in the tables
		return err
	}
	if _, err := x.tx.ExecContext(x.ctx, lossTables); err != nil {
		return fmt.Errorf("make tables for damage: %w", err)
	}
	l := &loss{x}
	if err := f(l); err != nil {
		return err
	}
	x.rereadAll()
	return l.end()
}

func (l *loss) run(queries []string, args ...any) error {
	for _, q := range queries {
		if _, err := l.x.tx.ExecContext(l.x.ctx, q, args...); err != nil {
			return fmt.Errorf("mark damage: %w", err)
		}
	}
	return nil
}

// take marks the copies b that meet a condition.
func (l *loss) take(cond string, args ...any) error {
	return l.run([]string{
		`INSERT OR IGNORE INTO lost (mh) SELECT b.mh FROM blocks b WHERE ` + cond,
		`INSERT OR REPLACE INTO damage (mh, shard, off, len) SELECT b.mh, b.shard, b.off, b.len FROM blocks b WHERE ` + cond,
		`DELETE FROM blocks AS b WHERE ` + cond,
	}, args...)
}

// takeCopy marks one copy.
func (l *loss) takeCopy(mh []byte, shard int64) error {
	return l.take(`b.mh = ?1 AND b.shard = ?2`, mh, shard)
}

// takeFile marks a shard whose file does not match its CID.
func (l *loss) takeFile(shard int64) error {
	return l.run([]string{`INSERT OR REPLACE INTO damage (mh, shard, off, len) VALUES (x'', ?, 0, 0)`}, shard)
}

// takeHash marks a block that the index lacks although nodes rely on it.
func (l *loss) takeHash(mh []byte) error {
	return l.run([]string{
		`DELETE FROM blocks WHERE mh = ?1 AND shard NOT IN (SELECT id FROM shards)`,
		`INSERT OR IGNORE INTO lost (mh) VALUES (?1)`,
	}, mh)
}

// takeNode marks a node that counts as complete but is not.
func (l *loss) takeNode(k nodeKey) error {
	return l.run([]string{
		`INSERT OR IGNORE INTO doubted SELECT id FROM nodes WHERE mh = ?1 AND codec = ?2`,
		`INSERT OR IGNORE INTO lost (mh, held) SELECT mh, 1 FROM nodes WHERE mh = ?1 AND codec = ?2`,
	}, []byte(k.mh), k.codec)
}

// takeNodes marks all nodes whose own block is not held.
func (l *loss) takeNodes() error {
	return l.run([]string{`INSERT OR IGNORE INTO lost (mh) SELECT mh FROM nodes n WHERE NOT EXISTS (SELECT 1 FROM blocks b WHERE b.mh = n.mh)`})
}

const parentless = `id <= (SELECT value FROM settings WHERE name = 'parentless') AND EXISTS (SELECT 1 FROM lost)`

// waiters are nodes whose rows in the table waiting become wrong.
const waiters = `SELECT n.id FROM doubted d JOIN nodes n ON n.id = d.id WHERE n.pending > 0
	OR n.pending = -2 AND n.mh IN (SELECT mh FROM lost WHERE held = 0)`

// end finds all nodes that relied on what was removed.
func (l *loss) end() error {
	x := l.x
	if err := l.run([]string{
		`DELETE FROM lost WHERE held = 0 AND EXISTS (SELECT 1 FROM blocks b WHERE b.mh = lost.mh)`,
		// Nodes that are older than the parents table can be parents of
		// anything.
		`INSERT OR IGNORE INTO doubted SELECT id FROM nodes WHERE pending <> -3 AND ` + parentless,
		`INSERT OR IGNORE INTO lost (mh, held) SELECT mh, 1 FROM nodes WHERE pending = -1 AND ` + parentless,
	}); err != nil {
		return err
	}
	for last := int64(0); ; {
		var children []any
		err := eachRow(x.ctx, x.tx, `SELECT id, mh FROM lost WHERE id > ? ORDER BY id LIMIT 256`, []any{last}, func(scan scanRow) error {
			var mh string
			err := scan(&last, &mh)
			children = append(children, childOf(mh))
			return err
		})
		if err != nil {
			return fmt.Errorf("find what needs a lost block: %w", err)
		}
		if len(children) == 0 {
			break
		}
		of := ` FROM parents p JOIN nodes n ON n.id = p.parent WHERE p.child IN (` + marks(len(children)) + `) AND n.pending `
		if err := l.run([]string{
			`INSERT OR IGNORE INTO lost (mh, held) SELECT n.mh, 1` + of + `= -1`, // nodes that have told their own parents
			`INSERT OR IGNORE INTO doubted SELECT n.id` + of + `<> -3`,
		}, children...); err != nil {
			return err
		}
	}
	return l.run([]string{
		`INSERT OR IGNORE INTO doubted SELECT id FROM nodes WHERE mh IN (SELECT mh FROM lost WHERE held = 0)`,
		// Skip this if none of them was waiting: going through all of waiting
		// may take a while.
		`DELETE FROM waiting WHERE parent IN (` + waiters + `) AND EXISTS (` + waiters + `)`,
		`UPDATE nodes SET pending = -2 WHERE id IN (SELECT id FROM doubted)`,
		`DELETE FROM nodes WHERE mh IN (SELECT mh FROM lost WHERE held = 0)`,
		`DELETE FROM settings WHERE name = 'parentless' AND EXISTS (SELECT 1 FROM doubted WHERE id <= value)`,
	})
}

// condemn checks suspects again, since they may have been mended or collected
// in the meantime, and marks those that are damaged.
func (x *indexer) condemn(suspects []suspect) error {
	if len(suspects) == 0 {
		return nil
	}
	return x.lose(func(l *loss) error {
		for _, s := range suspects {
			copies, err := locate(x.ctx, x.tx, copiesQuery+` AND b.shard = ?`, []byte(s.mh), s.id)
			if err != nil {
				return err
			}
			for _, c := range copies { // one or none
				if err := x.st.checkCopy(c, s.mh); !isDamage(err) {
					continue
				}
				if err := l.takeCopy(s.mh, s.id); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
