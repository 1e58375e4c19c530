package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/carload/carload/internal/store"
)

// New makes a service over an open store. The caller closes the service before
// the store.
func New(ctx context.Context, st *store.Store, opts Options) (*Service, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("make service: %w", err)
	}
	s := &Service{opts: opts, log: opts.Logger, shares: shares{max: max(1, opts.MaxConns/2)}, intake: intake{st, newMetrics(opts.Registry, st)}}
	var err error
	if s.handler, err = s.newHandler(); err != nil {
		return nil, err
	}
	if s.fetcher, err = startFetcher(ctx, s.intake, opts); err != nil {
		return nil, err
	}
	return s, nil
}

// newHandler puts together the API, the gateway, and the routes for operators.
func (s *Service) newHandler() (http.Handler, error) {
	routes := s.routes()
	//nolint:contextcheck // the request carries its context
	var api http.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serveAPI(routes, w, r) })
	if s.opts.Console != nil {
		api = s.opts.Console(api)
	}
	all, err := s.newGateway(api)
	if err != nil {
		return nil, err
	}
	return s.observe(s.checkHost(all)), nil
}

// route is a route of the API. Patterns ignore case and a trailing slash.
type route struct {
	method  string
	pattern []string // segments; ":param" matches any
	mode    string   // letters that the service's mode must contain
	guard   guard
	handle  func(*call) error
}

func (s *Service) routes() []route {
	var out []route
	add := func(method, pattern, mode string, g guard, handle func(*call) error) {
		out = append(out, route{method, strings.Split(strings.Trim(pattern, "/"), "/"), mode, g, handle})
	}
	add("GET", "/metrics", "", unshared, s.serveMetrics)
	add("GET", healthPath, "", public, s.healthz)
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
	add("POST", "/upload", "rwc", keyed|creates|bodied, s.upload)
	add("PATCH", "/upload/:param", "rwc", keyed|creates, s.rename)
	add("POST", "/store", "rwc", keyed|creates|bodied, s.storeNFT)
	add("DELETE", "/:param", "rwc", keyed|deletes, s.remove)
	add("GET", "/internal/status", "r", keyed, s.storeStatus)
	add("GET", "/internal/shards/:param", "r", keyed, s.shard)
	add("GET", "/piece/:param", "r", public, s.piece)
	add("HEAD", "/piece/:param", "r", public, s.piece)
	add("GET", "/user/tags", "r", keyed, s.tags)
	add("GET", "/internal/tokens", "r", keyed, s.listTokens)
	add("POST", "/internal/tokens", "rw", keyed|creates, s.createToken)
	add("DELETE", "/internal/tokens", "rw", keyed|deletes, s.deleteToken)
	return append(legacy(out), out...)
}

// legacy returns the routes under the prefix that the first clients used.
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
	c.w.Header().Set("X-Content-Type-Options", "nosniff")
	if rt.guard&unshared == 0 {
		allowOrigin(c.w, c.r)
	}
	c.param, c.pins = param, rt.guard&pinsGuard != 0
	if rt.guard&keyed != 0 {
		who, err := s.authenticate(c.r)
		if err != nil {
			return err
		}
		if who.RateLimited {
			if wait, ok := s.limits.allow(who.KeyID, time.Now()); !ok {
				return writeLimited(c.w, wait)
			}
		}
		if err := pass(who, rt.guard); err != nil {
			return err
		}
		c.who = who
		sh, leave, ok := s.shares.enter(who.KeyID)
		if !ok {
			return writeLimited(c.w, shareRetry)
		}
		defer leave()
		if rt.guard&bodied != 0 {
			release, err := sh.body(c.r.Context(), c.r.ContentLength)
			if errors.Is(err, errNoRoom) {
				return writeLimited(c.w, shareRetry)
			}
			if err != nil {
				return err
			}
			defer release()
		}
	}
	for _, letter := range rt.mode {
		if !strings.ContainsRune(s.opts.Mode, letter) {
			return failure(http.StatusServiceUnavailable, "ERROR_MAINTENANCE",
				"API undergoing maintenance, check https://status.nft.storage for more info")
		}
	}
	return rt.handle(c)
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

// fail answers with the part of an error that the client may know, and logs the
// rest.
func (s *Service) fail(c *call, err error) error {
	if errors.Is(err, context.Canceled) && c.r.Context().Err() != nil {
		// If nothing is written, net/http answers 200. A client that closed
		// only its own side of the connection would believe it.
		err = failure(http.StatusServiceUnavailable, "HTTP_ERROR", "the client closed the connection before the request was complete")
	}
	if c.body.err == nil && c.r.ContentLength != 0 {
		c.w.Header().Set("Connection", "close") // the rest of the body is read only for a short time
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
	return api.write(c.w, c.pins)
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

// Metrics serves only GET /metrics, but to other machines too. It is meant for
// a separate listener.
func (s *Service) Metrics() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.metrics.handler)
	return s.checkHost(mux)
}
