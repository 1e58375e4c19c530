package cli

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// report is the file of --report: a row for each input, and for each directory
// entry that could not be taken. --retry-from reads it. It appears when
// everything is done. A nil report ignores rows.
type report struct {
	path   string // a link is followed
	target string

	mu   sync.Mutex
	file *os.File
	buf  *bufio.Writer
	csv  *csv.Writer // nil for JSON lines
	err  error       // the first error from writing
}

// reportRow is a row. New versions may only add fields.
type reportRow struct {
	Path    string `json:"path"`
	Bytes   int64  `json:"bytes"`
	Root    string `json:"root"`
	Target  string `json:"target"`
	Code    int    `json:"code"` // exit code for this input alone
	Error   string `json:"error"`
	Of      string `json:"of"`      // the input that contains the entry; empty for an input
	RawPath []byte `json:"rawPath"` // the path in base64, if it is not valid text
	Batch   string `json:"batch"`   // root of the upload that contains it; empty if it has its own
}

var reportColumns = []string{"path", "bytes", "root", "target", "code", "error", "of", "rawPath", "batch"}

// newReport creates the file under a temporary name.
func newReport(path string) (*report, error) {
	f, to, err := newFile(path, ".carload-report-*")
	if err != nil {
		return nil, err
	}
	r := &report{path: to, file: f, buf: bufio.NewWriter(f)}
	if ext := filepath.Ext(path); !strings.EqualFold(ext, ".json") && !strings.EqualFold(ext, ".jsonl") {
		r.csv = csv.NewWriter(r.buf)
		r.err = r.csv.Write(reportColumns)
	}
	return r, nil
}

func (r *report) add(row reportRow) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	row.Target = cmp.Or(row.Target, r.target)
	if !utf8.ValidString(row.Path) || strings.Contains(row.Path, "\r") { // the CSV reader turns "\r\n" into "\n"
		row.RawPath = []byte(row.Path)
		row.Path = printable(row.Path)
	}
	row.Of = strings.ToValidUTF8(row.Of, "\uFFFD")
	if r.err != nil {
		return
	}
	if r.csv != nil {
		r.err = r.csv.Write([]string{
			row.Path, strconv.FormatInt(row.Bytes, 10), row.Root, row.Target, strconv.Itoa(row.Code), row.Error, row.Of,
			base64.StdEncoding.EncodeToString(row.RawPath), row.Batch,
		})
		return
	}
	p, err := json.Marshal(row)
	if err == nil {
		_, err = r.buf.Write(append(p, '\n'))
	}
	r.err = err
}

// close gives the complete file its name.
func (r *report) close() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	err := r.err
	if r.csv != nil {
		r.csv.Flush()
		err = errors.Join(err, r.csv.Error())
	}
	if err = errors.Join(err, r.buf.Flush(), r.file.Sync(), r.file.Close()); err == nil {
		err = os.Rename(r.file.Name(), r.path)
	}
	if err != nil {
		return fmt.Errorf("write the report: %w", errors.Join(err, os.Remove(r.file.Name())))
	}
	return nil
}

// maxRowBytes limits a row.
const maxRowBytes = 1 << 20

// failedInputs yields the inputs that failed according to a report.
func failedInputs(name string, in io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		r := bufio.NewReaderSize(in, 64<<10)
		rows := csvRows(r)
		if first, err := r.Peek(1); err == nil && first[0] == '{' {
			rows = jsonRows(r)
		}
		n := 1
		for row, err := range rows {
			if err != nil {
				yield(name, fmt.Errorf("report %q, row %d: %w", name, n, err))
				return
			}
			n++
			if row.Code == exitOK || row.Of != "" {
				continue
			}
			path := row.Path
			if len(row.RawPath) > 0 {
				path = string(row.RawPath)
			}
			if !yield(path, nil) {
				return
			}
		}
	}
}

func jsonRows(r *bufio.Reader) iter.Seq2[reportRow, error] {
	return func(yield func(reportRow, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxRowBytes)
		for lines.Scan() {
			if len(bytes.TrimSpace(lines.Bytes())) == 0 {
				continue
			}
			var row reportRow
			if err := json.Unmarshal(lines.Bytes(), &row); !yield(row, err) || err != nil {
				return
			}
		}
		if err := lines.Err(); err != nil {
			yield(reportRow{}, err)
		}
	}
}

func csvRows(r io.Reader) iter.Seq2[reportRow, error] {
	return func(yield func(reportRow, error) bool) {
		limited := &limitedRow{r: r, left: maxRowBytes}
		in := csv.NewReader(limited)
		in.ReuseRecord = true
		head, err := in.Read()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				yield(reportRow{}, err)
			}
			return
		}
		at := map[string]int{}
		for i, name := range head {
			at[strings.TrimPrefix(name, "\ufeff")] = i
		}
		if _, ok := at["path"]; !ok {
			yield(reportRow{}, errors.New("there is no column \"path\": is this a report of carload?"))
			return
		}
		for {
			limited.left = maxRowBytes
			rec, err := in.Read()
			if errors.Is(err, io.EOF) {
				return
			}
			var row reportRow
			if err == nil {
				row, err = csvRow(at, rec)
			}
			if !yield(row, err) || err != nil {
				return
			}
		}
	}
}

// limitedRow reads no more than is left for a row.
type limitedRow struct {
	r    io.Reader
	left int
}

// Read implements [io.Reader].
func (l *limitedRow) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("a row of more than %d bytes", maxRowBytes)
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

func csvRow(at map[string]int, rec []string) (row reportRow, err error) {
	column := func(name string) string {
		if i, ok := at[name]; ok && i < len(rec) {
			return rec[i]
		}
		return ""
	}
	row.Path, row.Of = strings.Clone(column("path")), strings.Clone(column("of"))
	row.Root, row.Target, row.Error = strings.Clone(column("root")), strings.Clone(column("target")), strings.Clone(column("error"))
	if code := column("code"); code != "" {
		if row.Code, err = strconv.Atoi(code); err != nil {
			return row, fmt.Errorf("the code %q is not a number", code)
		}
	}
	row.RawPath, err = base64.StdEncoding.DecodeString(column("rawPath"))
	return row, err
}
