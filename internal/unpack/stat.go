package unpack

import (
	"context"
	"fmt"
	"io/fs"
	"math/bits"
	"strings"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/unixfs"
)

// ErrNoEntry is wrapped by errors about a path that does not exist. It matches
// [fs.ErrNotExist].
var ErrNoEntry = fmt.Errorf("no such entry: %w", fs.ErrNotExist)

// Stat describes the entry at a path below root. The path is separated by
// slashes; an empty one means the root. The size of a directory is what it
// claims for everything below it.
func Stat(ctx context.Context, b Blocks, root cid.Cid, path string) (Entry, error) {
	s := newStore(b)
	c, at := root, ""
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		at = join(at, name)
		var err error
		if c, err = s.lookup(ctx, c, name); err != nil {
			return Entry{}, &BlockError{Path: at, Cid: root, Err: err}
		}
	}
	n, err := s.node(ctx, c)
	if err != nil {
		return Entry{}, &BlockError{Path: at, Cid: c, Err: err}
	}
	e := Entry{Path: at, Type: n.Type, Cid: c, Mode: fs.FileMode(n.Mode) & fs.ModePerm, HasMode: n.HasMode, Mtime: n.Mtime}
	switch n.Type {
	case unixfs.Directory, unixfs.Shard:
		e.Type = unixfs.Directory
		for _, l := range n.Links {
			e.Size = min(e.Size+clampSize(l.Tsize), 1<<60)
		}
	case unixfs.Symlink:
		e.Target = string(n.Data)
	default:
		e.Type, e.Size = unixfs.File, int64(n.Size)
	}
	return e, nil
}

// lookup finds a name in the directory c.
func (s *store) lookup(ctx context.Context, c cid.Cid, name string) (cid.Cid, error) {
	n, err := s.node(ctx, c)
	if err != nil {
		return cid.Undef, err
	}
	switch n.Type {
	case unixfs.Directory:
		for _, l := range n.Links {
			if string(l.Name) == name {
				return l.Cid, nil
			}
		}
		return cid.Undef, ErrNoEntry
	case unixfs.Shard:
		return s.lookupShard(ctx, n, name)
	}
	return cid.Undef, fmt.Errorf("%w: its parent is a %s", ErrNoEntry, n.Type)
}

// lookupShard follows the bits of the name's hash from shard to shard.
func (s *store) lookupShard(ctx context.Context, n *unixfs.Node, name string) (cid.Cid, error) {
	fanout, width := n.Fanout, bits.TrailingZeros64(n.Fanout)
	hash := unixfs.NameHash([]byte(name))
	for used := width; used <= 64; used += width {
		bucket := int(hash >> (64 - used) & (fanout - 1))
		digits, sub := n.PrefixLen(), cid.Undef
		for _, l := range n.Links {
			if b, err := unixfs.ParseBucket(l.Name[:digits]); err != nil || b != bucket {
				continue
			}
			switch string(l.Name[digits:]) {
			case name:
				return l.Cid, nil
			case "":
				sub = l.Cid
			}
		}
		if !sub.Defined() {
			return cid.Undef, ErrNoEntry
		}
		var err error
		if n, err = s.node(ctx, sub); err != nil {
			return cid.Undef, err
		}
		if n.Type != unixfs.Shard || n.Fanout != fanout {
			return cid.Undef, unixfs.Invalid("it is not a shard of the directory")
		}
	}
	return cid.Undef, unixfs.Invalid("directory shards nested too deep")
}
