package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/walk"
)

// The kinds of nodes, as pages know them.
const (
	kindFile      = "file"
	kindDirectory = "directory"
	kindSymlink   = "symlink"
	kindOther     = "other"   // has links without names
	kindMissing   = "missing" // not held by the service
)

// node is a file or a directory, with some of its entries.
type node struct {
	Kind    string  `json:"kind"`
	Size    uint64  `json:"size"` // of a file's content, or else of the DAG
	Entries []entry `json:"entries,omitzero"`
	Next    *int    `json:"next"` // offset of the next entries; null if there are none
}

type entry struct {
	Name string `json:"name"`
	CID  string `json:"cid"`
	Kind string `json:"kind"`
	Size uint64 `json:"size"`
	Odd  bool   `json:"odd,omitempty"` // its name is not UTF-8; the page shows a replacement
}

// errEnough ends a listing when its page is full.
var errEnough = errors.New("the page is full")

// showNode answers with a page of a directory's entries, in the order of its
// links. A sharded directory is read only as far as the page needs.
func (c *Console) showNode(w http.ResponseWriter, r *http.Request, _ *session) {
	root, err := cid.Decode(r.PathValue("cid"))
	if err != nil {
		fail(w, http.StatusBadRequest, "That is not a CID.")
		return
	}
	q := r.URL.Query()
	offset, err := strconv.Atoi(q.Get("offset"))
	if err != nil || offset < 0 {
		offset = 0
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 1 || limit > maxPage {
		limit = maxPage
	}
	out, err := c.node(r.Context(), root, offset, limit)
	switch {
	case errors.Is(err, walk.ErrMissing):
		reply(w, http.StatusOK, node{Kind: kindMissing})
	case errors.Is(err, unixfs.ErrInvalid), errors.Is(err, links.ErrInvalid):
		reply(w, http.StatusOK, node{Kind: kindOther, Entries: []entry{}})
	case errors.Is(err, walk.ErrBusy):
		fail(w, http.StatusServiceUnavailable, "The service is busy; try again in a moment.")
	case err != nil:
		c.failed(w, r, err)
	default:
		reply(w, http.StatusOK, out)
	}
}

func (c *Console) node(ctx context.Context, root cid.Cid, offset, limit int) (*node, error) {
	n, err := c.reader.Node(ctx, root)
	if errors.Is(err, unixfs.ErrForeign) {
		return c.linked(ctx, root, offset, limit)
	}
	if err != nil {
		return nil, err
	}
	out := &node{Kind: kindOf(n), Size: n.Size}
	if out.Kind != kindDirectory {
		return out, nil
	}
	at := 0
	err = c.reader.Entries(ctx, root, n, func(e walk.Entry) error {
		at++
		if at <= offset {
			return nil
		}
		if len(out.Entries) == limit {
			next := offset + limit
			out.Next = &next
			return errEnough
		}
		entry := entry{Name: e.Name, CID: e.Cid.String(), Kind: kindFile, Size: e.Tsize, Odd: !utf8.ValidString(e.Name)}
		out.Entries = append(out.Entries, entry)
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return out, c.describe(ctx, out.Entries)
}

// describe sets the kinds and sizes of entries from their blocks. A raw block
// is always a file.
func (c *Console) describe(ctx context.Context, entries []entry) error {
	for i := range entries {
		e := &entries[i]
		id, err := cid.Decode(e.CID)
		if err != nil {
			return err
		}
		if id.Prefix().Codec == links.Raw {
			continue
		}
		block, err := c.reader.Block(ctx, id)
		if errors.Is(err, walk.ErrMissing) {
			e.Kind = kindMissing
			continue
		}
		if err != nil {
			return err
		}
		n, err := unixfs.Decode(id.Prefix().Codec, block)
		if err != nil {
			e.Kind = kindOther
			continue
		}
		e.Kind = kindOf(n)
		if n.IsFile() && n.Sized {
			e.Size = n.Size
		}
	}
	return nil
}

func kindOf(n *unixfs.Node) string {
	switch {
	case n.IsFile():
		return kindFile
	case n.Type == unixfs.Directory, n.Type == unixfs.Shard:
		return kindDirectory
	case n.Type == unixfs.Symlink:
		return kindSymlink
	}
	return kindOther
}

// linked lists the links of a node that is not UnixFS.
func (c *Console) linked(ctx context.Context, root cid.Cid, offset, limit int) (*node, error) {
	block, err := c.reader.Block(ctx, root)
	if err != nil {
		return nil, err
	}
	out := &node{Kind: kindOther, Size: uint64(len(block)), Entries: []entry{}}
	at := 0
	err = links.OfCodec(root.Prefix().Codec, block, func(l cid.Cid) error {
		at++
		if at <= offset {
			return nil
		}
		if len(out.Entries) == limit {
			next := offset + limit
			out.Next = &next
			return errEnough
		}
		out.Entries = append(out.Entries, entry{Name: fmt.Sprintf("link %d", at), CID: l.String(), Kind: kindFile})
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	return out, c.describe(ctx, out.Entries)
}
