package store

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// batchSections is how many blocks of a shard are made known at a time.
const batchSections = 256

// add makes the blocks of a shard known, and then all that follows from it. It
// reads the file twice: what links to what is asked only when all its blocks
// count as held. It holds one batch, whatever the size of the file.
func (x *indexer) add(sh shard) (err error) {
	f, err := os.Open(x.st.files.path(sh.cid))
	if err != nil {
		return fmt.Errorf("index shard: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, pass := range []func(*sections, []section) error{
		func(_ *sections, b []section) error { return x.hold(sh.id, b) },
		x.link,
	} {
		in, err := newSections(f, sh.payload, sh.end)
		if err != nil {
			return err
		}
		batch := make([]section, 0, batchSections)
		for end := false; !end; {
			sec, err := in.next()
			if end = errors.Is(err, io.EOF); !end {
				if err != nil {
					return fmt.Errorf("index shard %s: %w", sh.cid, err)
				}
				batch = append(batch, sec)
			}
			if len(batch) == cap(batch) || end && len(batch) > 0 {
				if err := pass(in, batch); err != nil {
					return err
				}
				batch = batch[:0]
			}
		}
	}
	return x.settle()
}

// hold records where blocks are.
func (x *indexer) hold(shardID int64, batch []section) error {
	args := make([]any, 0, 4*len(batch))
	for _, s := range batch {
		args = append(args, []byte(s.c.Hash()), shardID, s.off, s.len)
	}
	if err := x.exec(`INSERT OR IGNORE INTO blocks (mh, shard, off, len) VALUES %s`, `(?,?,?,?)`, len(batch), args); err != nil {
		return fmt.Errorf("index blocks: %w", err)
	}
	return nil
}

// link tells the parents of leaves that these are held, and works out what the
// inner nodes among the blocks wait for.
func (x *indexer) link(in *sections, batch []section) error {
	if err := x.wake(batch); err != nil {
		return err
	}
	inner := make(map[nodeKey]section)
	var keys []nodeKey
	for _, s := range batch {
		if k := keyOf(s.c); hasLinks(k.codec) {
			if _, twice := inner[k]; !twice {
				inner[k] = s
				keys = append(keys, k)
			}
		}
	}
	known, err := x.states(keys)
	if err != nil {
		return err
	}
	var nodes []freshNode
	total := 0
	for _, k := range keys {
		if state, ok := known[k]; ok && state != nodeUnread {
			continue
		}
		data, err := in.data(inner[k])
		if err != nil {
			return err
		}
		n := parse(k, data)
		nodes = append(nodes, n)
		if total += len(n.links); total >= batchLinks {
			if err := x.evaluate(nodes); err != nil {
				return err
			}
			nodes, total = nil, 0
		}
	}
	return x.evaluate(nodes)
}

// wake takes held leaves off the lists of those who wait for them. A block may
// also be waited for as a node of a codec that its section does not have; such
// nodes are left to be read.
func (x *indexer) wake(batch []section) error {
	mhs := make([]any, len(batch))
	for i, s := range batch {
		mhs[i] = []byte(s.c.Hash())
	}
	leaf := `codec NOT IN ` + innerCodecs
	for _, q := range []string{
		`UPDATE nodes SET pending = pending - w.n FROM
			(SELECT parent, count(*) AS n FROM waiting WHERE mh IN (%s) AND ` + leaf + ` GROUP BY parent) AS w
			WHERE nodes.id = w.parent`,
		`DELETE FROM waiting WHERE mh IN (%s) AND ` + leaf,
		`INSERT OR IGNORE INTO nodes (mh, codec, pending) SELECT DISTINCT mh, codec, -2 FROM waiting WHERE mh IN (%s)`,
	} {
		if err := x.exec(q, `?`, len(mhs), mhs); err != nil {
			return fmt.Errorf("wake parents: %w", err)
		}
	}
	return nil
}
