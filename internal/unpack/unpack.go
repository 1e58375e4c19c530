// Package unpack turns archives back into files. It reads UnixFS DAGs whose
// blocks are in one archive or in several shards. It lists and restores them,
// describes the contents of archives, and checks whether a DAG is complete.
//
// It trusts nothing that an archive says. It hashes every block before using
// it, treats contradicting sizes as errors, and lets no name lead out of the
// directory that it restores into. Its memory does not grow with the size of
// files.
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

// maxDirDepth is deeper than any sane DAG. During a restore, each level holds
// an open file descriptor.
const maxDirDepth = links.MaxDepth

var (
	// ErrMissing is wrapped by errors about a block that none of the archives
	// has.
	ErrMissing = links.ErrMissing

	// ErrTooLarge is wrapped by errors about a DAG that unfolds to more than
	// the options allow.
	ErrTooLarge = errors.New("more than allowed")

	// ErrName is wrapped by errors about an [Options.Name] that no file can
	// have.
	ErrName = errors.New("not the name of a file")
)

// BlockError says which block of a DAG could not be read, and why. It matches
// what Err matches: [ErrMissing], [car.ErrCorrupt], [ErrInvalid].
type BlockError struct {
	Path     string // in the DAG, separated by slashes
	Cid      cid.Cid
	From, To int64 // the bytes of the content that the block stands for; From == To if none
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

// dirEntry is an entry of a directory.
type dirEntry struct {
	name string
	cid  cid.Cid
}

// eachEntry calls f for each entry of a directory, in the order of its links.
// For each part of the directory that can't be read, it calls f with an error.
// It stops when f returns an error. It loads blocks between the calls.
func (s *store) eachEntry(ctx context.Context, dir *unixfs.Node, path string, f func(dirEntry, error) error) error {
	if dir.Type == unixfs.Shard {
		d := shardedDir{s, path, dir.Fanout, make(map[cid.Cid]struct{}), f}
		return d.shard(ctx, dir, 0, 0)
	}
	// The names are slices of the block, which the next load overwrites.
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

// clampSize limits a size that a node claims to what makes sense.
func clampSize(n uint64) int64 { return int64(min(n, 1<<60)) }

// shardLink is a link of a directory shard: to an entry or to a sub-shard.
type shardLink struct {
	dirEntry
	prefix uint64 // of the hashes of all names below it
	sub    bool
}

// shardedDir is a sharded directory that is being read.
type shardedDir struct {
	store  *store
	path   string
	fanout uint64
	met    map[cid.Cid]struct{} // sub-shards; a second link to one would repeat its names
	f      func(dirEntry, error) error
}

// shard is eachEntry for one shard. The hashes of all its names begin with the
// prefix, which has as many bits as used says.
func (d *shardedDir) shard(ctx context.Context, n *unixfs.Node, prefix uint64, used int) error {
	digits, width := n.PrefixLen(), bits.TrailingZeros64(d.fanout)
	used += width
	if used > 64 {
		return d.f(dirEntry{}, &BlockError{Path: d.path, Err: unixfs.Invalid("directory shards nested too deep")})
	}
	// The names are slices of the block, which the next load overwrites.
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

// entry checks the name of a directory entry.
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
