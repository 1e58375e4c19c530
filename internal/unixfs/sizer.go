package unixfs

import (
	"context"
	"fmt"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/links"
)

// Blocks is where a [Sizer] gets blocks from.
type Blocks interface {
	// Len returns the length of a block.
	Len(ctx context.Context, c cid.Cid) (int64, error)
	// Load returns the bytes of a block, already checked against its CID. They
	// are valid until the next call.
	Load(ctx context.Context, c cid.Cid) ([]byte, error)
}

// Sizer computes the sizes that nodes of files don't state. It is not safe for
// concurrent use.
type Sizer struct {
	Blocks Blocks

	known map[cid.Cid]uint64 // sizes of nodes that don't state them, so that each is walked once
}

// Size sets n.Size and n.Sizes if n is a file's node that is not Sized. It
// follows the links down to leaves, and to nodes that state their size. It
// trusts those, as any reader does: one that states a wrong size is found when
// it is read. If n itself states a size that its parts contradict, Size returns
// an error. Other nodes are left as they are.
func (s *Sizer) Size(ctx context.Context, n *Node) error { return s.size(ctx, n, 0) }

func (s *Sizer) size(ctx context.Context, n *Node, depth int) error {
	if n.Sized || !n.IsFile() {
		return nil
	}
	if depth > MaxFileDepth {
		return Invalid("nested too deep")
	}
	sizes := make([]uint64, len(n.Links))
	here := make(map[cid.Cid]uint64) // a node may link to the same child many times
	for i, l := range n.Links {
		size, ok := here[l.Cid]
		if !ok {
			var err error
			if size, err = s.child(ctx, l.Cid, depth+1); err != nil {
				return err
			}
			here[l.Cid] = size
		}
		sizes[i] = size
	}
	n.Sizes = sizes
	return n.sum()
}

func (s *Sizer) child(ctx context.Context, c cid.Cid, depth int) (uint64, error) {
	if err := context.Cause(ctx); err != nil {
		return 0, err
	}
	if size, ok := s.known[c]; ok {
		return size, nil
	}
	codec := c.Prefix().Codec
	if codec == links.Raw {
		size, err := s.Blocks.Len(ctx, c)
		if err != nil {
			return 0, fmt.Errorf("block %s: %w", c, err)
		}
		return uint64(size), nil
	}
	data, err := s.Blocks.Load(ctx, c)
	if err != nil {
		return 0, fmt.Errorf("block %s: %w", c, err)
	}
	n, err := Decode(codec, data)
	if err == nil && !n.IsFile() {
		err = Invalid("a %s as part of a file", n.Type)
	}
	if err != nil {
		return 0, fmt.Errorf("block %s: %w", c, err)
	}
	if n.Sized {
		return n.Size, nil
	}
	if err := s.size(ctx, n, depth); err != nil {
		return 0, err
	}
	if s.known == nil {
		s.known = make(map[cid.Cid]uint64)
	}
	s.known[c] = n.Size
	return n.Size, nil
}
