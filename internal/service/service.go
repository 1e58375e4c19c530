package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Modes of [Options.Mode]: which of reading, writing and creating are allowed.
const (
	ModeReadWriteCreate = "rwc"
	ModeReadWrite       = "rw-"
	ModeReadOnly        = "r--"
	ModeNone            = "---"
)

// DefaultMaxBodyBytes is what the original took in one request.
const DefaultMaxBodyBytes = 100 << 20

// DefaultBufferBytes lets 30 large uploads be received at a time.
const DefaultBufferBytes = 128 << 20

// Options are the knobs of [Open]. Only Dir has to be set.
type Options struct {
	Dir          string
	MaxBodyBytes int64  // of one request; 0 means DefaultMaxBodyBytes
	Mode         string // one of the Mode constants; empty means ModeReadWriteCreate
	Version      string // what GET /version says

	// Discard checks uploads and keeps track of what is complete, but leaves
	// out the payloads of leaves. It is for load tests: such a store cannot
	// give back what was uploaded. A store that has shards is opened only as
	// what it is.
	Discard bool

	// BufferBytes bounds the memory that requests use together to check what
	// they receive; 0 means DefaultBufferBytes. A large upload takes 4.25 MiB
	// while it is received, and others wait for memory.
	BufferBytes int64

	// FetchFrom are base URLs of trustless gateways, from which content is
	// fetched that is pinned but not held.
	FetchFrom []string

	// IdleTimeout is how long a request body may stand still; 0 means a
	// minute.
	IdleTimeout time.Duration

	// Registry is where metrics are registered and what GET /metrics shows;
	// nil means one of the service's own.
	Registry *prometheus.Registry
	Logger   *slog.Logger // nil means none
}

func (o Options) withDefaults() Options {
	if o.MaxBodyBytes == 0 {
		o.MaxBodyBytes = DefaultMaxBodyBytes
	}
	if o.BufferBytes == 0 {
		o.BufferBytes = DefaultBufferBytes
	}
	if o.Mode == "" {
		o.Mode = ModeReadWriteCreate
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	if o.IdleTimeout == 0 {
		o.IdleTimeout = time.Minute
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o Options) validate() error {
	var errs []error
	if o.Dir == "" {
		errs = append(errs, errors.New("no directory given for the store"))
	}
	if o.MaxBodyBytes < 0 {
		errs = append(errs, fmt.Errorf("the limit of a request body is negative: %d", o.MaxBodyBytes))
	}
	switch o.Mode {
	case ModeReadWriteCreate, ModeReadWrite, ModeReadOnly, ModeNone:
	default:
		errs = append(errs, fmt.Errorf("mode %q is none of %s", o.Mode,
			strings.Join([]string{ModeReadWriteCreate, ModeReadWrite, ModeReadOnly, ModeNone}, ", ")))
	}
	return errors.Join(errs...)
}

// Service is an open store and the HTTP API over it. Methods are safe for
// concurrent use.
type Service struct {
	opts    Options
	log     *slog.Logger
	st      *store
	limits  limiter
	metrics *metrics
	fetcher *fetcher
	handler http.Handler

	mu     sync.RWMutex
	closed bool // guarded by mu
}

// IsStore tells whether [Open] would find a store in a directory, whole or not,
// and not make one.
func IsStore(dir string) (bool, error) {
	for _, name := range []string{databaseName, shardsDir} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true, nil
		} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			return false, err
		}
	}
	return false, nil
}

// Open opens the store in opts.Dir, or makes a new one, and removes what an
// earlier process left unfinished. One process at a time may have a store
// open; others get [ErrLocked]. A store that is not fit for it is refused with
// [ErrIndexMissing], [ErrRebuilding], [ErrDiscards] or [ErrKeeps]. The caller
// closes the service.
func Open(ctx context.Context, opts Options) (*Service, error) {
	opts = opts.withDefaults()
	if err := opts.validate(); err != nil {
		return nil, fmt.Errorf("open service: %w", err)
	}
	st, err := openStore(ctx, opts)
	if err != nil {
		return nil, err
	}
	s := &Service{opts: opts, log: opts.Logger, st: st, metrics: newMetrics(opts.Registry)}
	if s.handler, err = s.newHandler(); err != nil {
		return nil, errors.Join(err, st.close())
	}
	if s.fetcher, err = s.startFetcher(ctx); err != nil {
		return nil, errors.Join(err, st.close())
	}
	return s, nil
}

// Handler serves the API, the gateway under /ipfs/, and /metrics, /healthz and
// /readyz. It wants a server whose IdleTimeout is a minute or more, which is
// how long clients keep connections. If it has a ReadHeaderTimeout, that should
// be as long: it also ends connections that a client opened and has not used
// yet, and an upload that takes one at that moment fails without a reply.
func (s *Service) Handler() http.Handler { return s.handler }

// Close waits for requests that are changing the store, and closes it.
// Requests that come later fail.
func (s *Service) Close() error {
	stopped := s.fetcher.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return errors.Join(stopped, s.st.close())
}
