package service

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/carload/carload/internal/store"
)

// upload answers POST /upload. The content type says what the body is.
func (s *Service) upload(c *call) error {
	mime := c.r.Header.Get("Content-Type")
	if err := s.st.CheckQuota(c.r.Context(), c.who, max(c.r.ContentLength, 0)); err != nil {
		return err
	}
	switch {
	case strings.Contains(mime, "multipart/form-data"):
		return s.uploadMultipart(c, mime)
	case strings.Contains(mime, "application/car"):
		return s.uploadCAR(c, mime)
	}
	return s.uploadBlob(c, mime)
}

func (s *Service) uploadCAR(c *call, mime string) (err error) {
	in, err := s.st.Receive(c.r.Context(), c.body, c.r.ContentLength)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	return s.finish(c, in, store.NewUpload{Kind: store.KindCAR, Mime: mime})
}

// uploadBlob imports a body of any other type as a file, without a directory
// around it, as the original did.
func (s *Service) uploadBlob(c *call, mime string) (err error) {
	body := bufio.NewReaderSize(c.body, 64<<10)
	if _, err := body.Peek(1); errors.Is(err, io.EOF) {
		return badRequest("empty payload")
	} else if err != nil {
		return err
	}
	b, err := newImporter(s.st)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	root, err := b.addFile(body)
	if err != nil {
		return err
	}
	in, err := b.finish(c.r.Context(), root)
	if err != nil {
		return err
	}
	return s.finish(c, in, store.NewUpload{Kind: store.KindFile, Mime: mime})
}

// uploadMultipart puts all files of the form into one directory.
func (s *Service) uploadMultipart(c *call, mime string) (err error) {
	form, err := newForm(c)
	if err != nil {
		return err
	}
	b, err := newImporter(s.st)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	top := make(directory)
	files := []fileEntry{}
	for {
		p, err := form.next()
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
		if files, err = b.list(files, p); err != nil {
			return err
		}
	}
	if len(files) == 0 {
		return thrown("expected at least one file part")
	}
	root, err := b.addDirectory(c.r.Context(), top)
	if err != nil {
		return err
	}
	in, err := b.finish(c.r.Context(), root)
	if err != nil {
		return err
	}
	list, err := encodeJSON(files)
	if err != nil {
		return err
	}
	return s.finish(c, in, store.NewUpload{Kind: store.KindDirectory, Mime: mime, Files: string(list)})
}

// fileEntry describes a file of a form in the lists of uploads.
type fileEntry struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// Limits on the list of files of an upload, which is kept, and is part of every
// list of uploads.
const (
	maxListBytes = 1 << 20 // of names and types
	maxMimeBytes = 255
)

// list adds a part of a form to the list of files.
func (b *importer) list(files []fileEntry, p part) ([]fileEntry, error) {
	if len(p.mime) > maxMimeBytes {
		return nil, badRequest("a Content-Type of %d bytes is too long; the limit is %d", len(p.mime), maxMimeBytes)
	}
	if b.listed += len(p.name) + len(p.mime); b.listed > maxListBytes {
		return nil, badRequest("the names of the form's files are more than %d bytes together; send a CAR instead", maxListBytes)
	}
	return append(files, fileEntry{Name: p.name, Type: p.mime}), nil
}

// finish stores a shard and answers with the upload.
func (s *Service) finish(c *call, in *store.Incoming, up store.NewUpload) error {
	if err := s.acceptUpload(c, in, up); err != nil {
		return err
	}
	return c.reply(http.StatusOK, asNFT(in.Upload))
}

// acceptUpload stores a shard as part of an upload of the caller.
func (s *Service) acceptUpload(c *call, in *store.Incoming, up store.NewUpload) error {
	name, err := uploadName(c.r)
	if err != nil {
		return err
	}
	up.Caller, up.Name = c.who, &name
	return s.accept(c.r.Context(), in, &up)
}

// uploadName returns the decoded X-Name header, or the name that the original
// made up.
func uploadName(r *http.Request) (string, error) {
	raw := r.Header.Get("X-Name")
	if raw == "" {
		return "Upload at " + time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), nil
	}
	name, err := url.PathUnescape(raw)
	if err != nil || !utf8.ValidString(name) {
		return "", failure(http.StatusInternalServerError, "URIError", "URI malformed")
	}
	return name, nil
}
