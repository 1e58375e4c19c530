// Package gateway serves the contents of a store under /ipfs/, as IPFS's
// gateway specifications describe. boxo's gateway decides what to answer, and
// writes small and rare replies itself. Package walk supplies the bytes of
// files, archives and long listings.
//
// The gateway answers 200 only if it holds the start of the content. If the
// root, a path or the first blocks are missing, it answers with an error; if a
// later block turns out to be missing, it cuts the connection. A reply carries
// no validators that a cache could use unless the content is known to be
// complete.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/boxo/blockservice"
	boxo "github.com/ipfs/boxo/gateway"
	"github.com/ipfs/go-cid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/carload/carload/internal/walk"
)

// Store is the part of the store that the gateway needs.
type Store interface {
	walk.Blocks

	// Complete reports whether a block and everything below it are known to be
	// held.
	Complete(ctx context.Context, c cid.Cid) (bool, error)
}

// Options configure a gateway.
type Options struct {
	// Hosts are the gateway's host names, besides localhost. A request for
	// /ipfs/CID at one of them is redirected to CID.ipfs.NAME, so that browsers
	// keep websites apart from each other.
	Hosts []string

	// MaxRequests limits the number of concurrent requests for content; 0 means
	// no limit. When it is reached, the gateway hangs up on a client that
	// doesn't read its reply. If there is none, new clients get a 503 and
	// should come back later.
	MaxRequests int
	// MaxBytes limits the content of a reply that is a file, a part of one, an
	// archive or a tar file; 0 means no limit.
	MaxBytes int64

	Registry prometheus.Registerer
	Logger   *slog.Logger
	Walk     walk.Options
}

// Gateway serves content. It is safe for concurrent use.
type Gateway struct {
	store   Store
	reader  *walk.Reader
	log     *slog.Logger
	hosts   []string
	content http.Handler // boxo's handler for paths
	most    int64        // limit on the bytes in a reply; 0 for none
	types   typeCache
	stall   time.Duration
	room    chan struct{} // holds an item per request; nil for no limit

	mu      sync.Mutex
	replies map[*reply]struct{} // guarded by mu
	unsent  int64               // guarded by mu; bytes that replies of boxo may hold beyond what they hold
}

// stallTime is how long a client may take to receive writeBytes of a reply.
const (
	stallTime  = time.Minute
	writeBytes = 256 << 10
)

// If there are too many requests, the gateway hangs up on a client that has
// received nothing for standTime. A new request waits leaveTime for its place.
const (
	standTime = time.Second
	leaveTime = time.Second
)

// New makes a gateway. The handler passes requests that are not for the gateway
// to next.
func New(st Store, opts Options, next http.Handler) (http.Handler, error) {
	opts.Walk.HangUp = func(ctx context.Context) {
		if out := exchangeOf(ctx).out; out != nil {
			out.hangUp()
		}
	}
	g := &Gateway{
		store: st, reader: walk.NewReader(st, opts.Walk), replies: make(map[*reply]struct{}), unsent: unsentBytes, log: opts.Logger, stall: stallTime, most: opts.MaxBytes,
		hosts: slices.Concat([]string{localhost}, opts.Hosts),
	}
	if opts.MaxRequests > 0 {
		g.room = make(chan struct{}, opts.MaxRequests)
	}
	boxos, err := boxo.NewBlocksBackend(blockservice.New(blockstore{g.reader}, nil))
	if err != nil {
		return nil, fmt.Errorf("make gateway: %w", err)
	}
	b := &backend{boxos, g}
	cfg := boxo.Config{
		DeserializedResponses: true,
		DeprecatedXIpfsPath:   true, // the conformance suite and older clients look for it
		NoDNSLink:             true,
		MetricsRegistry:       opts.Registry,
		PublicGateways:        make(map[string]*boxo.PublicGateway),
	}
	for _, h := range g.hosts {
		if h == "" || strings.ContainsAny(h, "/*:") || net.ParseIP(h) != nil {
			return nil, fmt.Errorf("%q cannot be a host name of the gateway", h)
		}
		cfg.PublicGateways[h] = &boxo.PublicGateway{
			Paths: []string{"/ipfs"}, UseSubdomains: true, NoDNSLink: true, DeserializedResponses: true,
		}
	}
	g.content = boxo.NewHandler(cfg, b)
	cors := boxo.NewHeaders(nil).WithDeprecatedXIpfsPath().ApplyCors()
	shared := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, true) })
	own := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, false) })
	paths := cors.Wrap(shared)
	known := cors.Wrap(boxo.NewHostnameHandler(cfg, b, shared))
	names := cors.Wrap(boxo.NewHostnameHandler(cfg, b, own))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, under := g.host(r)
		content := strings.HasPrefix(r.URL.Path, "/ipfs/")
		switch {
		case r.Method == http.MethodConnect && host != "":
			// The client takes us for a proxy, and asks for a connection to us.
			w.WriteHeader(http.StatusOK)
		case (under || content) && !g.enter():
			w.Header().Set("Retry-After", "5")
			http.Error(w, walk.ErrBusy.Error(), http.StatusServiceUnavailable)
		case under:
			defer g.leave()
			names.ServeHTTP(w, r)
		case content && host != "" && host != localhost:
			defer g.leave()
			known.ServeHTTP(w, r) // redirects to the content's own host name
		case content:
			defer g.leave()
			paths.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	}), nil
}

// enter takes one of the places for concurrent requests. It returns false if
// there is none.
func (g *Gateway) enter() bool {
	if g.room == nil {
		return true
	}
	select {
	case g.room <- struct{}{}:
		return true
	default:
	}
	if !g.makePlace(func(*reply) bool { return true }) {
		return false
	}
	wait := time.NewTimer(leaveTime)
	defer wait.Stop()
	select {
	case g.room <- struct{}{}:
		return true
	case <-wait.C:
		return false
	}
}

// makePlace hangs up on the client that has stood still for longest, of those
// whose replies are of the kind that is asked for. It returns false if there is
// none.
func (g *Gateway) makePlace(of func(*reply) bool) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	var slowest *reply
	before := time.Now().Add(-standTime).UnixNano()
	for o := range g.replies {
		if t := o.since.Load(); t > 0 && t <= before && of(o) {
			slowest, before = o, t
		}
	}
	if slowest == nil {
		return false
	}
	delete(g.replies, slowest)
	slowest.hangUp()
	return true
}

func (g *Gateway) note(o *reply) (forget func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.replies[o] = struct{}{}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.replies, o)
		o.x.drop(o.x.held)
	}
}

func (g *Gateway) leave() {
	if g.room != nil {
		<-g.room
	}
}

const (
	localhost    = "localhost"
	onlyIfCached = "only-if-cached"
)

// host returns the gateway's host name that a request is for, and whether the
// request is for a subdomain of it. A proxy may send the name in
// X-Forwarded-Host; host removes that header if it has another name.
func (g *Gateway) host(r *http.Request) (name string, under bool) {
	if forwarded := r.Header.Get("X-Forwarded-Host"); forwarded != "" {
		if name, under := g.known(forwarded); name != "" {
			return name, under
		}
		r.Header.Del("X-Forwarded-Host")
	}
	return g.known(r.Host)
}

func (g *Gateway) known(host string) (name string, under bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	for _, name := range g.hosts {
		if host == name {
			return name, false
		}
		if Under(host, name) {
			return name, true
		}
	}
	return "", false
}

// Under reports whether a host has the form CID.ipfs.NAME, where content has a
// subdomain of the gateway's name.
func Under(host, name string) bool {
	rest, ok := strings.CutSuffix(host, "."+name)
	return ok && strings.HasSuffix(rest, ".ipfs")
}

// exchange holds what we know about one request.
type exchange struct {
	g       *Gateway
	out     *reply
	method  string
	shared  bool  // the host name also serves other content, which must be protected from this
	named   bool  // the request names the file
	ranged  bool  // the request asks for a range
	partial bool  // the content is not known to be complete
	file    *file // the file that boxo asked about last
	failed  error // why there is no file, if boxo could find out no more
	budget  budget
	tar     bool  // boxo makes a tar file, and what it may hold is counted already
	held    int64 // guarded by the mutex of the gateway; see hold
	err     error // why the reply broke off
}

type exchangeKey struct{}

// exchangeOf returns a request's exchange.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	if x == nil {
		x = &exchange{} // nobody will read it
	}
	return x
}

// serve answers a request whose path is a content path. If shared, the host
// name serves other content too.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, shared bool) {
	x := &exchange{g: g, method: r.Method, shared: shared, named: r.URL.Query().Has("filename"), ranged: r.Header.Get("Range") != ""}
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	out := newReply(w, x)
	x.out = out
	defer g.note(out)()
	g.answer(out, r)
	out.finish(r)
}

// answer decides who answers the request: boxo or this package.
func (g *Gateway) answer(out *reply, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		g.content.ServeHTTP(out, r)
		return
	}
	if isConditional(r) && !isBlock(r) && !g.complete(r) {
		// The client's copy may be from when the content was complete, or may
		// not be.
		for _, name := range conditional {
			r.Header.Del(name)
		}
	}
	if !isPlain(r) {
		g.content.ServeHTTP(out, r)
		return
	}
	// Ask boxo for the headers of the whole, with a HEAD request without a
	// range. If this is a file or a long listing, we send the body or the range
	// ourselves.
	head := r.Clone(r.Context())
	head.Method = http.MethodHead
	for _, name := range []string{"Range", "If-Range", "Cache-Control"} {
		head.Header.Del(name)
	}
	dry := &dryRun{header: out.Header().Clone()}
	g.content.ServeHTTP(dry, head)
	f := out.x.file
	switch {
	case dry.status == http.StatusOK && f != nil:
		dry.copyTo(out)
		g.serveFile(out, r, f)
	case f == nil && out.x.failed != nil && r.Header.Get("Cache-Control") != onlyIfCached:
		g.refuse(out, r, out.x.failed)
	case dry.status == 0 && g.serveListing(out, r, dry):
	default:
		g.content.ServeHTTP(out, r)
	}
}

// conditional lists the headers that make a request depend on the client's
// copy.
var conditional = []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"}

func isConditional(r *http.Request) bool {
	return slices.ContainsFunc(conditional, func(name string) bool { return r.Header.Get(name) != "" })
}

// formats returns the formats that a request accepts.
func formats(r *http.Request) []string {
	all := slices.Clone(r.Header.Values("Accept"))
	if f := r.URL.Query().Get("format"); f != "" {
		all = append(all, "application/vnd.ipld."+f)
	}
	return all
}

// isPlain reports whether a request is for a web page or a file, rather than
// for blocks.
func isPlain(r *http.Request) bool {
	return !slices.ContainsFunc(formats(r), func(f string) bool {
		return strings.Contains(f, "application/vnd.ip") || strings.Contains(f, "application/x-tar") ||
			strings.Contains(f, "application/json") || strings.Contains(f, "application/cbor")
	})
}

// isBlock reports whether a request is for a single block, or for what it
// decodes to. Such a reply is always complete.
func isBlock(r *http.Request) bool {
	return slices.ContainsFunc(formats(r), func(f string) bool {
		return !strings.Contains(f, ".car") && strings.Contains(f, "application/vnd.ip")
	})
}

// complete reports whether the requested content is known to be complete.
func (g *Gateway) complete(r *http.Request) bool {
	root, names, err := parsePath(r.URL.Path)
	if err != nil {
		return false
	}
	p, err := g.reader.Resolve(r.Context(), root, names)
	if err != nil {
		return false
	}
	whole, err := g.store.Complete(r.Context(), p.Root())
	return err == nil && whole
}

// refuse answers with an error instead of the reply that was prepared.
func (g *Gateway) refuse(out *reply, r *http.Request, err error) {
	status := http.StatusInternalServerError
	switch {
	case isNotFound(err):
		status = http.StatusNotFound
	case errors.Is(err, walk.ErrBusy):
		status = http.StatusServiceUnavailable
		out.Header().Set("Retry-After", "5")
	case errors.Is(err, walk.ErrFruitless):
		status = http.StatusUnprocessableEntity
	case errors.Is(err, errTooLarge):
		status = http.StatusGone
	}
	if status == http.StatusInternalServerError && r.Context().Err() == nil {
		g.log.LogAttrs(r.Context(), slog.LevelError, "read content", slog.String("path", r.URL.Path), slog.Any("error", err))
	}
	for _, name := range []string{"Content-Length", "Content-Range", "Content-Disposition", "Accept-Ranges"} {
		out.Header().Del(name)
	}
	http.Error(out, err.Error(), status)
}
