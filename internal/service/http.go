package service

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// call is one request on its way through a handler.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	param string // what stood in the path for :param
	who   *caller
	body  *body
}

func (c *call) reply(status int, value any) error {
	return writeJSON(c.w, status, okReply{OK: true, Value: value})
}

// route is one line of the API. Patterns ignore case and a slash at the end.
type route struct {
	method  string
	pattern []string // segments; ":param" stands for any
	mode    string   // letters of the mode that it needs
	guard   guard
	handle  func(*call) error
}

// guard says what a caller has to be.
type guard uint

const (
	public    guard = 0
	keyed     guard = 1 << iota // has a key
	creates                     // and is not barred from writing
	deletes                     // and is not barred from deleting
	pinsGuard                   // and may use the pinning API
)

// newHandler assembles the API, the gateway and what operators need.
func (s *Service) newHandler() (http.Handler, error) {
	gateway, err := s.newGateway()
	if err != nil {
		return nil, err
	}
	routes := s.routes()
	//nolint:contextcheck // the request carries its context
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serveAPI(routes, w, r) })
	return s.observe(gateway(api)), nil
}

func (s *Service) routes() []route {
	var out []route
	add := func(method, pattern, mode string, g guard, handle func(*call) error) {
		out = append(out, route{method, strings.Split(strings.Trim(pattern, "/"), "/"), mode, g, handle})
	}
	add("GET", "/metrics", "", public, s.serveMetrics)
	add("GET", "/healthz", "", public, s.healthz)
	add("GET", "/readyz", "", public, s.readyz)
	add("GET", "/version", "", public, s.version)
	add("GET", "/pins", "r", keyed|pinsGuard, s.listPins)
	add("GET", "/pins/:param", "r", keyed|pinsGuard, s.getPin)
	add("POST", "/pins", "rwc", keyed|creates|pinsGuard, s.addPin)
	add("POST", "/pins/:param", "rwc", keyed|creates|pinsGuard, s.replacePin)
	add("DELETE", "/pins/:param", "rwc", keyed|deletes|pinsGuard, s.deletePin)
	add("GET", "/check/:param", "r", public, s.check)
	add("GET", "/", "r", keyed, s.list)
	add("GET", "/:param", "r", keyed, s.get)
	add("POST", "/upload", "rwc", keyed|creates, s.upload)
	add("PATCH", "/upload/:param", "rwc", keyed|creates, s.rename)
	add("POST", "/store", "rwc", keyed|creates, s.storeNFT)
	add("DELETE", "/:param", "rwc", keyed|deletes, s.remove)
	add("GET", "/user/tags", "r", keyed, s.tags)
	add("GET", "/internal/tokens", "r", keyed, s.listTokens)
	add("POST", "/internal/tokens", "rw", keyed|creates, s.createToken)
	add("DELETE", "/internal/tokens", "rw", keyed|deletes, s.deleteToken)
	return append(legacy(out), out...)
}

// legacy are the routes under the prefix that the first clients used.
func legacy(routes []route) []route {
	var out []route
	for _, rt := range routes {
		switch strings.Join(rt.pattern, "/") {
		case "":
			rt.pattern = []string{"api"}
		case "pins", "pins/:param", "check/:param", ":param", "upload":
			rt.pattern = append([]string{"api"}, rt.pattern...)
		default:
			continue
		}
		out = append(out, rt)
	}
	return out
}

// match finds the first route for a request.
func match(routes []route, method string, u *url.URL) (*route, string) {
	segments := strings.Split(strings.Trim(u.EscapedPath(), "/"), "/")
next:
	for i := range routes {
		rt := &routes[i]
		if rt.method != method || len(rt.pattern) != len(segments) {
			continue
		}
		param := ""
		for j, want := range rt.pattern {
			got, err := url.PathUnescape(segments[j])
			switch {
			case err != nil:
				continue next
			case want == ":param" && got != "":
				param = got
			case !strings.EqualFold(want, got):
				continue next
			}
		}
		return rt, param
	}
	return nil, ""
}

// serveAPI answers a request that is not for the gateway.
func (s *Service) serveAPI(routes []route, w http.ResponseWriter, r *http.Request) {
	b := newBody(w, r, s.opts.MaxBodyBytes, s.opts.IdleTimeout)
	c := &call{w: w, r: r, body: b}
	err := s.dispatch(routes, c)
	if err != nil {
		err = s.fail(c, err)
	}
	if err != nil {
		s.log.LogAttrs(c.r.Context(), slog.LevelError, "write reply", slog.Any("error", err), requestID(c.r.Context()))
	}
	b.drain(c.r.Context())
}

func (s *Service) dispatch(routes []route, c *call) error {
	if c.r.ContentLength > s.opts.MaxBodyBytes {
		return tooLarge()
	}
	if c.r.Method == http.MethodOptions {
		return preflight(c)
	}
	rt, param := match(routes, c.r.Method, c.r.URL)
	if rt == nil {
		return writePlain(c.w, http.StatusNotFound, "404 not found\n")
	}
	allowOrigin(c.w, c.r)
	c.param = param
	if rt.guard&keyed != 0 {
		who, err := s.authenticate(c.r.Context(), c.r)
		if err != nil {
			return err
		}
		if who.rateLimited {
			if wait, ok := s.limits.allow(who.keyID, time.Now()); !ok {
				return writeLimited(c.w, wait)
			}
		}
		if err := who.pass(rt.guard); err != nil {
			return err
		}
		c.who = who
	}
	for _, letter := range rt.mode {
		if !strings.ContainsRune(s.opts.Mode, letter) {
			return failure(http.StatusServiceUnavailable, "ERROR_MAINTENANCE",
				"API undergoing maintenance, check https://status.nft.storage for more info")
		}
	}
	return rt.handle(c)
}

// pass makes the checks that follow authentication, in the original's order.
func (c *caller) pass(g guard) error {
	switch {
	case g&creates != 0 && c.restricted:
		return failure(http.StatusForbidden, "ERROR_ACCOUNT_RESTRICTED", "Account restricted.")
	case g&deletes != 0 && c.deleteRestricted:
		return failure(http.StatusForbidden, "ERROR_DELETE_RESTRICTED", "Delete operations restricted.")
	case g&pinsGuard != 0 && !c.pinning:
		return failure(http.StatusUnauthorized, "ERROR_PINNING_UNAUTHORIZED",
			"Pinning not authorized for this user, ask the operator of this service for it.")
	}
	return nil
}

// fail tells the client what it may know of an error, and the log the rest.
func (s *Service) fail(c *call, err error) error {
	if errors.Is(err, context.Canceled) && c.r.Context().Err() != nil {
		// A handler that writes nothing says 200, and who closed only its own
		// side of the connection would believe it.
		err = failure(http.StatusServiceUnavailable, "HTTP_ERROR", "the connection was closed before the request was done")
	}
	var pinning *pinError
	if errors.As(err, &pinning) {
		return pinning.write(c.w)
	}
	api, expected := asAPIError(err)
	if !expected {
		s.log.LogAttrs(c.r.Context(), slog.LevelError, "request failed",
			slog.String("method", c.r.Method), slog.String("path", c.r.URL.Path), slog.Any("error", err), requestID(c.r.Context()))
	}
	return api.write(c.w)
}

func preflight(c *call) error {
	h := c.r.Header
	if h.Get("Origin") == "" || h.Get("Access-Control-Request-Method") == "" {
		return writePlain(c.w, http.StatusMethodNotAllowed, "Non CORS options request not allowed\n")
	}
	allowOrigin(c.w, c.r)
	c.w.Header().Set("Access-Control-Allow-Methods", "GET,POST,PATCH,DELETE,OPTIONS")
	if asked := h.Get("Access-Control-Request-Headers"); asked != "" {
		c.w.Header().Set("Access-Control-Allow-Headers", asked)
	}
	c.w.WriteHeader(http.StatusNoContent)
	return nil
}

// writePlain is http.Error with the length: a client that has not sent its body
// yet sees that the reply is complete, and we need not wait for the body.
func writePlain(w http.ResponseWriter, status int, text string) error {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, err := io.WriteString(w, text)
	return err
}

func allowOrigin(w http.ResponseWriter, r *http.Request) {
	origin := r.Header.Get("Origin")
	if origin == "" {
		origin = "*"
	} else {
		w.Header().Add("Vary", "Origin")
	}
	w.Header().Set("Access-Control-Allow-Origin", origin)
}

// body reads a request's body up to a limit, and gives up on one that stands
// still. Its errors are bodyErrors, or an API error for a body that is too
// large.
type body struct {
	r    io.ReadCloser
	rc   *http.ResponseController
	idle time.Duration
	left int64
	err  error
}

func newBody(w http.ResponseWriter, r *http.Request, limit int64, idle time.Duration) *body {
	return &body{r: r.Body, rc: http.NewResponseController(w), idle: idle, left: limit}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	// Tests and wrappers may have no deadline; then bodies may stand still.
	_ = b.rc.SetReadDeadline(time.Now().Add(b.idle))
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		err = tooLarge()
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		b.err = io.EOF
	case b.left < 0:
		b.err = err
		return 0, err
	default:
		b.err = &bodyError{err}
	}
	return n, b.err
}

// drain reads what is left of a body after the reply was written. A server
// that hangs up while the client is still sending can lose its own reply, so
// the client is heard out, up to the limit of a body. It is not done for one
// that would be larger.
func (b *body) drain(ctx context.Context) {
	buf := make([]byte, 32<<10)
	_ = b.rc.Flush()
	for b.err == nil && ctx.Err() == nil {
		_, _ = b.Read(buf) // the error is kept
	}
	_ = b.rc.SetReadDeadline(time.Time{})
}

type requestIDKey struct{}

// requestID is the attribute that ties the log lines of a request together.
func requestID(ctx context.Context) slog.Attr {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return slog.String("request", id)
}

// observe counts and logs requests, gives them an id, and survives a panic in
// one of them.
func (s *Service) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if id == "" || len(id) > 128 || strings.ContainsFunc(id, func(c rune) bool { return c < '!' || c > '~' }) {
			id = rand.Text()
		}
		ctx := context.WithValue(r.Context(), requestIDKey{}, id)
		rec := &recorder{ResponseWriter: w}
		rec.Header().Set("X-Request-Id", id)
		start := time.Now()
		defer func() {
			failed := recover()
			if failed != nil && failed != http.ErrAbortHandler { //nolint:errorlint // a panic value
				s.log.LogAttrs(ctx, slog.LevelError, "panic", slog.Any("panic", failed),
					slog.String("stack", string(debug.Stack())), requestID(ctx))
			}
			took := time.Since(start)
			s.metrics.request(r.Method, rec.status, took)
			s.log.LogAttrs(ctx, slog.LevelInfo, "request",
				slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.Int("status", rec.status),
				slog.Duration("took", took), slog.Int64("sent", rec.sent), requestID(ctx))
			if failed != nil {
				panic(http.ErrAbortHandler)
			}
		}()
		next.ServeHTTP(rec, r.WithContext(ctx))
	})
}

// recorder remembers the status of a reply.
type recorder struct {
	http.ResponseWriter
	status int
	sent   int64
}

// Unwrap gives http.ResponseController access to the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 || r.status < 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	n, err := r.ResponseWriter.Write(p)
	r.sent += int64(n)
	return n, err
}

// Flush implements http.Flusher.
func (r *recorder) Flush() {
	if f, ok := r.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

func (s *Service) version(c *call) error {
	return writeJSON(c.w, http.StatusOK, struct {
		Version string `json:"version"`
		Commit  string `json:"commit"`
		Branch  string `json:"branch"`
		Mode    string `json:"mode"`
	}{s.opts.Version, "", "", s.opts.Mode})
}

func (s *Service) healthz(c *call) error { return writeJSON(c.w, http.StatusOK, okReply{OK: true}) }

// readyz reports whether the store answers.
func (s *Service) readyz(c *call) error {
	if err := s.st.read.PingContext(c.r.Context()); err != nil {
		return failure(http.StatusServiceUnavailable, "ERROR_NOT_READY", "The store does not answer.")
	}
	return writeJSON(c.w, http.StatusOK, okReply{OK: true})
}
