package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// batchSections is how many blocks of a shard are made known at a time.
const batchSections = 256

// add makes the blocks of a shard known, and then all that follows from it. It
// reads the file twice: what links to what is asked only when all its blocks
// count as held. The second time it goes from the end to the beginning, batch by
// batch: most shards have parents before children, and a node whose children are
// complete need not wait for them. It holds one batch, whatever the size of the
// file. Between batches it stops if the context ends.
func (x *indexer) add(sh shard) (err error) {
	f, err := os.Open(x.st.files.path(sh.cid))
	if err != nil {
		return fmt.Errorf("index shard: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	in, err := newSections(f, sh.payload, sh.end)
	if err != nil {
		return err
	}
	batch := make([]section, 0, batchSections)
	var starts []int64
	for in.off < in.end {
		starts = append(starts, in.off)
		if batch, err = in.batch(batch); err != nil {
			return fmt.Errorf("index shard %s: %w", sh.cid, err)
		}
		if err := x.hold(sh.id, batch); err != nil {
			return err
		}
		if in.off == in.end && len(starts) == 1 {
			break // a small one
		}
		if err := x.rest(); err != nil {
			return err
		}
	}
	for i := len(starts) - 1; i >= 0; i-- {
		if i < len(starts)-1 { // the last is the batch that is there
			in.off = starts[i]
			if batch, err = in.batch(batch); err != nil {
				return fmt.Errorf("index shard %s: %w", sh.cid, err)
			}
		}
		if err := x.link(in, batch); err != nil {
			return err
		}
		if err := x.settle(); err != nil {
			return err
		}
		if err := x.rest(); err != nil {
			return err
		}
	}
	return x.settle()
}

// rest is pause where the work may be left for good.
func (x *indexer) rest() error {
	if err := x.pause(); err != nil {
		return err
	}
	if x.yields == 0 {
		return nil
	}
	return context.Cause(x.asked)
}

// batch reads the next sections into buf, none at the end.
func (s *sections) batch(buf []section) ([]section, error) {
	buf = buf[:0]
	for len(buf) < batchSections {
		sec, err := s.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return buf, err
		}
		buf = append(buf, sec)
	}
	return buf, nil
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
	known, err := x.states(keys) // wake may have paused before
	if err != nil {
		return err
	}
	var nodes []freshNode
	total := 0
	for i := len(keys) - 1; i >= 0; i-- {
		k := keys[i]
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
			if err := x.settle(); err != nil {
				return err
			}
			if known, err = x.states(keys[:i]); err != nil { // others may have done some meanwhile
				return err
			}
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
	var waited []any
	err := x.query(`SELECT DISTINCT mh FROM waiting WHERE mh IN (%s)`, `?`, len(mhs), mhs, func(scan scanRow) error {
		var mh []byte
		err := scan(&mh)
		waited = append(waited, mh)
		return err
	})
	if err != nil {
		return fmt.Errorf("wake parents: %w", err)
	}
	if len(waited) == 0 {
		return nil
	}
	// A pause may have seen them lost.
	if err := x.release(`mh IN (SELECT mh FROM blocks WHERE mh IN (%s)) AND codec NOT IN `+innerCodecs, `?`, len(waited), waited); err != nil {
		return fmt.Errorf("wake parents: %w", err)
	}
	err = x.query(`INSERT OR IGNORE INTO nodes (mh, codec, pending) SELECT DISTINCT mh, codec, -2 FROM waiting WHERE mh IN (%s)
		RETURNING mh, codec`, `?`, len(waited), waited, x.unread.scan)
	if err != nil {
		return fmt.Errorf("wake parents: %w", err)
	}
	return nil
}
