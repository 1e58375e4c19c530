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

// streamError is a header that boxo sets when a body breaks off, too late for a
// client to see it.
const streamError = "X-Stream-Error"

var errBroken = errors.New("the reply broke off")

// reply is the response to a request. It removes validators if the content is
// not known to be complete, and sends nothing more after a failure.
type reply struct {
	w      http.ResponseWriter
	rc     *http.ResponseController
	x      *exchange
	status int          // as sent; 0 before
	since  atomic.Int64 // when the current write began; 0 if there is none

	mu   sync.Mutex
	gone bool // guarded by mu; the gateway has hung up
}

func newReply(w http.ResponseWriter, x *exchange) *reply {
	return &reply{w: w, rc: http.NewResponseController(w), x: x}
}

var errStandsStill = errors.New("the client stopped reading while others were waiting")

// hangUp ends the current write and the reply.
func (o *reply) hangUp() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.gone = true
	_ = o.rc.SetWriteDeadline(time.Now()) // see extend
	for w := o.w; w != nil; {
		if outer, ok := w.(interface{ HangUp() }); ok {
			outer.HangUp() // sets deadlines as well, so it has to know
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return
		}
		w = u.Unwrap()
	}
}

// extend gives the client time to receive the next write.
func (o *reply) extend() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone {
		return errStandsStill
	}
	// Some wrappers and tests support no deadline; then clients may stand
	// still.
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

// sandboxed is the policy for content on a host name that is shared with other
// content. The browser runs no scripts, sends no forms, and gives the page an
// origin of its own. It does show images and styles that were uploaded with the
// page.
const sandboxed = "sandbox; default-src 'self' data: blob: 'unsafe-inline'; script-src 'none'; object-src 'none'"

// sandbox keeps content from acting as its origin. PDF documents are exempt:
// browsers show them with a program of their own, and not at all in a sandbox.
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

// Write implements http.ResponseWriter. It hangs up on a client that does not
// receive the data in time.
func (o *reply) Write(p []byte) (int, error) {
	if o.broken() {
		return 0, errBroken
	}
	if o.status == 0 {
		o.WriteHeader(http.StatusOK)
	}
	if o.x.method == http.MethodHead {
		return 0, http.ErrBodyNotAllowed // tells the writer to stop
	}
	if o.x.g.most > 0 && o.status < 300 && o.x.budget.sent.Load()+int64(len(p))-o.x.g.most > o.x.g.most/framingPart+leastFraming {
		o.x.err = fmt.Errorf("%w: it has more than %d bytes", errTooLarge, o.x.budget.sent.Load())
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
		if !o.x.tar {
			o.x.release(int64(k))
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// The limit on replies counts content only. These allow for the rest: the
// framing of archives, nodes, and directory listings.
const (
	framingPart  = 16
	leastFraming = 1 << 20
)

// finish ends the reply. If it broke off, finish makes sure that it does not
// look complete.
func (o *reply) finish(r *http.Request) {
	_ = o.extend() // for what net/http has still buffered
	if o.status == 0 {
		o.WriteHeader(http.StatusOK) // net/http would do so, but without our headers
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
		o.x.g.log.LogAttrs(r.Context(), slog.LevelWarn, "a reply broke off", slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	panic(http.ErrAbortHandler)
}

// dryRun records a reply instead of sending it.
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
