package gateway

import (
	"bufio"
	"errors"
	"fmt"
	"html"
	"math"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync"

	"github.com/gabriel-vasile/mimetype"
	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/unixfs"
	"github.com/carload/carload/internal/walk"
)

// serveFile sends a file, or the range of it that was asked for, under the
// head that is in out.
func (g *Gateway) serveFile(out *reply, r *http.Request, f *file) {
	size := int64(f.node.Size)
	from, length, status := int64(0), size, http.StatusOK
	h := out.Header()
	if rng := r.Header.Get("Range"); rng != "" && ifRange(r, h) {
		var err error
		switch from, length, err = parseRange(rng, size); {
		case errors.Is(err, errNoRange):
			from, length = 0, size
		case err != nil:
			if errors.Is(err, errUnsatisfied) {
				h.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
			}
			h.Del("Content-Length")
			h.Del("Content-Disposition")
			http.Error(out, err.Error(), http.StatusRequestedRangeNotSatisfiable)
			return
		default:
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, from+length-1, size))
			status = http.StatusPartialContent
		}
	}
	if err := g.allow(length); err != nil {
		g.refuse(out, r, err)
		return
	}
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	if r.Method == http.MethodHead {
		out.WriteHeader(status)
		return
	}
	content, err := g.reader.Content(r.Context(), f.cid, f.node, from, length)
	if err != nil {
		g.refuse(out, r, err)
		return
	}
	defer content.Close()
	out.WriteHeader(status)
	if err := content.WriteTo(r.Context(), out); err != nil {
		out.x.err = err
	}
}

// errTooLarge is a reply that the operator does not want to be sent. boxo's
// gateway says 410 to that, so this one does.
var errTooLarge = errors.New("too large for this gateway")

// allow refuses a reply of so many bytes if the operator has set a bound below.
func (g *Gateway) allow(n int64) error {
	if !g.excessive(n) {
		return nil
	}
	return fmt.Errorf("%w: it has %d bytes, and the most that is sent at once are %d; parts of files can be had by ranges", errTooLarge, n, g.most)
}

func (g *Gateway) excessive(n int64) bool { return g.most > 0 && n > g.most }

var (
	errNoRange     = errors.New("not a range of bytes")
	errUnsatisfied = errors.New("invalid range: failed to overlap")
	errMalformed   = errors.New("invalid range")
)

// parseRange reads a Range header as RFC 9110 has it, for a file of this size.
// Of several ranges the first that the file has is returned. A header of
// another unit, and any of an empty file, is errNoRange: to be passed over.
func parseRange(s string, size int64) (from, length int64, err error) {
	unit, set, ok := strings.Cut(s, "=")
	if !ok || !strings.EqualFold(unit, "bytes") {
		return 0, 0, errNoRange
	}
	err = errMalformed
	for spec := range strings.SplitSeq(set, ",") {
		if spec = textproto.TrimString(spec); spec == "" {
			continue
		}
		a, b, ok := strings.Cut(spec, "-")
		first, firstErr := position(a)
		last, lastErr := position(b)
		switch {
		case !ok, a == "" && lastErr != nil, a != "" && firstErr != nil, a != "" && b != "" && (lastErr != nil || last < first):
			return 0, 0, errMalformed
		case length > 0: // what comes after it has to be well formed
		case a == "" && last > 0 && size > 0:
			length = min(last, size)
			from, err = size-length, nil
		case a != "" && first < size:
			from, length, err = first, size-first, nil
			if b != "" {
				length = min(length, last-first+1)
			}
		default:
			err = errUnsatisfied
		}
	}
	if size == 0 && errors.Is(err, errUnsatisfied) {
		return 0, 0, errNoRange // as net/http has it
	}
	return from, length, err
}

// position reads digits. What is beyond any file is the greatest number.
func position(s string) (int64, error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, errMalformed
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return n - 1, nil
	}
	return n, err
}

// ifRange tells whether a range may be sent to who says which copy has the
// rest.
func ifRange(r *http.Request, h http.Header) bool {
	cond := r.Header.Get("If-Range")
	switch {
	case cond == "":
		return true
	case strings.HasPrefix(cond, `"`):
		return cond == h.Get("Etag")
	}
	t, err := http.ParseTime(cond)
	was, lastErr := http.ParseTime(h.Get("Last-Modified"))
	return err == nil && lastErr == nil && t.Equal(was)
}

// sniffBytes is how much of a file is looked at to know its type.
const sniffBytes = 3072

func sniff(head []byte) string { return mimetype.Detect(head).String() }

// typeCache remembers the types of some files.
type typeCache struct {
	mu sync.Mutex
	m  map[cid.Cid]string // guarded by mu
}

const maxTypes = 4096

func (t *typeCache) get(c cid.Cid) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.m[c]
	return v, ok
}

func (t *typeCache) put(c cid.Cid, v string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil || len(t.m) >= maxTypes {
		t.m = make(map[cid.Cid]string)
	}
	t.m[c] = v
}

// maxTable is how many entries of a directory boxo makes a table of. A longer
// list is plain, and is sent as it is read. So is one with entries that are too
// large to be sent.
const maxTable = 2000

var errEnough = errors.New("enough entries")

// serveListing sends the list of a directory that has many entries, under the
// head that boxo has for it. It returns false if this is not one.
func (g *Gateway) serveListing(out *reply, r *http.Request, dry *dryRun) bool {
	root, names, err := parsePath(r.URL.Path)
	if err != nil {
		return false
	}
	p, err := g.reader.Resolve(r.Context(), root, names)
	if err != nil {
		return false
	}
	n, err := g.reader.Node(r.Context(), p.Root())
	if err != nil || n.Type != unixfs.Directory && n.Type != unixfs.Shard {
		return false
	}
	entries := 0
	err = g.reader.Entries(r.Context(), p.Root(), n, func(e walk.Entry) error {
		if entries++; entries > maxTable || g.excessive(int64(min(e.Tsize, math.MaxInt64))) {
			return errEnough
		}
		return nil
	})
	if !errors.Is(err, errEnough) {
		return false
	}
	dry.copyTo(out)
	out.Header().Set("Content-Type", "text/html; charset=utf-8")
	if r.Method == http.MethodHead {
		out.WriteHeader(http.StatusOK)
		return true
	}
	w := bufio.NewWriterSize(out, 64<<10)
	title := html.EscapeString(r.URL.Path)
	up := ""
	if len(names) > 0 {
		up = "<a href=\"..\">..</a>\n"
	}
	// An error of the writer comes again with the entries.
	_, _ = fmt.Fprintf(w, "<!DOCTYPE html>\n<meta charset=\"utf-8\"><title>%s</title>\n<h1>Index of %s</h1>\n<pre>\n%s", title, title, up)
	err = g.reader.Entries(r.Context(), p.Root(), n, func(e walk.Entry) error {
		note := ""
		if g.excessive(int64(min(e.Tsize, math.MaxInt64))) {
			note = "\ttoo large to be sent at once"
		}
		_, err := fmt.Fprintf(w, "<a href=\"./%s\">%s</a>\t%d\t%s%s\n", url.PathEscape(e.Name), html.EscapeString(e.Name), e.Tsize, e.Cid, note)
		return err
	})
	if err == nil {
		_, err = w.WriteString("</pre>\n")
		err = errors.Join(err, w.Flush())
	}
	if err != nil {
		out.x.err = err
	}
	return true
}
