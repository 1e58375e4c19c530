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

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/links"
)

// Depths that no sane DAG comes near.
const (
	maxDirDepth  = 512 // each holds a descriptor while it is restored
	maxFileDepth = 128
)

var (
	// ErrMissing is wrapped by errors that report a block which none of the
	// archives has.
	ErrMissing = errors.New("block is missing")

	// ErrTooLarge is wrapped by errors that report a DAG which unfolds to more
	// than the options allow.
	ErrTooLarge = errors.New("more than allowed")
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

// store is where blocks come from. It is for one goroutine.
type store struct {
	index  *car.Index
	loader car.Loader
}

// find tells where a block is, be it within its CID.
func (s *store) find(c cid.Cid) (car.Block, error) {
	if data, ok := links.Identity(c); ok {
		return car.Block{Cid: c, Head: data}, nil
	}
	b, ok := s.index.Find(c)
	if !ok {
		return b, ErrMissing
	}
	return b, nil
}

// load returns a block's payload, valid until the next one is loaded.
func (s *store) load(ctx context.Context, c cid.Cid) ([]byte, error) {
	b, err := s.find(c)
	if err != nil {
		return nil, err
	}
	return s.loader.Load(ctx, b)
}

// node loads and decodes a block. A block of the raw codec is a file without
// links.
func (s *store) node(ctx context.Context, c cid.Cid) (*node, error) {
	switch codec := c.Prefix().Codec; codec {
	case links.Raw, links.DagPB:
		data, err := s.load(ctx, c)
		if err != nil {
			return nil, err
		}
		return decodeAs(codec, data)
	default:
		return nil, invalid("codec 0x%x", codec)
	}
}

func decodeAs(codec uint64, data []byte) (*node, error) {
	if codec == links.Raw {
		return &node{typ: File, data: data, size: uint64(len(data))}, nil
	}
	return decode(data)
}

// dirEntry is a name in a directory.
type dirEntry struct {
	name string
	cid  cid.Cid
}

// eachEntry calls f for each entry of a directory in the order of its links,
// and with an error for each part of it that can't be had, until f returns an
// error. It loads blocks in between.
func (s *store) eachEntry(ctx context.Context, dir *node, path string, f func(dirEntry, error) error) error {
	if dir.typ == Shard {
		_, err := s.eachOfShard(ctx, dir, path, 0, 0, f)
		return err
	}
	// The names are part of the block and won't outlast the next load.
	entries := make([]dirEntry, 0, len(dir.links))
	names := make(map[string]struct{}, len(dir.links))
	for _, l := range dir.links {
		e, err := entry(l.Name, l.Cid, path)
		if _, twice := names[e.name]; err == nil && twice {
			err = &BlockError{Path: join(path, e.name), Cid: l.Cid, Err: invalid("the directory has this name twice")}
		}
		if err != nil {
			if err := f(dirEntry{}, err); err != nil {
				return err
			}
			continue
		}
		names[e.name] = struct{}{}
		entries = append(entries, e)
	}
	for _, e := range entries {
		if err := f(e, nil); err != nil {
			return err
		}
	}
	return nil
}

// shardLink is a link of a directory shard: to an entry, or to a sub-shard.
type shardLink struct {
	dirEntry
	prefix uint64 // of the hashes of all names under it
	sub    bool
}

// eachOfShard is eachEntry for a shard of a directory. The hashes of all names
// in it begin with this prefix of so many bits. It tells how many there were.
func (s *store) eachOfShard(ctx context.Context, dir *node, path string, prefix uint64, used int, f func(dirEntry, error) error) (count int, err error) {
	digits, width, fanout := dir.prefixLen(), bits.TrailingZeros64(dir.fanout), dir.fanout
	used += width
	if used > 64 {
		return 1, f(dirEntry{}, &BlockError{Path: path, Err: invalid("directory shards nested too deep")})
	}
	all := make([]shardLink, 0, len(dir.links))
	for _, l := range dir.links {
		bucket, err := parseBucket(l.Name[:digits])
		if err != nil {
			return count, err
		}
		name := l.Name[digits:]
		sl := shardLink{dirEntry{cid: l.Cid}, prefix<<width | uint64(bucket), len(name) == 0}
		if !sl.sub {
			if sl.dirEntry, err = entry(name, l.Cid, path); err == nil && nameHash(name)>>(64-used) != sl.prefix {
				err = &BlockError{Path: join(path, sl.name), Cid: l.Cid, Err: invalid("a name in a shard of the directory where its hash does not belong")}
			}
		}
		if err == nil {
			all = append(all, sl)
			continue
		}
		count++
		if err := f(dirEntry{}, err); err != nil {
			return count, err
		}
	}
	for _, l := range all {
		if !l.sub {
			count++
			if err := f(l.dirEntry, nil); err != nil {
				return count, err
			}
			continue
		}
		sub, err := s.node(ctx, l.cid)
		if err == nil && (sub.typ != Shard || sub.fanout != fanout) {
			err = invalid("it is not a shard of the directory")
		}
		n := 1
		if err == nil {
			if n, err = s.eachOfShard(ctx, sub, path, l.prefix, used, f); err != nil {
				return count, err
			}
			if n == 0 { // it could be linked to over and over
				err = invalid("an empty shard of a directory")
			}
		}
		count += n
		if err == nil {
			continue
		}
		if err := f(dirEntry{}, &BlockError{Path: path, Cid: l.cid, Err: err}); err != nil {
			return count, err
		}
	}
	return count, nil
}

// entry checks a name.
func entry(name []byte, c cid.Cid, path string) (dirEntry, error) {
	s := string(name)
	if s == "" || s == "." || s == ".." || strings.ContainsAny(s, "/\x00") {
		return dirEntry{}, &BlockError{Path: path, Err: invalid("the name %q in a directory", s)}
	}
	return dirEntry{s, c}, nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "/" + name
}
