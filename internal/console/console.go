// Package console serves the pages that people see when they open the service's
// URL in a browser: pages to upload files, and to look at what the service
// holds.
//
// It sits in front of the API and takes over the page itself and the paths
// below /console/. The pages use the API through the console, with the key of
// their session. The gateway shows content.
//
// A session consists of a cookie that scripts can't read and a proof that only
// pages of this origin know. Every request needs both: browsers send cookies to
// every port of a host, so another server on the same machine could read the
// cookie.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/carload/carload/internal/console/web"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/internal/walk"
)

// Store is the part of the store that the console needs.
type Store interface {
	Authenticate(ctx context.Context, token string) (*store.Caller, error)
	Uploads(ctx context.Context, f store.Filter) ([]store.Upload, int, error)
	Upload(ctx context.Context, userID int64, source string) (store.Upload, error)
	UploadShards(ctx context.Context, uploadID int64, limit int) ([]store.UploadShard, int, int64, error)
	Find(ctx context.Context, cids []cid.Cid) (*store.Batch, error)
}

// Options configure [New]. The zero value is ready to use.
type Options struct {
	// Metrics supplies the service's metrics for the charts. It may be nil.
	Metrics prometheus.Gatherer
	// Free returns the free bytes on the disk, or false if unknown. It may be
	// nil.
	Free func() (int64, bool)

	Logger *slog.Logger // nil discards the log
}

// Console serves the pages and their requests. It is safe for concurrent use.
type Console struct {
	st       Store
	opts     Options
	log      *slog.Logger
	reader   *walk.Reader
	assets   assets
	sessions *sessions
	changes  *changes
	figures  *figures
}

// New makes a console over an open store. The caller must call [Console.Run].
func New(st Store, opts Options) (*Console, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	files, err := loadAssets(web.Files())
	if err != nil {
		return nil, err
	}
	return &Console{
		st: st, opts: opts, log: opts.Logger, assets: files,
		reader:   walk.NewReader(blocks{st}, walk.Options{Memory: 64 << 20, Walks: 8}),
		sessions: newSessions(time.Now),
		changes:  newChanges(),
		figures:  newFigures(opts.Metrics, opts.Free),
	}, nil
}

// Run samples the figures that the charts show until the context is done. Then
// it ends all event streams.
func (c *Console) Run(ctx context.Context) {
	c.figures.run(ctx)
	c.changes.end()
}

// prefix is the path of everything that the console serves except its page.
const prefix = "/console/"

// Handler puts the console in front of the API.
func (c *Console) Handler(api http.Handler) http.Handler {
	api = c.watch(api)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+prefix+"assets/{name}", c.asset)
	mux.HandleFunc("POST "+prefix+"code", c.makeCode)
	mux.HandleFunc("POST "+prefix+"session", c.signIn)
	keyed := func(pattern string, f func(http.ResponseWriter, *http.Request, *session)) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+prefix+path, func(w http.ResponseWriter, r *http.Request) {
			if s := c.session(w, r); s != nil {
				f(w, r, s)
			}
		})
	}
	keyed("GET session", c.whoAmI)
	keyed("DELETE session", c.signOut)
	keyed("GET uploads", c.listUploads)
	keyed("GET uploads/{cid}", c.showUpload)
	keyed("GET nodes/{cid}", c.showNode)
	keyed("POST verify/{cid}", c.verify)
	keyed("GET events", c.events)
	keyed("GET figures", c.showFigures)
	through := func(w http.ResponseWriter, r *http.Request, s *session) { c.passOn(api, w, r, s) }
	for _, method := range []string{"GET", "POST", "PATCH", "DELETE"} {
		keyed(method+" api/", through)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, prefix):
			if !plainHost(r.Host) {
				fail(w, http.StatusMisdirectedRequest, "this host has no console")
				return
			}
			harden(w, r)
			mux.ServeHTTP(w, r)
		case isBrowser(r) && plainHost(r.Host):
			harden(w, r)
			c.page(w, r)
		default:
			api.ServeHTTP(w, r)
		}
	})
}

// isBrowser reports whether a person opened the service's URL in a browser. The
// API has its list of uploads at the same path, but its clients send a key, and
// accept JSON or anything.
func isBrowser(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) && r.URL.Path == "/" &&
		r.Header.Get("Authorization") == "" && strings.Contains(r.Header.Get("Accept"), "text/html")
}

// passOn forwards a request to the API with the session's key.
func (c *Console) passOn(api http.Handler, w http.ResponseWriter, r *http.Request, s *session) {
	out := r.Clone(r.Context())
	out.URL.Path = "/" + strings.TrimPrefix(r.URL.Path, prefix+"api/")
	out.URL.RawPath = ""
	if raw := r.URL.RawPath; raw != "" {
		out.URL.RawPath = "/" + strings.TrimPrefix(raw, prefix+"api/")
	}
	for _, name := range []string{"Cookie", "Origin", proofHeader} {
		out.Header.Del(name)
	}
	out.Header.Set("Authorization", "Bearer "+s.token)
	api.ServeHTTP(&unshared{ResponseWriter: w}, out)
}

// unshared removes the header from the API's replies that lets other origins
// read them.
type unshared struct {
	http.ResponseWriter
	begun bool
}

// Unwrap lets http.ResponseController reach the connection.
func (u *unshared) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (u *unshared) WriteHeader(status int) {
	u.begun = true
	u.Header().Del("Access-Control-Allow-Origin")
	u.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (u *unshared) Write(p []byte) (int, error) {
	if !u.begun {
		u.WriteHeader(http.StatusOK)
	}
	return u.ResponseWriter.Write(p)
}

// watch tells pages that something may have changed after each request to the
// API that is not read-only.
func (c *Console) watch(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodGet, http.MethodHead, http.MethodOptions:
			api.ServeHTTP(w, r)
			return
		}
		defer c.changes.tell() // even a failed request may have changed something
		api.ServeHTTP(w, r)
	})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone; nobody to tell
}

// fail reports an error to the page, as a sentence.
func fail(w http.ResponseWriter, status int, message string) {
	reply(w, status, struct {
		Error string `json:"error"`
	}{message})
}

// failed answers a request whose use of the store failed.
func (c *Console) failed(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, store.ErrNotFound):
		fail(w, http.StatusNotFound, "There is no such upload.")
	case r.Context().Err() != nil:
	default:
		c.log.LogAttrs(r.Context(), slog.LevelError, "the console's request failed", slog.String("path", r.URL.Path), slog.Any("error", err))
		fail(w, http.StatusInternalServerError, "The service failed. Its log says why.")
	}
}
