package store

import (
	"cmp"
	"errors"
	"io"
	"slices"
)

// runSections is how many blocks of a shard are made known at a time, in the
// order of their hashes: so those that get to the same page of the index come
// together.
const runSections = 64 << 10

// run are blocks of a shard that is indexed, which follow each other in its file.
// They are in the order of their multihashes.
type run struct {
	sections []section
	losses   int64 // as they were counted before the shard was held
}

// read reads the next sections, none at the end.
func (r *run) read(in *sections) error {
	r.sections = r.sections[:0]
	for len(r.sections) < runSections {
		sec, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		r.sections = append(r.sections, sec)
	}
	slices.SortFunc(r.sections, func(a, b section) int {
		return cmp.Or(a.compare(b.first, b.key.mh), cmp.Compare(a.off, b.off))
	})
	return nil
}

// inner returns those that are looked into, each once, in the order of the file.
func (r *run) inner() (out []section) {
	seen := make(map[nodeKey]struct{})
	for _, s := range r.sections {
		if !hasLinks(s.key.codec) {
			continue
		}
		if _, twice := seen[s.key]; !twice {
			seen[s.key] = struct{}{}
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b section) int { return cmp.Compare(a.off, b.off) })
	return out
}

// has reports whether a block is among them.
func (r *run) has(mh string) bool {
	first := firstOf(mh)
	_, is := slices.BinarySearchFunc(r.sections, mh, func(s section, mh string) int { return s.compare(first, mh) })
	return is
}
