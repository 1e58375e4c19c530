package gateway

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// streamError is the header by which boxo says that a body breaks off. It comes
// too late for a client to see.
const streamError = "X-Stream-Error"

var errBroken = errors.New("the reply breaks off")

// reply is a reply on its way. It takes validators off what is not known to be
// complete, and lets nothing through after a failure.
type reply struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	x      *exchange
	status int          // that was sent
	since  atomic.Int64 // when the write began that is under way; 0 if none is

	mu   sync.Mutex
	gone bool // guarded by mu; it was hung up on
}

func newReply(w http.ResponseWriter, x *exchange) *reply {
	return &reply{w: w, rc: http.NewResponseController(w), x: x}
}

var errStandsStill = errors.New("the client stands still, and others wait")

// hangUp ends the write that is under way, and the reply.
func (o *reply) hangUp() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone = true
	_ = o.rc.SetWriteDeadline(time.Now()) // see extend
	for w := o.w; w != nil; {
		if outer, ok := w.(interface{ HangUp() }); ok {
			outer.HangUp() // it sets deadlines as well
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return
		}
		w = u.Unwrap()
	}
}

// extend gives the client time for what is written next.
func (o *reply) extend() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		return errStandsStill
	}
	// Tests and wrappers may have no deadline; then clients may stand still.
	_ = o.rc.SetWriteDeadline(time.Now().Add(o.x.g.stall))
	return nil
}

// Header implements http.ResponseWriter.
func (o *reply) Header() http.Header { return o.w.Header() }

func (o *reply) broken() bool { return o.x.err != nil || o.Header().Get(streamError) != "" }

// WriteHeader implements http.ResponseWriter.
func (o *reply) WriteHeader(status int) {
	if o.status != 0 || o.broken() {
		return
	}
	h := o.Header()
	switch {
	case status >= 400:
		noValidators(h)
		h.Del("Cache-Control")
	case o.x.partial:
		noValidators(h)
		h.Set("Cache-Control", "no-store")
	}
	if o.x.shared {
		sandbox(h)
	}
	o.status = status
	o.w.WriteHeader(status)
}

// sandboxed is the policy for content that comes under a name with others. It
// runs no scripts and sends no forms, and a browser gives it an origin that is
// nobody's; images and styles that were uploaded with it are shown.
const sandboxed = "sandbox; default-src 'self' data: blob: 'unsafe-inline'; script-src 'none'; object-src 'none'"

// sandbox keeps content from acting as the origin that it comes from. Browsers
// show PDF documents by programs of their own, and not at all in a sandbox.
func sandbox(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	if kind, _, _ := mime.ParseMediaType(h.Get("Content-Type")); kind != "application/pdf" {
		h.Set("Content-Security-Policy", sandboxed)
	}
}

func noValidators(h http.Header) {
	h.Del("Etag")
	h.Del("Last-Modified")
}

// Write implements http.ResponseWriter. A client has to take what is written
// within a time, or is hung up on.
func (o *reply) Write(p []byte) (int, error) {
	if o.broken() {
		return 0, errBroken
	}
	if o.status == 0 {
		o.WriteHeader(http.StatusOK)
	}
	if o.x.method == http.MethodHead {
		return 0, http.ErrBodyNotAllowed // no more work
	}
	if o.x.g.most > 0 && o.status < 300 && o.x.budget.sent.Load()+int64(len(p))-o.x.g.most > o.x.g.most/framingPart+leastFraming {
		o.x.err = fmt.Errorf("%w: it goes on after %d bytes", errTooLarge, o.x.budget.sent.Load())
		return 0, o.x.err
	}
	n := 0
	for n < len(p) {
		if err := o.extend(); err != nil {
			return n, err
		}
		o.since.Store(time.Now().UnixNano())
		k, err := o.w.Write(p[n:min(len(p), n+writeBytes)])
		o.since.Store(0)
		n += k
		o.x.budget.sent.Add(int64(k))
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// What a reply may have beyond the content that it is bounded by: the framing of
// archives, nodes, and the lists of directories.
const (
	framingPart  = 16
	leastFraming = 1 << 20
)

// finish ends the reply. One that broke off must not look whole.
func (o *reply) finish(r *http.Request) {
	_ = o.extend() // for what net/http has yet to write
	if o.status == 0 {
		o.WriteHeader(http.StatusOK) // which net/http would say, without what we add
	}
	if !o.broken() || o.x.method == http.MethodHead && o.status != 0 {
		return
	}
	err := o.x.err
	if err == nil {
		err = errors.New(o.Header().Get(streamError))
	}
	if o.status == 0 {
		o.x.err = nil
		clear(o.Header())
		o.x.g.refuse(o, r, err)
		return
	}
	if r.Context().Err() == nil {
		o.x.g.log.LogAttrs(r.Context(), slog.LevelWarn, "a reply breaks off", slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	panic(http.ErrAbortHandler)
}

// dryRun takes a reply that is not sent.
type dryRun struct {
	header http.Header
	status int
}

// Header implements http.ResponseWriter.
func (d *dryRun) Header() http.Header { return d.header }

// WriteHeader implements http.ResponseWriter.
func (d *dryRun) WriteHeader(status int) {
	if d.status == 0 {
		d.status = status
	}
}

// Write implements http.ResponseWriter.
func (d *dryRun) Write(p []byte) (int, error) {
	d.WriteHeader(http.StatusOK)
	return len(p), nil
}

func (d *dryRun) copyTo(out *reply) { maps.Copy(out.Header(), d.header) }
