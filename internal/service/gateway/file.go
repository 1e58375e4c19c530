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

// serveFile sends a file, or the requested range of it. The headers are in out
// already.
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

// errTooLarge says that a reply exceeds the operator's limit. Its status is
// 410, as in boxo's gateway.
var errTooLarge = errors.New("too large for this gateway")

// allow refuses a reply of n bytes if the operator's limit is lower.
func (g *Gateway) allow(n int64) error {
	if !g.excessive(n) {
		return nil
	}
	return fmt.Errorf("%w: it has %d bytes, and a reply may have at most %d; use range requests for parts of a file", errTooLarge, n, g.most)
}

func (g *Gateway) excessive(n int64) bool { return g.most > 0 && n > g.most }

var (
	errNoRange     = errors.New("not a range of bytes")
	errUnsatisfied = errors.New("invalid range: failed to overlap")
	errMalformed   = errors.New("invalid range")
)

// parseRange parses a Range header by RFC 9110, for a file of this size. If
// there are several ranges, it returns the first that overlaps the file. For
// other units, and for an empty file, the error is errNoRange: the header is to
// be ignored.
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
		case length > 0: // only check the syntax of the rest
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
		return 0, 0, errNoRange // as net/http does
	}
	return from, length, err
}

// position parses a number. A number that is too large becomes the largest.
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

// ifRange reports whether the If-Range header allows a range, or is absent.
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

// sniffBytes is how many bytes of a file are used to detect its type.
const sniffBytes = 3072

func sniff(head []byte) string { return mimetype.Detect(head).String() }

// typeCache caches the content types of files.
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

// maxTable is how many directory entries boxo may turn into its HTML table.
// Longer listings are plain, and are sent while the directory is being read. So
// are listings with an entry that exceeds the limit on replies.
const maxTable = 2000

var errEnough = errors.New("enough entries")

// serveListing sends the listing of a directory with many entries, with the
// headers from boxo's dry run. It returns false if boxo should serve the
// request.
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
	// If this write fails, writing the entries will report the error.
	_, _ = fmt.Fprintf(w, "<!DOCTYPE html>\n<meta charset=\"utf-8\"><title>%s</title>\n<h1>Index of %s</h1>\n<pre>\n%s", title, title, up)
	err = g.reader.Entries(r.Context(), p.Root(), n, func(e walk.Entry) error {
		note := ""
		if g.excessive(int64(min(e.Tsize, math.MaxInt64))) {
			note = "\ttoo large for one reply"
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
