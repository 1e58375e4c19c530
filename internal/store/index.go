package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// add records the blocks of a shard, and everything that follows from them, run
// by run. It holds one run in memory, whatever the size of the file. In most
// shards, parents come before children. There it works from the end to the
// beginning, so that a node's children are already complete when it comes to
// the node. From time to time it checks whether the context has ended.
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
	return x.addFrom(sh, in)
}

// addFrom is add for a shard whose sections are known.
func (x *indexer) addFrom(sh shard, in *sections) error {
	defer func() { x.run = run{} }()
	n, there := x.st.turns.run, in.off
	if err := x.run.read(in, n); err != nil {
		return fmt.Errorf("index shard %s: %w", sh.cid, err)
	}
	starts := sh.runs
	if starts == nil {
		var err error
		if starts, err = in.starts(n); err != nil {
			return fmt.Errorf("index shard %s: %w", sh.cid, err)
		}
	}
	if starts = append([]int64{there}, starts...); x.run.parents {
		slices.Reverse(starts)
	}
	for _, start := range starts {
		if start != there {
			in.off, there = start, start
			if err := x.run.read(in, n); err != nil {
				return fmt.Errorf("index shard %s: %w", sh.cid, err)
			}
		}
		x.run.losses = x.st.db.write.losses
		if err := x.hold(sh.id, x.run.sections); err != nil {
			return err
		}
		if err := x.link(in); err != nil {
			return err
		}
		if err := x.propagate(); err != nil {
			return err
		}
		if err := x.rest(); err != nil {
			return err
		}
	}
	// Nodes that must be read, and are in this shard or in another that is
	// being added, had their turn above.
	if err := x.settle(); err != nil {
		return err
	}
	return x.flush()
}

// rest is pause at a point where the work may be abandoned.
func (x *indexer) rest() error {
	if err := x.pause(); err != nil {
		return err
	}
	if x.yields == 0 {
		return nil
	}
	return context.Cause(x.asked)
}

// hold records where blocks are.
func (x *indexer) hold(shardID int64, run []section) error {
	for len(run) > 0 {
		part := run[:min(len(run), statementRows)]
		args := make([]any, 0, 4*len(part))
		for _, s := range part {
			args = append(args, []byte(s.key.mh), shardID, s.off, s.len)
		}
		if err := x.exec(`INSERT OR IGNORE INTO blocks (mh, shard, off, len) VALUES %s`, `(?,?,?,?)`, len(part), args); err != nil {
			return fmt.Errorf("index blocks: %w", err)
		}
		if run = run[len(part):]; len(run) > 0 {
			if err := x.rest(); err != nil {
				return err
			}
		}
	}
	return nil
}

// link tells the parents of leaves that the leaves are held. Then it works out
// what the inner nodes of the run wait for.
func (x *indexer) link(in *sections) error {
	if err := x.wake(); err != nil {
		return err
	}
	inner := x.run.inner()
	var known map[nodeKey]int64
	var nodes []freshNode
	total := 0
	for i := len(inner) - 1; i >= 0; i-- {
		if known == nil || (i+1)%statementRows == 0 {
			var keys []nodeKey
			for _, s := range inner[i/statementRows*statementRows : i+1] {
				keys = append(keys, s.key)
			}
			var err error
			if known, err = x.states(keys); err != nil { // others may have done some during a pause
				return err
			}
		}
		k := inner[i].key
		if state, ok := known[k]; ok && state != nodeUnread {
			continue
		}
		data, err := in.data(inner[i])
		if err != nil {
			return err
		}
		n := parse(k, data)
		nodes = append(nodes, n)
		if total += 1 + len(n.links); total >= batchLinks {
			if err := x.evaluate(nodes); err != nil {
				return err
			}
			nodes, known, total = nil, nil, 0
			if err := x.propagate(); err != nil {
				return err
			}
			if err := x.rest(); err != nil {
				return err
			}
		}
	}
	return x.evaluate(nodes)
}

// wake removes held leaves from the waiting lists. If someone waits for a block
// as a node of another codec than its section's, the node will be read later.
func (x *indexer) wake() error {
	waited, err := x.waited()
	if err != nil {
		return fmt.Errorf("wake parents: %w", err)
	}
	if len(waited) == 0 {
		return nil
	}
	// The blocks may have been found lost during a pause, so ask again.
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

// waited returns the multihashes of the run that someone waits for. If few are
// waited for in all, it fetches those; otherwise it asks for each of the run's.
func (x *indexer) waited() (out []any, err error) {
	few := len(x.run.sections) / 8
	all, err := rowsOf(x.ctx, x.tx, `SELECT mh FROM waiting LIMIT ?`, []any{few + 1}, func(scan scanRow) (mh []byte, err error) {
		err = scan(&mh)
		return mh, err
	})
	if err != nil {
		return nil, err
	}
	if len(all) <= few {
		for i, mh := range all { // sorted by multihash
			if x.run.has(string(mh)) && (i == 0 || !bytes.Equal(mh, all[i-1])) {
				out = append(out, mh)
			}
		}
		return out, nil
	}
	mhs := make([]any, len(x.run.sections))
	for i, s := range x.run.sections {
		mhs[i] = []byte(s.key.mh)
	}
	err = x.query(`SELECT DISTINCT mh FROM waiting WHERE mh IN (%s)`, `?`, len(mhs), mhs, func(scan scanRow) error {
		var mh []byte
		err := scan(&mh)
		out = append(out, mh)
		return err
	})
	return out, err
}
