package chunker

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrRenamed is wrapped by the error for a name of which the profile's programs
// make what is no name, or the name of another entry, so that their root can't be
// had.
var ErrRenamed = errors.New("is lost by the programs of the profile")

// jsBlanks is what JavaScript's trim takes off both ends of a string.
const jsBlanks = "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"

// changesNames tells profiles whose programs trim the path of each file, from
// the top of the tree to the file's name, and split it at backslashes: the
// importer that nft.storage 7 and web3.storage 4 pack with.
func (p *Profile) changesNames() bool {
	name, _, _ := strings.Cut(p.Name, "+")
	return name == "nft.storage" || name == "web3.storage"
}

// renamed returns what the profile's programs make of a name: the directories
// on the way and the last name, or nothing for a directory whose name goes
// away. If they make what is no name it reports false: a name that ends by a
// backslash is joined to the next one, with the slash between.
func renamed(name string, top, isDir bool) (parts []string, ok bool) {
	if top {
		name = strings.TrimLeft(name, jsBlanks)
	}
	if !isDir {
		name = strings.TrimRight(name, jsBlanks)
	}
	for part := range strings.SplitSeq(name, `\`) {
		if part == "." || part == ".." {
			return nil, false
		}
		if part != "" {
			parts = append(parts, part)
		}
	}
	if isDir {
		return parts, !strings.HasSuffix(name, `\`)
	}
	return parts, len(parts) > 0
}

// checkRenamed refuses an entry whose name the profile's programs lose.
func (w *walker) checkRenamed(dir *node, name string, isDir bool) error {
	if !w.opts.Profile.changesNames() {
		return nil
	}
	if _, ok := renamed(name, dir.parent == nil, isDir); ok {
		return nil
	}
	return fmt.Errorf("the name %q in directory %q %w %s", name, w.dag.path(dir), ErrRenamed, w.opts.Profile.Name)
}

// rename gives the entries of a tree, all of which were read, the names and
// places that the profile's programs give them. Where they are on disk becomes a
// mount. It returns the order of the nodes in which children come before their
// parents, nil for that from the last to the first.
func (d *DAG) rename() []uint32 {
	found := d.nodes.n
	isDir := func(n *node) bool { _, ok := n.body.(*directory); return ok }
	kept := func(n *node) bool {
		parts, ok := renamed(n.name, n.parent.parent == nil, isDir(n))
		return !ok || len(parts) == 1 && parts[0] == n.name
	}
	changed := false
	for i := 1; i < found && !changed; i++ {
		changed = !kept(d.nodes.at(uint32(i)))
	}
	if !changed {
		return nil
	}
	type place struct {
		parent *node
		name   string
	}
	dirs := make(map[place]*node)
	instead := make(map[*node]*node) // directories whose entries are in others
	root := d.nodes.at(0)
	for i := 1; i < found; i++ { // a directory before its entries
		n := d.nodes.at(uint32(i))
		if n.absent {
			continue
		}
		parts, ok := renamed(n.name, n.parent == root, isDir(n))
		if !ok {
			continue // it was refused
		}
		parent := n.parent
		if p := instead[parent]; p != nil {
			parent = p
		}
		path := d.path(n)
		moved := parent != n.parent
		for j, part := range parts[:max(0, len(parts)-1)] {
			next := dirs[place{parent, part}]
			if next == nil {
				next = d.nodes.add(node{name: part, parent: parent, body: &directory{}})
				dirs[place{parent, part}] = next
			}
			parent, moved = next, j >= 0
		}
		switch {
		case len(parts) == 0: // its entries are its parent's
			d.mounts[n], n.absent, instead[n] = path, true, parent
			continue
		case isDir(n):
			at := place{parent, parts[len(parts)-1]}
			if met := dirs[at]; met != nil {
				d.mounts[n], n.absent, instead[n] = path, true, met
				if met.stat == nil {
					met.stat = n.stat
				}
				continue
			}
			dirs[at] = n
		}
		if last := parts[len(parts)-1]; moved || last != n.name {
			d.mounts[n] = path
			n.parent, n.name = parent, last
		}
	}
	order := make([]uint32, d.nodes.n)
	depths := make([]int, d.nodes.n)
	for i := range order {
		order[i] = uint32(i)
		for n := d.nodes.at(uint32(i)); n.parent != nil; n = n.parent {
			depths[i]++
		}
	}
	slices.SortStableFunc(order, func(a, b uint32) int { return cmp.Compare(depths[b], depths[a]) })
	return order
}
