// Package gateway gives out what a store holds under /ipfs/, as the gateway
// specifications of IPFS have it. boxo's gateway decides what is answered, and
// answers itself what is small or rare. The bytes of files, archives, and long
// listings come from package walk.
//
// It says 200 for what can be had whole: a root, a path or first blocks that
// are not held are an error before anything is said, and a block that turns out
// to be missing later cuts the connection. What is not known to be complete
// carries nothing that a cache could keep it by.
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

// Store is what the gateway gives out.
type Store interface {
	walk.Blocks

	// Complete tells whether everything below a block, and the block, is known
	// to be held.
	Complete(ctx context.Context, c cid.Cid) (bool, error)
}

// Options are the knobs of a gateway.
type Options struct {
	// Hosts are the names it is known by, besides localhost. A request for
	// /ipfs/CID under such a name is sent on to CID.ipfs.NAME, so that what
	// websites hold is kept apart by browsers.
	Hosts []string

	// MaxRequests bounds the requests for content that are answered at a time;
	// 0 means no bound. More are told to come back later, unless there is a
	// client that doesn't read its reply: that is hung up on.
	MaxRequests int
	// MaxBytes bounds the content of a reply that is a file, a part of one, an
	// archive or a tar file; 0 means no bound.
	MaxBytes int64

	Registry prometheus.Registerer
	Logger   *slog.Logger
	Walk     walk.Options
}

// Gateway answers requests for content. It is safe for concurrent use.
type Gateway struct {
	store   Store
	reader  *walk.Reader
	log     *slog.Logger
	hosts   []string
	content http.Handler // boxo's, of paths
	most    int64        // bytes in a reply; 0 for no bound
	types   typeCache
	stall   time.Duration
	room    chan struct{} // a place for each request; nil for no bound

	mu      sync.Mutex
	replies map[*reply]struct{} // guarded by mu
}

// stallTime is how long a client may take for writeBytes of a reply.
const (
	stallTime  = time.Minute
	writeBytes = 256 << 10
)

// When there are too many requests, a client that has taken nothing for so long
// makes place, which is given up within a time.
const (
	standTime = time.Second
	leaveTime = time.Second
)

// New makes a gateway. What it returns takes what is for it, and gives the rest
// to next.
func New(st Store, opts Options, next http.Handler) (http.Handler, error) {
	opts.Walk.HangUp = func(ctx context.Context) {
		if out := exchangeOf(ctx).out; out != nil {
			out.hangUp()
		}
	}
	g := &Gateway{
		store: st, reader: walk.NewReader(st, opts.Walk), replies: make(map[*reply]struct{}), log: opts.Logger, stall: stallTime, most: opts.MaxBytes,
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
		DeprecatedXIpfsPath:   true, // what the conformance suite and older clients look for
		NoDNSLink:             true,
		MetricsRegistry:       opts.Registry,
		PublicGateways:        make(map[string]*boxo.PublicGateway),
	}
	for _, h := range g.hosts {
		if h == "" || strings.ContainsAny(h, "/*:") || net.ParseIP(h) != nil {
			return nil, fmt.Errorf("%q is not the name of a host that the gateway can be known by", h)
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
			// A client that takes us for a proxy: what it wants to be connected
			// to is us.
			w.WriteHeader(http.StatusOK)
		case (under || content) && !g.enter():
			w.Header().Set("Retry-After", "5")
			http.Error(w, walk.ErrBusy.Error(), http.StatusServiceUnavailable)
		case under:
			defer g.leave()
			names.ServeHTTP(w, r)
		case content && host != "" && host != localhost:
			defer g.leave()
			known.ServeHTTP(w, r) // which sends it on to its own name
		case content:
			defer g.leave()
			paths.ServeHTTP(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	}), nil
}

// enter takes a place among the requests that are answered at a time.
func (g *Gateway) enter() bool {
	if g.room == nil {
		return true
	}
	select {
	case g.room <- struct{}{}:
		return true
	default:
	}
	if !g.makePlace() {
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

// makePlace hangs up on the client that stands still for longest. It returns
// false if none does.
func (g *Gateway) makePlace() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	var slowest *reply
	before := time.Now().Add(-standTime).UnixNano()
	for o := range g.replies {
		if t := o.since.Load(); t > 0 && t <= before {
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

// host returns which of the gateway's names a request is for, and whether it is
// for a name under that. A proxy may have said so; what it says of other names
// is forgotten.
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

// Under tells whether a host is the name that content has under the name of a
// gateway, CID.ipfs.NAME.
func Under(host, name string) bool {
	rest, ok := strings.CutSuffix(host, "."+name)
	return ok && strings.HasSuffix(rest, ".ipfs")
}

// exchange is what is known of one request.
type exchange struct {
	g       *Gateway
	out     *reply
	method  string
	shared  bool  // what else is under this name must be kept from the content
	named   bool  // it gives the content another name
	ranged  bool  // it asks for a part
	partial bool  // what it asks for is not known to be complete
	file    *file // that boxo asked about last
	failed  error // why there is none, if boxo would find out no more
	budget  budget
	err     error // why the reply breaks off
}

type exchangeKey struct{}

// exchangeOf returns the exchange of a request.
func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	if x == nil {
		x = &exchange{} // one that nobody asks
	}
	return x
}

// serve answers a request whose path is a content path. The name of the host is
// the content's own, or shared with others' and with what else is there.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, shared bool) {
	x := &exchange{g: g, method: r.Method, shared: shared, named: r.URL.Query().Has("filename"), ranged: r.Header.Get("Range") != ""}
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	out := newReply(w, x)
	x.out = out
	defer g.note(out)()
	g.answer(out, r)
	out.finish(r)
}

// answer finds out who gives the reply.
func (g *Gateway) answer(out *reply, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		g.content.ServeHTTP(out, r)
		return
	}
	if isConditional(r) && !isBlock(r) && !g.complete(r) {
		// Whoever has a copy has it from when this was whole, or has another.
		for _, name := range conditional {
			r.Header.Del(name)
		}
	}
	if !isPlain(r) {
		g.content.ServeHTTP(out, r)
		return
	}
	// What boxo says to HEAD without a range is the head of the whole. If it is
	// that of a file or a long listing, we give the body, or a part of it.
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

// conditional are the headers that ask about a copy.
var conditional = []string{"If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"}

func isConditional(r *http.Request) bool {
	return slices.ContainsFunc(conditional, func(name string) bool { return r.Header.Get(name) != "" })
}

// formats returns what a request says about the format that it wants.
func formats(r *http.Request) []string {
	all := slices.Clone(r.Header.Values("Accept"))
	if f := r.URL.Query().Get("format"); f != "" {
		all = append(all, "application/vnd.ipld."+f)
	}
	return all
}

// isPlain tells a request for a web page or a file from one for blocks.
func isPlain(r *http.Request) bool {
	return !slices.ContainsFunc(formats(r), func(f string) bool {
		return strings.Contains(f, "application/vnd.ip") || strings.Contains(f, "application/x-tar") ||
			strings.Contains(f, "application/json") || strings.Contains(f, "application/cbor")
	})
}

// isBlock tells a request for a block, or what a block says. Of those there are
// no parts.
func isBlock(r *http.Request) bool {
	return slices.ContainsFunc(formats(r), func(f string) bool {
		return !strings.Contains(f, ".car") && strings.Contains(f, "application/vnd.ip")
	})
}

// complete tells whether what a request asks for is known to be complete.
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

// refuse answers with an error instead of what was about to be said.
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
