// Package unpack is the way back from archives to files. It reads UnixFS DAGs
// whose blocks lie in one archive or in the shards of one: it lists them,
// restores them, tells what is in an archive and whether a DAG is complete.
//
// Nothing that an archive says is believed. Every block is hashed before it is
// used, sizes that contradict one another are errors, and names can't lead out
// of the directory that files are restored into. Memory does not grow with the
// size of files.
package unpack

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
)

// maxDirDepth is a depth that no sane DAG comes near. Each level holds a
// descriptor while it is restored.
const maxDirDepth = links.MaxDepth

var (
	// ErrMissing is wrapped by errors that report a block which none of the
	// archives has.
	ErrMissing = links.ErrMissing

	// ErrTooLarge is wrapped by errors that report a DAG which unfolds to more
	// than the options allow.
	ErrTooLarge = errors.New("more than allowed")

	// ErrName is wrapped by errors that report an [Options.Name] which no file
	// can have.
	ErrName = errors.New("not the name of a file")
)

// BlockError says which block of what could not be had, and why. It matches
// what Err matches: [ErrMissing], [car.ErrCorrupt], [ErrInvalid].
type BlockError struct {
	Path     string // in the DAG, separated by slashes
	Cid      cid.Cid
	From, To int64 // range of the content that the block stands for; equal if it is none
	Err      error
}

func (e *BlockError) Error() string {
	path := fmt.Sprintf("%q", e.Path)
	if e.Path == "" {
		path = "the root"
	}
	if e.From < e.To {
		path += fmt.Sprintf(", bytes %d to %d", e.From, e.To-1)
	}
	if !e.Cid.Defined() {
		return fmt.Sprintf("%s: %v", path, e.Err)
	}
	return fmt.Sprintf("%s: block %s: %v", path, e.Cid, e.Err)
}

// Unwrap returns Err.
func (e *BlockError) Unwrap() error { return e.Err }

// dirEntry is a name in a directory.
type dirEntry struct {
	name string
	cid  cid.Cid
}

// eachEntry calls f for each entry of a directory in the order of its links,
// and with an error for each part of it that can't be had, until f returns an
// error. It loads blocks in between.
func (s *store) eachEntry(ctx context.Context, dir *unixfs.Node, path string, f func(dirEntry, error) error) error {
	if dir.Type == unixfs.Shard {
		d := shardedDir{s, path, dir.Fanout, make(map[cid.Cid]struct{}), f}
		return d.shard(ctx, dir, 0, 0)
	}
	// The names are part of the block and won't outlast the next load.
	entries := make([]dirEntry, 0, len(dir.Links))
	names := make(map[string]struct{}, len(dir.Links))
	cids, sizes := make([]cid.Cid, 0, len(dir.Links)), make([]int64, 0, len(dir.Links))
	for _, l := range dir.Links {
		e, err := entry(l.Name, l.Cid, path)
		if _, twice := names[e.name]; err == nil && twice {
			err = &BlockError{Path: join(path, e.name), Cid: l.Cid, Err: unixfs.Invalid("the directory has this name twice")}
		}
		if err != nil {
			if err := f(dirEntry{}, err); err != nil {
				return err
			}
			continue
		}
		names[e.name] = struct{}{}
		entries = append(entries, e)
		cids, sizes = append(cids, l.Cid), append(sizes, clampSize(l.Tsize))
	}
	s.Enter(cids, sizes, false)
	defer s.Leave()
	for i, e := range entries {
		s.At(i)
		if err := f(e, nil); err != nil {
			return err
		}
	}
	return nil
}

// clampSize is a size that a node claims, as far as it makes sense.
func clampSize(n uint64) int64 { return int64(min(n, 1<<60)) }

// shardLink is a link of a directory shard: to an entry, or to a sub-shard.
type shardLink struct {
	dirEntry
	prefix uint64 // of the hashes of all names under it
	sub    bool
}

// shardedDir is a directory in shards that is being read.
type shardedDir struct {
	store  *store
	path   string
	fanout uint64
	met    map[cid.Cid]struct{} // sub-shards; a second link to one would repeat its names
	f      func(dirEntry, error) error
}

// shard is eachEntry for a shard. The hashes of all names in it begin with this
// prefix of so many bits.
func (d *shardedDir) shard(ctx context.Context, n *unixfs.Node, prefix uint64, used int) error {
	digits, width := n.PrefixLen(), bits.TrailingZeros64(d.fanout)
	used += width
	if used > 64 {
		return d.f(dirEntry{}, &BlockError{Path: d.path, Err: unixfs.Invalid("directory shards nested too deep")})
	}
	// The names are part of the block and won't outlast the next load.
	all := make([]shardLink, 0, len(n.Links))
	cids, sizes := make([]cid.Cid, 0, len(n.Links)), make([]int64, 0, len(n.Links))
	for _, l := range n.Links {
		bucket, err := unixfs.ParseBucket(l.Name[:digits])
		if err != nil {
			return err
		}
		name := l.Name[digits:]
		sl := shardLink{dirEntry{cid: l.Cid}, prefix<<width | uint64(bucket), len(name) == 0}
		if !sl.sub {
			if sl.dirEntry, err = entry(name, l.Cid, d.path); err == nil && unixfs.NameHash(name)>>(64-used) != sl.prefix {
				err = &BlockError{Path: join(d.path, sl.name), Cid: l.Cid, Err: unixfs.Invalid("a name in a shard of the directory where its hash does not belong")}
			}
		}
		if err == nil {
			all = append(all, sl)
			cids, sizes = append(cids, l.Cid), append(sizes, clampSize(l.Tsize))
		} else if err := d.f(dirEntry{}, err); err != nil {
			return err
		}
	}
	d.store.Enter(cids, sizes, false)
	defer d.store.Leave()
	for i, l := range all {
		d.store.At(i)
		if !l.sub {
			if err := d.f(l.dirEntry, nil); err != nil {
				return err
			}
			continue
		}
		sub, err := d.sub(ctx, l.cid)
		if err == nil {
			err = d.shard(ctx, sub, l.prefix, used)
		} else {
			err = d.f(dirEntry{}, &BlockError{Path: d.path, Cid: l.cid, Err: err})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *shardedDir) sub(ctx context.Context, c cid.Cid) (*unixfs.Node, error) {
	if _, twice := d.met[c]; twice {
		return nil, unixfs.Invalid("a shard that the directory links to twice")
	}
	d.met[c] = struct{}{}
	n, err := d.store.node(ctx, c)
	if err == nil && (n.Type != unixfs.Shard || n.Fanout != d.fanout) {
		err = unixfs.Invalid("it is not a shard of the directory")
	}
	return n, err
}

// entry checks a name.
func entry(name []byte, c cid.Cid, path string) (dirEntry, error) {
	s := string(name)
	if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\x00") {
		return dirEntry{}, &BlockError{Path: path, Err: unixfs.Invalid("the name %q in a directory", s)}
	}
	return dirEntry{s, c}, nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "/" + name
}
