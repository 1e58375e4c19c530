package service

import (
	"errors"
	"io"
	"mime"
	"mime/multipart"
)

// part is a part of a form that is a file.
type part struct {
	field, name, mime string
	body              io.Reader
}

// errPlainField says that a part is not a file.
var errPlainField = errors.New("the part is a plain field")

// form reads a multipart body part by part. It keeps none of them in memory.
type form struct{ r *multipart.Reader }

func newForm(c *call) (*form, error) {
	_, params, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	if err != nil || params["boundary"] == "" {
		return nil, thrown("Content-Type header does not contain multipart boundary")
	}
	return &form{multipart.NewReader(c.body, params["boundary"])}, nil
}

// next returns the next part, or io.EOF at the end. With errPlainField, the
// part is valid too.
func (f *form) next() (part, error) {
	p, err := f.r.NextRawPart()
	if errors.Is(err, io.EOF) {
		return part{}, io.EOF
	}
	if err != nil {
		return part{}, formError(err)
	}
	// FileName would cut off the directories.
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

// formError tells a body that is not a form from one that could not be read.
func formError(err error) error {
	var api *apiError
	var body *bodyError
	if errors.As(err, &body) || errors.As(err, &api) {
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
