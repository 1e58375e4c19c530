package kubo

import (
	"bufio"
	"bytes"
	"errors"
	"io"

	"github.com/carload/carload/internal/bulk"
)

// The form that a shard travels in. Nothing of it depends on the shard, so its
// length is known.
const (
	boundary = "carload-5d1f0c6f0a0e4a55b0b5c2b8"
	formType = "multipart/form-data; boundary=" + boundary
	formHead = "--" + boundary + "\r\n" +
		"Content-Disposition: form-data; name=\"file\"; filename=\"shard.car\"\r\n" +
		"Content-Type: application/octet-stream\r\n\r\n"
	formTail  = "\r\n--" + boundary + "--\r\n"
	formBytes = int64(len(formHead) + len(formTail))
)

// form is a shard in its form. As with the shard, Close may be called by
// another goroutine than the one that reads.
type form struct {
	bulk.Body         // the shard
	head, tail []byte // what is left of them
	read       bool   // all of the shard
}

func newForm(shard bulk.Body) *form {
	return &form{Body: shard, head: []byte(formHead), tail: []byte(formTail)}
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

// WriteTo implements io.WriterTo: the shard writes itself.
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

var errLongLine = errors.New("the line is too long")

// lineReader reads lines of bounded length.
type lineReader struct{ in *bufio.Reader }

func newLineReader(r io.Reader, limit int) *lineReader {
	return &lineReader{bufio.NewReaderSize(r, limit)}
}

// next returns the next line that is not empty, until the one after it is
// asked for. The error is io.EOF after the last one.
func (l *lineReader) next() ([]byte, error) {
	for {
		line, err := l.in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, errLongLine
		}
		line = bytes.TrimSpace(line)
		switch {
		case len(line) > 0 && (err == nil || errors.Is(err, io.EOF)):
			return line, nil
		case err != nil:
			return nil, err
		}
	}
}
