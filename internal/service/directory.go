package service

import (
	"context"
	"fmt"
	"slices"
	"strings"

	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/spaolacci/murmur3"
)

// directory is a tree of imported files, by name.
type directory map[string]entry

// entry is a file, or a directory if the field directory is set.
type entry struct {
	file written
	dir  directory
}

const (
	maxPathSegments = 64

	// maxNameBytes is the longest name that file systems allow. A file with a
	// longer name could not be restored.
	maxNameBytes = 255

	// maxEntries limits the files and directories in a form, since they stay in
	// memory until its end.
	maxEntries = 100_000
)

// jsBlanks are the characters that JavaScript's trim removes.
const jsBlanks = "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"

// components splits a path as the original's importer did. It trims the path
// and splits it at slashes and backslashes, but not at a slash that follows a
// backslash.
func components(path string) (out []string) {
	var part strings.Builder
	flush := func() {
		if part.Len() > 0 {
			out = append(out, part.String())
		}
		part.Reset()
	}
	path = strings.Trim(path, jsBlanks)
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '\\' && strings.HasPrefix(path[i+1:], "/"):
			part.WriteString(`\/`)
			i++
		case c == '/' || c == '\\':
			flush()
		default:
			part.WriteByte(c)
		}
	}
	flush()
	return out
}

// place puts a file at a path. If two files have the same path, the last one
// wins.
func (b *importer) place(d directory, path string, file written) error {
	segments := slices.DeleteFunc(components(path), func(s string) bool { return s == "." })
	if i := slices.IndexFunc(segments, func(s string) bool { return strings.Contains(s, "/") }); i >= 0 {
		return badRequest("file name %q has a slash in it", segments[i])
	}
	if len(segments) == 0 || len(segments) > maxPathSegments {
		return thrown("file name %q names no file", path)
	}
	for _, s := range segments {
		if len(s) > maxNameBytes {
			return badRequest("a file name of %d bytes is too long; the limit is %d", len(s), maxNameBytes)
		}
	}
	last := len(segments) - 1
	for _, s := range segments[:last] {
		sub := d[s].dir
		if sub == nil {
			sub = make(directory)
			d[s] = entry{dir: sub}
			b.entries++
		}
		d = sub
	}
	d[segments[last]] = entry{file: file}
	if b.entries++; b.entries > maxEntries {
		return badRequest("the form has more than %d files and directories; send a CAR instead", maxEntries)
	}
	return nil
}

// shardEntries is the number of entries from which the original's importer made
// a directory a HAMT.
const shardEntries = 1000

// tooDeep is the start of boxo's error for names whose hashes are all equal.
// The error has no type.
const tooDeep = "sharded directory too deep"

// twin finds another name with the same hash.
func (d directory) twin(name string) string {
	for other := range d {
		if other != name && murmur3.Sum64([]byte(other)) == murmur3.Sum64([]byte(name)) {
			return other
		}
	}
	return ""
}

// addDirectory writes a directory and its subdirectories, and returns its node.
func (b *importer) addDirectory(ctx context.Context, d directory) (written, error) {
	var dir uio.Directory
	var err error
	if len(d) < shardEntries {
		dir, err = uio.NewBasicDirectory(b, uio.WithCidBuilder(importPrefix()))
	} else {
		dir, err = uio.NewHAMTDirectory(b, 0, uio.WithCidBuilder(importPrefix()), uio.WithMaxHAMTFanout(256))
	}
	if err != nil {
		return written{}, fmt.Errorf("make directory: %w", err)
	}
	for name, e := range d {
		child := e.file
		if e.dir != nil {
			if child, err = b.addDirectory(ctx, e.dir); err != nil {
				return written{}, err
			}
		}
		if err := dir.AddChild(ctx, name, child); err != nil {
			if strings.Contains(err.Error(), tooDeep) {
				return written{}, badRequest("the file names %q and %q have the same hash; send a CAR with a plain directory instead", name, d.twin(name))
			}
			return written{}, fmt.Errorf("add %q to directory: %w", name, err)
		}
	}
	nd, err := dir.GetNode()
	if err != nil {
		return written{}, fmt.Errorf("make directory: %w", err)
	}
	if err := b.Add(ctx, nd); err != nil {
		return written{}, err
	}
	return asWritten(nd)
}
