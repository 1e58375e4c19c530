package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"syscall"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// isDamage tells whether a file that could not be read as what it is is damaged
// or lost. Others may be sound and readable at another time.
func isDamage(err error) bool {
	var car *CARError
	return errors.Is(err, ErrDamaged) || errors.As(err, &car) || errors.Is(err, errCutShard) || errors.Is(err, io.EOF) ||
		errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO)
}

// loss takes copies of blocks out of the index, and takes back what was said of
// nodes that need them. It keeps what it works on in tables of the transaction,
// so its memory does not grow with the damage.
type loss struct{ x *indexer }

// lost are multihashes that are not complete any more, whose parents have to be
// found; held is 1 for those of which a copy is left. doubted are nodes to be
// read again. harmed are the sizes of files that are short, -1 if they are lost.
const lossTables = `
DROP TABLE IF EXISTS temp.lost; DROP TABLE IF EXISTS temp.doubted; DROP TABLE IF EXISTS temp.harmed;
CREATE TEMP TABLE lost (id INTEGER PRIMARY KEY, mh BLOB NOT NULL UNIQUE, held INTEGER NOT NULL DEFAULT 0);
CREATE TEMP TABLE doubted (id INTEGER PRIMARY KEY);
CREATE TEMP TABLE harmed (shard INTEGER PRIMARY KEY, size INTEGER NOT NULL);
`

// lose takes away what f takes, and leaves what counted on it to be read again
// by settle.
func (x *indexer) lose(f func(*loss) error) error {
	if _, err := x.tx.ExecContext(x.ctx, lossTables); err != nil {
		return fmt.Errorf("make tables for damage: %w", err)
	}
	l := &loss{x}
	if err := f(l); err != nil {
		return err
	}
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

// takeFile marks a shard whose file is not what its CID says.
func (l *loss) takeFile(shard int64) error {
	return l.run([]string{`INSERT OR REPLACE INTO damage (mh, shard, off, len) VALUES (x'', ?, 0, 0)`}, shard)
}

// takeHash is for a block that the index does not have although nodes count on
// it.
func (l *loss) takeHash(mh []byte) error {
	return l.run([]string{
		`DELETE FROM blocks WHERE mh = ?1 AND shard NOT IN (SELECT id FROM shards)`,
		`INSERT OR IGNORE INTO lost (mh) VALUES (?1)`,
	}, mh)
}

// takeNode is for a node that counts as complete and is not.
func (l *loss) takeNode(k nodeKey) error {
	return l.run([]string{
		`INSERT OR IGNORE INTO doubted SELECT id FROM nodes WHERE mh = ?1 AND codec = ?2`,
		`INSERT OR IGNORE INTO lost (mh, held) SELECT mh, 1 FROM nodes WHERE mh = ?1 AND codec = ?2`,
	}, []byte(k.mh), k.codec)
}

// takeNodes is for all nodes whose own blocks are not held.
func (l *loss) takeNodes() error {
	return l.run([]string{`INSERT OR IGNORE INTO lost (mh) SELECT mh FROM nodes n WHERE NOT EXISTS (SELECT 1 FROM blocks b WHERE b.mh = n.mh)`})
}

const parentless = `id <= (SELECT value FROM settings WHERE name = 'parentless') AND EXISTS (SELECT 1 FROM lost)`

// end finds all nodes that counted on what was taken.
func (l *loss) end() error {
	x := l.x
	if err := l.run([]string{
		`DELETE FROM lost WHERE held = 0 AND EXISTS (SELECT 1 FROM blocks b WHERE b.mh = lost.mh)`,
		// Nodes from before there were parents can be parents of anything.
		`INSERT OR IGNORE INTO doubted SELECT id FROM nodes WHERE pending <> -3 AND ` + parentless,
		`INSERT OR IGNORE INTO lost (mh, held) SELECT mh, 1 FROM nodes WHERE pending = -1 AND ` + parentless,
	}); err != nil {
		return err
	}
	for last := int64(0); ; {
		var children []any
		err := eachRow(x.ctx, x.tx, `SELECT id, mh FROM lost WHERE id > ? ORDER BY id LIMIT 256`, []any{last}, func(scan scanRow) error {
			var mh []byte
			err := scan(&last, &mh)
			children = append(children, childOf(string(mh)))
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
			`INSERT OR IGNORE INTO lost (mh, held) SELECT n.mh, 1` + of + `= -1`, // what told its own parents
			`INSERT OR IGNORE INTO doubted SELECT n.id` + of + `<> -3`,
		}, children...); err != nil {
			return err
		}
	}
	return l.run([]string{
		`DELETE FROM nodes WHERE mh IN (SELECT mh FROM lost WHERE held = 0)`,
		`UPDATE nodes SET pending = -2 WHERE id IN (SELECT id FROM doubted)`,
		`DELETE FROM waiting WHERE parent IN (SELECT id FROM doubted) OR parent NOT IN (SELECT id FROM nodes)`,
		`DELETE FROM settings WHERE name = 'parentless' AND EXISTS (SELECT 1 FROM doubted WHERE id <= value)`,
	})
}

// suspect is a copy of a block that could not be read.
type suspect struct {
	location
	mh multihash.Multihash
}

// condemn looks at suspects again, for they may have been mended or collected
// since, and marks those that are damaged. It returns how many.
func (x *indexer) condemn(suspects []suspect) (count int, err error) {
	if len(suspects) == 0 {
		return 0, nil
	}
	err = x.lose(func(l *loss) error {
		for _, s := range suspects {
			copies, err := locate(x.ctx, x.tx, copiesQuery+` AND b.shard = ?`, []byte(s.mh), s.id)
			if err != nil {
				return err
			}
			for _, c := range copies { // one, or none
				if err := x.st.checkCopy(c, s.mh); !isDamage(err) {
					continue
				}
				if err := l.takeCopy(s.mh, s.id); err != nil {
					return err
				}
				count++
			}
		}
		return nil
	})
	return count, err
}

// report marks copies that a reader found damaged. The reader has its answer
// already, so a failure of that is only logged.
func (st *Store) report(ctx context.Context, suspects []suspect) {
	if len(suspects) == 0 {
		return
	}
	err := st.mark(context.WithoutCancel(ctx), func(x *indexer) error {
		_, err := x.condemn(suspects)
		return err
	})
	if err != nil {
		st.log.LogAttrs(ctx, slog.LevelError, "mark damage", slog.Any("error", err))
	}
}

// checkCopy reads a copy of a block and hashes it.
func (st *Store) checkCopy(l location, mh multihash.Multihash) error {
	data, err := st.readAt(l)
	if err != nil {
		return err
	}
	return CheckBlock(cid.NewCidV1(cid.Raw, mh), data)
}

// mark changes what the index says of damage, and settles what follows from it.
func (st *Store) mark(ctx context.Context, f func(*indexer) error) error {
	done, err := st.change()
	if err != nil {
		return err
	}
	defer done()
	return st.db.update(ctx, func(tx *sql.Tx) error {
		x := newIndexer(ctx, st, tx)
		if err := f(x); err != nil {
			return err
		}
		return x.settle()
	})
}

// forgive takes back all marks of a shard that turned out to be sound, and makes
// its blocks known again.
func (x *indexer) forgive(sh shard) error {
	if _, err := x.tx.ExecContext(x.ctx, `DELETE FROM damage WHERE shard = ?`, sh.id); err != nil {
		return fmt.Errorf("take marks back: %w", err)
	}
	return x.add(sh)
}

// again is for a shard that came again: that mends what was damaged of it.
func (x *indexer) again(sh shard) error {
	var damaged bool
	if err := x.tx.QueryRowContext(x.ctx, `SELECT EXISTS (SELECT 1 FROM damage WHERE shard = ?)`, sh.id).Scan(&damaged); err != nil {
		return fmt.Errorf("look up damage: %w", err)
	}
	if damaged {
		return x.forgive(sh)
	}
	return x.settle()
}

// eachCopy calls f for each copy of a block in a shard, in pages.
func (x *indexer) eachCopy(sh shard, f func(mh multihash.Multihash, l location) error) error {
	for last := []byte{}; last != nil; {
		type copied struct {
			mh []byte
			l  location
		}
		var page []copied
		err := eachRow(x.ctx, x.tx, `SELECT mh, off, len FROM blocks WHERE shard = ? AND mh > ? ORDER BY mh LIMIT 1024`, []any{sh.id, last},
			func(scan scanRow) error {
				c := copied{l: location{id: sh.id, shard: sh.cid}}
				err := scan(&c.mh, &c.l.off, &c.l.len)
				page = append(page, c)
				return err
			})
		if err != nil {
			return fmt.Errorf("list blocks of shard %s: %w", sh.cid, err)
		}
		last = nil
		for _, c := range page {
			if err := f(c.mh, c.l); err != nil {
				return err
			}
			last = c.mh
		}
	}
	return nil
}

// harm marks what is damaged of a shard that was found not to be sound, or takes
// its marks back if it is sound now. One that cannot be read for other reasons
// stays as it is.
func (x *indexer) harm(sh shard) error {
	res, f, err := x.st.rescan(x.ctx, sh.cid, nil)
	if f != nil {
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		sh.payload, sh.end = res.payload, res.payloadEnd
		_, err := x.tx.ExecContext(x.ctx, `UPDATE shards SET size = ?, payload = ?, payload_end = ? WHERE id = ?`, res.size, sh.payload, sh.end, sh.id)
		return errors.Join(err, x.forgive(sh))
	}
	if !isDamage(err) {
		return x.ctx.Err()
	}
	gone := errors.Is(err, fs.ErrNotExist)
	return x.lose(func(l *loss) error {
		if err := l.takeFile(sh.id); err != nil {
			return err
		}
		if gone {
			return l.take(`b.shard = ?1`, sh.id)
		}
		return x.eachCopy(sh, func(mh multihash.Multihash, c location) error {
			if err := x.st.checkCopy(c, mh); isDamage(err) {
				return l.takeCopy(mh, sh.id)
			}
			return nil
		})
	})
}
