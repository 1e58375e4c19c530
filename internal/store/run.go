package store

import (
	"cmp"
	"errors"
	"io"
	"slices"
)

// run is a sequence of adjacent blocks in a shard being indexed. They are
// sorted by multihash, so that blocks on the same page of the index come
// together.
type run struct {
	sections []section
	firsts   []uint64 // firstOf the multihashes
	parents  bool     // the first block in the file may have links
	losses   int64    // the writer's losses before these blocks were recorded
}

// read reads the next n sections, or fewer at the end.
func (r *run) read(in *sections, n int) error {
	r.sections = r.sections[:0]
	for len(r.sections) < n {
		sec, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		r.sections = append(r.sections, sec)
	}
	r.parents = len(r.sections) > 0 && hasLinks(r.sections[0].key.codec)
	slices.SortFunc(r.sections, func(a, b section) int {
		if a.first != b.first { // the usual case
			return cmp.Compare(a.first, b.first)
		}
		return cmp.Or(cmp.Compare(a.key.mh, b.key.mh), cmp.Compare(a.off, b.off))
	})
	r.firsts = r.firsts[:0]
	for _, s := range r.sections {
		r.firsts = append(r.firsts, s.first)
	}
	return nil
}

// starts returns where further runs of n sections begin.
func (s *sections) starts(n int) (starts []int64, err error) {
	for i := 0; s.off < s.end; i++ {
		if i%n == 0 {
			starts = append(starts, s.off)
		}
		_, before, length, err := s.frame(0)
		if err != nil {
			return nil, err
		}
		s.off += before + length
	}
	return starts, nil
}

// inner returns the blocks that can have links, each once, in the order of the
// file.
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

// has reports whether the run has a block.
func (r *run) has(mh string) bool {
	first := firstOf(mh)
	i, is := slices.BinarySearch(r.firsts, first)
	if !is || r.sections[i].key.mh == mh {
		return is
	}
	_, is = slices.BinarySearchFunc(r.sections[i:], mh, func(s section, mh string) int { return cmp.Compare(s.key.mh, mh) })
	return is
}
