package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/store"
)

// maxMetaBytes limits the metadata of an NFT, which is held in memory.
const maxMetaBytes = 1 << 20

// asset is a file of an NFT, and its place in the metadata.
type asset struct {
	path []string
	href string
	dir  cid.Cid
}

// storeNFT answers POST /store. The body has metadata as JSON, and the files
// that the metadata refers to. Together they become one DAG.
func (s *Service) storeNFT(c *call) (err error) {
	if !strings.Contains(c.r.Header.Get("Content-Type"), "multipart/form-data") {
		return badRequest("Content-Type should be multipart/form-data")
	}
	form, err := newForm(c)
	if err != nil {
		return err
	}
	b, err := newImporter(s.st)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	meta, assets, files, err := b.readNFT(c.r.Context(), form)
	if err != nil {
		return err
	}
	root, data, err := b.addNFT(meta, assets)
	if err != nil {
		return err
	}
	in, err := b.Finish(c.r.Context(), root, b.Payload())
	if err != nil {
		return err
	}
	list, err := encodeJSON(files)
	if err != nil {
		return err
	}
	if err := s.acceptUpload(c, in, store.NewUpload{Kind: store.KindNFT, Files: string(list)}); err != nil {
		return err
	}
	return c.reply(http.StatusOK, struct {
		IPNFT string `json:"ipnft"`
		URL   string `json:"url"`
		Data  any    `json:"data"`
	}{root.String(), "ipfs://" + root.String() + "/metadata.json", data})
}

// readNFT imports the files of the form, each into its own directory.
func (b *importer) readNFT(ctx context.Context, in *form) (meta []byte, assets []asset, files []fileEntry, err error) {
	files = []fileEntry{}
	for {
		p, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		plain := errors.Is(err, errPlainField)
		if err != nil && !plain {
			return nil, nil, nil, err
		}
		if p.field == "meta" {
			if meta, err = io.ReadAll(io.LimitReader(p.body, maxMetaBytes+1)); err != nil {
				return nil, nil, nil, err
			}
			if len(meta) > maxMetaBytes {
				return nil, nil, nil, badRequest("meta is larger than %d bytes", maxMetaBytes)
			}
			continue
		}
		if plain {
			return nil, nil, nil, badRequest("Field `%s` is not a file: expected File part", p.field)
		}
		path := strings.Split(p.field, ".")
		if len(path) > maxPathSegments {
			return nil, nil, nil, badRequest("a field name is a path of %d steps; the limit is %d", len(path), maxPathSegments)
		}
		node, err := b.addFile(p.body)
		if err != nil {
			return nil, nil, nil, err
		}
		dir := make(directory)
		if err := b.place(dir, p.name, node); err != nil {
			return nil, nil, nil, err
		}
		wrapped, err := b.addDirectory(ctx, dir)
		if err != nil {
			return nil, nil, nil, err
		}
		assets = append(assets, asset{
			path: path, href: "ipfs://" + wrapped.Cid().String() + "/" + p.name, dir: wrapped.Cid(),
		})
		if files, err = b.list(files, p); err != nil {
			return nil, nil, nil, err
		}
	}
	if meta == nil {
		return nil, nil, nil, badRequest("Missing `meta` field")
	}
	return meta, assets, files, nil
}

// addNFT writes metadata.json, with files as URLs, and the root, with files as
// links.
func (b *importer) addNFT(meta []byte, assets []asset) (root cid.Cid, data any, err error) {
	data, err = parseJSON(meta)
	if err != nil {
		return cid.Undef, nil, failure(http.StatusInternalServerError, "SyntaxError", "meta: %v", err)
	}
	dag, err := parseJSON(meta)
	if err != nil {
		return cid.Undef, nil, failure(http.StatusInternalServerError, "SyntaxError", "meta: %v", err)
	}
	room := maxPadding
	for _, a := range assets {
		data, dag = setIn(data, a.path, a.href, &room), setIn(dag, a.path, a.dir, &room)
	}
	if room < 0 {
		return cid.Undef, nil, badRequest("the numbers in field names leave more than %d gaps in lists", maxPadding)
	}
	object, ok := dag.(*object)
	if !ok {
		return cid.Undef, nil, badRequest("`meta` is not a JSON object")
	}
	file, err := b.addFile(bytes.NewReader(appendJSON(nil, data)))
	if err != nil {
		return cid.Undef, nil, err
	}
	object.set("metadata.json", file.Cid())
	object.set("type", "nft")
	block := appendCBOR(nil, object)
	root, err = cid.Prefix{Version: 1, Codec: links.DagCBOR, MhType: multihash.SHA2_256, MhLength: -1}.Sum(block)
	if err != nil {
		return cid.Undef, nil, fmt.Errorf("hash metadata: %w", err)
	}
	return root, data, b.Builder.Add(root, block)
}
