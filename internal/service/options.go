package service

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
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

// Options are the knobs of [New]. The zero value is fit for use.
type Options struct {
	MaxBodyBytes int64  // of one request; 0 means DefaultMaxBodyBytes
	Mode         string // one of the Mode constants; empty means ModeReadWriteCreate
	Version      string // what GET /version says

	// FetchFrom are base URLs of trustless gateways, from which content is
	// fetched that is pinned but not held.
	FetchFrom []string

	// GatewayHosts are names under which the gateway gives each root a name of
	// its own: /ipfs/CID there leads to CID.ipfs.NAME.
	GatewayHosts []string
	// MaxResponseBytes bounds the content of one reply of the gateway: a file, a
	// part of one, or an archive. 0 means no bound.
	MaxResponseBytes int64

	// Hosts are names that the service is known as, besides localhost,
	// GatewayHosts and any IP address. Requests for other hosts get 421.
	Hosts []string

	// AnyHost serves requests for any host: for a service that others reach
	// by names that it was not given. It can have no Console, for websites
	// could act as that.
	AnyHost bool

	// Console stands before the API, and gives it what is not for browsers.
	// Requests have passed the check of their host, and content has been
	// taken out. Nil means none.
	Console func(api http.Handler) http.Handler

	// MaxConns is how many connections the server takes; 0 means
	// DefaultMaxConns. One key may use half of them at a time, and requests
	// for content three quarters.
	MaxConns int

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
	if o.Mode == "" {
		o.Mode = ModeReadWriteCreate
	}
	if o.Version == "" {
		o.Version = "devel"
	}
	if o.MaxConns == 0 {
		o.MaxConns = DefaultMaxConns
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
	if o.MaxBodyBytes < 0 {
		errs = append(errs, fmt.Errorf("the limit of a request body is negative: %d", o.MaxBodyBytes))
	}
	if o.AnyHost && o.Console != nil {
		errs = append(errs, errors.New("a console needs a service that checks the host of requests"))
	}
	switch o.Mode {
	case ModeReadWriteCreate, ModeReadWrite, ModeReadOnly, ModeNone:
	default:
		errs = append(errs, fmt.Errorf("mode %q is none of %s", o.Mode,
			strings.Join([]string{ModeReadWriteCreate, ModeReadWrite, ModeReadOnly, ModeNone}, ", ")))
	}
	return errors.Join(errs...)
}

// DefaultMaxConns bounds the connections of a server that says nothing else.
const DefaultMaxConns = 4096

const healthPath = "/healthz"
