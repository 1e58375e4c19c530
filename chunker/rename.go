package chunker

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrRenamed is wrapped by the error for a name that the programs of the
// profile turn into no name at all, or into the name of another entry. Their
// root cannot be reproduced.
var ErrRenamed = errors.New("is lost by the programs of profile")

// jsBlanks is the characters that JavaScript's trim removes.
const jsBlanks = "\t\n\v\f\r \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"

// changesNames reports whether the programs of the profile trim the path of
// each file, from the top of the tree to the file's name, and split it at
// backslashes. The importer of nft.storage 7 and web3.storage 4 does.
func (p *Profile) changesNames() bool {
	name, _, _ := strings.Cut(p.Name, "+")
	return name == "nft.storage" || name == "web3.storage"
}

// renamed returns what the profile's programs make of a name: the directories
// on the way and the last name, or nothing for a directory that disappears. ok
// is false if the result is not a valid name. (A name that ends in a backslash
// is joined to the next one, with the slash between them.)
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

// rename gives the entries of a complete tree the names and places that the
// profile's programs give them, and records where they are on disk in mounts.
// It returns an order of nodes with children before their parents, or nil if
// last to first is such an order.
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
	instead := make(map[*node]*node) // directories replaced by others
	root := d.nodes.at(0)
	for i := 1; i < found; i++ { // directories come before their entries
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
		case len(parts) == 0: // its entries move to its parent
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
