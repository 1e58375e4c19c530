// Package receipts defines the records of what was sent where, as they go from
// one host to another: a stream of JSON lines that one ledger exports and
// another imports, and from which reports are made.
//
// A stream may come from an untrusted origin. [Read] limits each line before
// decoding it, checks every field, and detects a truncated stream.
package receipts

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"time"
	"unicode/utf8"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/uploader"
)

// Record is an [Upload], a [Receipt] or a [Source].
type Record interface{ record() }

// Upload records that shards of a root were sent to a target.
type Upload struct {
	uploader.UploadKey
	Begun    time.Time
	Verified time.Time // zero if not verified
}

// Receipt records that the target has a shard of an upload.
type Receipt struct {
	uploader.UploadKey
	Index int // counted from 0
	CID   cid.Cid
}

// Source records the last upload from a place.
type Source struct {
	uploader.UploadKey
	uploader.Finished
	At    time.Time
	Known bool // whether Bytes and Level are set: earlier versions did not keep them
}

func (Upload) record()  {}
func (Receipt) record() {}
func (Source) record()  {}

// Limits on what is read.
const (
	MaxLineBytes = 64 << 10
	MaxIndex     = 1 << 24 // number of shards of an upload
)

// line is any kind of line. Fields may be added, but not removed.
type line struct {
	V             int       `json:"v"`
	Type          string    `json:"type"`
	Target        string    `json:"target,omitempty"`
	Root          string    `json:"root,omitempty"`
	MaxShardBytes int64     `json:"maxShardBytes,omitempty"`
	Base          string    `json:"base,omitempty"`
	Begun         time.Time `json:"begun,omitzero"`
	Finished      time.Time `json:"finished,omitzero"`
	Index         *int      `json:"index,omitempty"`
	Archive       string    `json:"archive,omitempty"`
	Path          string    `json:"path,omitempty"`
	RawPath       []byte    `json:"rawPath,omitempty"` // base64 of the path, if it is not valid UTF-8
	Bytes         *int64    `json:"bytes,omitempty"`
	Verified      string    `json:"verified,omitempty"`
	Lines         *int      `json:"lines,omitempty"` // in the last line: number of lines before it
}

const (
	version = 1

	typeExport  = "export"
	typeUpload  = "upload"
	typeReceipt = "receipt"
	typeSource  = "source"
	typeEnd     = "end"
)

// Write writes records as a stream for [Read], and returns how many.
func Write(w io.Writer, records iter.Seq2[Record, error]) (n int, err error) {
	buf := bufio.NewWriter(w)
	put := func(l line) error {
		l.V = version
		p, err := json.Marshal(l)
		if err == nil && len(p) >= MaxLineBytes {
			err = fmt.Errorf("a record of %d bytes is too long to be exported", len(p))
		}
		if err == nil {
			_, err = buf.Write(append(p, '\n'))
		}
		return err
	}
	if err := put(line{Type: typeExport}); err != nil {
		return 0, err
	}
	for r, err := range records {
		if err == nil {
			err = put(lineOf(r))
		}
		if err != nil {
			return n, err
		}
		n++
	}
	return n, errors.Join(put(line{Type: typeEnd, Lines: &n}), buf.Flush())
}

func lineOf(r Record) line {
	of := func(kind string, u uploader.UploadKey) line {
		l := line{Type: kind, Target: u.Target, Root: u.Root.String(), MaxShardBytes: u.MaxShardBytes}
		if u.Base.Defined() {
			l.Base = u.Base.String()
		}
		return l
	}
	switch r := r.(type) {
	case Upload:
		l := of(typeUpload, r.UploadKey)
		l.Begun, l.Finished = r.Begun, r.Verified
		return l
	case Receipt:
		l := of(typeReceipt, r.UploadKey)
		l.Index, l.Archive = &r.Index, r.CID.String()
		return l
	case Source:
		l := of(typeSource, r.UploadKey)
		l.Finished = r.At
		if l.Path = r.Source; !utf8.ValidString(r.Source) {
			l.Path, l.RawPath = "", []byte(r.Source)
		}
		if r.Known {
			l.Bytes, l.Verified = &r.Bytes, r.Level.String()
		}
		return l
	}
	return line{}
}

// ErrMalformed is wrapped by errors about a stream that is not an export, or is
// truncated.
var ErrMalformed = errors.New("not an export of a ledger")

// IsExport reports whether a stream begins like one from Write.
func IsExport(first []byte) bool {
	return bytes.HasPrefix(first, []byte(`{"v":1,"type":"`+typeExport+`"`))
}

// Read yields the records of one stream, or of several in sequence. If it
// yields an error, that is the last thing, and says which line is wrong. The
// records before it can be used, since records are only ever added.
func Read(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(make([]byte, 0, 4096), MaxLineBytes)
		at, n, open := 0, 0, false
		fail := func(format string, args ...any) {
			yield(nil, fmt.Errorf("%w: line %d: %w", ErrMalformed, at, fmt.Errorf(format, args...)))
		}
		for lines.Scan() {
			at++
			if len(bytes.TrimSpace(lines.Bytes())) == 0 {
				continue
			}
			var l line
			if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
				fail("%w", err)
				return
			}
			switch {
			case l.V != version:
				fail("it has version %d, but this carload knows only version %d", l.V, version)
				return
			case l.Type == typeExport && !open:
				n, open = 0, true
				continue
			case l.Type == typeExport:
				fail("the previous export has no last line")
				return
			case !open:
				fail("it comes before the first line of an export")
				return
			case l.Type == typeEnd:
				if l.Lines == nil || *l.Lines != n {
					fail("%d lines came before the end", n)
					return
				}
				open = false
				continue
			}
			n++
			rec, err := l.parse()
			if err != nil {
				fail("%w", err)
				return
			}
			if rec != nil && !yield(rec, nil) {
				return
			}
		}
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			at++
			fail("it has more than %d bytes", MaxLineBytes)
		case err != nil:
			yield(nil, err)
		case open || at == 0:
			at++
			fail("the end is missing: the export is truncated")
		}
	}
}

// parse checks a line. It returns nil for an unknown kind of record.
func (l *line) parse() (Record, error) {
	switch l.Type {
	case typeUpload, typeReceipt, typeSource:
	default:
		return nil, nil
	}
	u := uploader.UploadKey{Target: l.Target, MaxShardBytes: l.MaxShardBytes}
	var err error
	if u.Root, err = cid.Decode(l.Root); err != nil {
		return nil, fmt.Errorf("the root %q: %w", l.Root, err)
	}
	if l.Base != "" {
		if u.Base, err = cid.Decode(l.Base); err != nil {
			return nil, fmt.Errorf("the base %q: %w", l.Base, err)
		}
	}
	switch {
	case l.Target == "" || !utf8.ValidString(l.Target):
		return nil, errors.New("there is no target")
	case l.MaxShardBytes < 0:
		return nil, fmt.Errorf("invalid shard limit of %d bytes", l.MaxShardBytes)
	case !plausible(l.Begun) || !plausible(l.Finished):
		return nil, errors.New("a time is out of range")
	}
	switch l.Type {
	case typeUpload:
		return Upload{u, l.Begun.UTC(), l.Finished.UTC()}, nil
	case typeReceipt:
		if l.Index == nil || *l.Index < 0 || *l.Index > MaxIndex {
			return nil, errors.New("the shard index is out of range")
		}
		archive, err := cid.Decode(l.Archive)
		if err != nil {
			return nil, fmt.Errorf("the archive %q: %w", l.Archive, err)
		}
		return Receipt{u, *l.Index, archive}, nil
	default:
		s := Source{UploadKey: u, Finished: uploader.Finished{Source: l.Path}, At: l.Finished.UTC()}
		if len(l.RawPath) > 0 {
			s.Source = string(l.RawPath)
		}
		if s.Source == "" || s.At.IsZero() {
			return nil, errors.New("a source without path or time")
		}
		if l.Bytes != nil {
			if *l.Bytes < 0 {
				return nil, fmt.Errorf("invalid source size of %d bytes", *l.Bytes)
			}
			if err := s.Level.UnmarshalText([]byte(l.Verified)); err != nil {
				return nil, err
			}
			s.Bytes, s.Known = *l.Bytes, true
		}
		return s, nil
	}
}

// plausible reports whether a time fits into a ledger: microseconds since 1970.
func plausible(t time.Time) bool {
	return t.IsZero() || t.After(time.UnixMicro(0)) && t.Before(time.UnixMicro(math.MaxInt64/2))
}
