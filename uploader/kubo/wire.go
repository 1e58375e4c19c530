package kubo

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

var errLongLine = errors.New("the line is too long")

// lineReader reads lines of limited length.
type lineReader struct{ in *bufio.Reader }

func newLineReader(r io.Reader, limit int) *lineReader {
	return &lineReader{bufio.NewReaderSize(r, limit)}
}

// next returns the next line that is not empty. It is valid until the next
// call. After the last line, the error is io.EOF.
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
