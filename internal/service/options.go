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

// Values of [Options.Mode]: whether reading, writing and creating are allowed.
const (
	ModeReadWriteCreate = "rwc"
	ModeReadWrite       = "rw-"
	ModeReadOnly        = "r--"
	ModeNone            = "---"
)

// DefaultMaxBodyBytes is what the original accepted in one request.
const DefaultMaxBodyBytes = 100 << 20

// Options configure [New]. The zero value is ready to use.
type Options struct {
	MaxBodyBytes int64  // limit for one request; 0 means DefaultMaxBodyBytes
	Mode         string // one of the Mode constants; empty means ModeReadWriteCreate
	Version      string // what GET /version reports

	// FetchFrom lists the base URLs of trustless gateways. Pinned content that
	// is not held is fetched from them.
	FetchFrom []string

	// GatewayHosts are host names at which the gateway gives each root a
	// subdomain: /ipfs/CID is redirected to CID.ipfs.NAME.
	GatewayHosts []string
	// MaxResponseBytes limits the content of one reply of the gateway: a file,
	// a part of one, or an archive. 0 means no limit.
	MaxResponseBytes int64

	// Hosts are further host names of the service, in addition to localhost,
	// GatewayHosts and all IP addresses. Requests for other hosts get 421.
	Hosts []string

	// AnyHost accepts requests for any host, for services that others reach
	// under names we don't know. It can't be combined with a Console, since
	// other websites could then act as the console.
	AnyHost bool

	// Console handles requests before the API, and passes on those that are not
	// for browsers. By then, the host of the request has been checked, and
	// requests for content have gone to the gateway. Nil means no console.
	Console func(api http.Handler) http.Handler

	// MaxConns is how many connections the server accepts; 0 means
	// DefaultMaxConns. One key may use half of them at a time, and requests for
	// content three quarters.
	MaxConns int

	// IdleTimeout is how long a request body may stall; 0 means a minute.
	IdleTimeout time.Duration

	// Registry is where metrics are registered, and what GET /metrics shows.
	// Nil means a new registry.
	Registry *prometheus.Registry
	Logger   *slog.Logger // nil discards the log
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
		errs = append(errs, fmt.Errorf("the limit on request bodies is negative: %d", o.MaxBodyBytes))
	}
	if o.AnyHost && o.Console != nil {
		errs = append(errs, errors.New("a console cannot be combined with AnyHost"))
	}
	switch o.Mode {
	case ModeReadWriteCreate, ModeReadWrite, ModeReadOnly, ModeNone:
	default:
		errs = append(errs, fmt.Errorf("mode %q is not one of %s", o.Mode,
			strings.Join([]string{ModeReadWriteCreate, ModeReadWrite, ModeReadOnly, ModeNone}, ", ")))
	}
	return errors.Join(errs...)
}

// DefaultMaxConns limits the connections of a server without its own limit.
const DefaultMaxConns = 4096

const healthPath = "/healthz"
