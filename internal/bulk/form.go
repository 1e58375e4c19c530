package bulk

import (
	"errors"
	"io"
)

// Services that take uploads from browsers want a file inside a multipart form.
// The form around the file is constant, so its length is known in advance.
const (
	boundary = "carload-5d1f0c6f0a0e4a55b0b5c2b8"
	FormType = "multipart/form-data; boundary=" + boundary
	formHead = "--" + boundary + "\r\n" +
		"Content-Disposition: form-data; name=\"file\"; filename=\"shard.car\"\r\n" +
		"Content-Type: application/octet-stream\r\n\r\n"
	formTail  = "\r\n--" + boundary + "--\r\n"
	FormBytes = int64(len(formHead) + len(formTail))
)

// form wraps a file in a multipart form. As with the file itself, Close may be
// called from another goroutine than the reader's.
type form struct {
	Body              // the file
	head, tail []byte // the part that is still to be read
	read       bool   // the file is at its end
}

// NewForm wraps a file in a multipart form. The body grows by FormBytes and has
// the content type FormType.
func NewForm(file Body) Body {
	return &form{Body: file, head: []byte(formHead), tail: []byte(formTail)}
}

func (f *form) Read(p []byte) (int, error) {
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	if !f.read {
		n, err := f.Body.Read(p)
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		f.read = true
		if n > 0 {
			return n, nil
		}
	}
	if len(f.tail) == 0 {
		return 0, io.EOF
	}
	n := copy(p, f.tail)
	f.tail = f.tail[n:]
	return n, nil
}

// WriteTo implements io.WriterTo: the file writes itself.
func (f *form) WriteTo(w io.Writer) (total int64, err error) {
	rest := func(p *[]byte) error {
		n, err := w.Write(*p)
		*p = (*p)[n:]
		total += int64(n)
		return err
	}
	if err := rest(&f.head); err != nil {
		return total, err
	}
	if !f.read {
		n, err := f.Body.WriteTo(w)
		total += n
		if err != nil {
			return total, err
		}
		f.read = true
	}
	return total, rest(&f.tail)
}
