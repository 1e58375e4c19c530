package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"slices"
	"strings"

	uio "github.com/ipfs/boxo/ipld/unixfs/io"
)

// part is a part of a form that is a file.
type part struct {
	field, name, mime string
	body              io.Reader
}

// errPlainField is a part that is not a file.
var errPlainField = errors.New("the part is a plain field")

// form reads multipart bodies part by part, none of which is held.
type form struct{ r *multipart.Reader }

func newForm(c *call) (*form, error) {
	_, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || params["boundary"] == "" {
		return nil, thrown("Content-Type header does not contain multipart boundary")
	}
	return &form{multipart.NewReader(c.body, params["boundary"])}, nil
}

// next returns the next part, or io.EOF. With errPlainField the part is valid
// as well.
func (f *form) next() (part, error) {
	p, err := f.r.NextRawPart()
	if errors.Is(err, io.EOF) {
		return part{}, io.EOF
	}
	if err != nil {
		return part{}, formError(err)
	}
	// FileName would cut the directories off.
	_, params, err := mime.ParseMediaType(p.Header.Get("Content-Disposition"))
	if err != nil {
		return part{}, thrown("multipart part has no Content-Disposition")
	}
	out := part{field: params["name"], name: params["filename"], mime: p.Header.Get("Content-Type"), body: formBody{p}}
	if _, named := params["filename"]; !named && out.mime == "" {
		return out, errPlainField
	}
	if out.name == "" {
		out.name = "blob"
	}
	if out.mime == "" {
		out.mime = "application/octet-stream"
	}
	return out, nil
}

// formError tells a body that is no form from one that could not be read.
func formError(err error) error {
	var api *apiError
	if isBodyError(err) || errors.As(err, &api) {
		return err
	}
	return thrown("multipart body: %v", err)
}

type formBody struct{ r io.Reader }

// Read implements io.Reader.
func (b formBody) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = formError(err)
	}
	return n, err
}

// uploadMultipart puts all files of the form into one directory.
func (s *Service) uploadMultipart(c *call) (err error) {
	in, err := newForm(c)
	if err != nil {
		return err
	}
	b, err := s.st.newBuilder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.file.remove()) }()
	top := make(directory)
	files := []fileEntry{}
	for {
		p, err := in.next()
		if errors.Is(err, io.EOF) {
			break
		}
		plain := errors.Is(err, errPlainField)
		if err != nil && !plain {
			return err
		}
		if p.field != "file" {
			continue
		}
		if plain {
			return badRequest("missing Content-Type in multipart part")
		}
		node, err := b.addFile(p.body)
		if err != nil {
			return err
		}
		if err := b.place(top, p.name, node); err != nil {
			return err
		}
		files = append(files, fileEntry{Name: p.name, Type: p.mime})
	}
	if len(files) == 0 {
		return thrown("expected at least one file part")
	}
	root, err := b.addDirectory(c.r.Context(), top)
	if err != nil {
		return err
	}
	sub, err := b.finishNode(c.r.Context(), root)
	if err != nil {
		return err
	}
	sub.kind, sub.mime, sub.files = typeMultipart, c.r.Header.Get("Content-Type"), files
	return s.finish(c, sub)
}

// directory is a tree of imported files, by name.
type directory map[string]entry

// entry is a file, or a directory if that is not nil.
type entry struct {
	file written
	dir  directory
}

const (
	maxPathSegments = 64

	// maxEntries bounds the files and directories that a form makes, for
	// they are in memory until its end.
	maxEntries = 100_000
)

// place puts a file at a path. Of two with one path the last wins.
func (b *builder) place(d directory, path string, file written) error {
	segments := slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
	if len(segments) == 0 || len(segments) > maxPathSegments {
		return thrown("file name %q names no file", path)
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

// shardEntries is the number of entries from which on the original's importer
// made a HAMT of a directory.
const shardEntries = 1000

// addDirectory writes a directory and those in it, and returns its node.
func (b *builder) addDirectory(ctx context.Context, d directory) (written, error) {
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
