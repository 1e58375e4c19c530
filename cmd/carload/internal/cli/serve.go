package cli

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	webconsole "github.com/carload/carload/internal/console"
	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
)

// defaultListen is the default address of the service.
const defaultListen = "127.0.0.1:5080"

// defaultScrub is slow enough that nobody notices it: 350 GB a day.
const defaultScrub = 4 << 20

// metricsConns limits the connections of clients that only read metrics.
const metricsConns = 16

// maxConns returns how many connections a service accepts. Each one also has a
// file open while it uploads, and the store has some of its own.
func maxConns() int {
	const own, most = 100, service.DefaultMaxConns
	return max(16, min((descriptors()-own)/2, most))
}

type serveFlags struct {
	listen            string
	store             string
	tlsCert, tlsKey   string
	insecure, discard bool
	readOnly          bool
	maxBodyBytes      size
	access            string
	hosts             []string
	gatewayHosts      []string
	metricsAddr       string
	maxResponseBytes  size
	fetchFrom         []string
	scrub             byteRate
	collect           time.Duration
	console           bool
	consoleSet        bool // the user turned it on or off
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the service: the NFT.Storage API and an IPFS gateway",
		Long: `Run the service: the NFT.Storage API under /, an IPFS gateway to the store under
/ipfs/, and /metrics, /healthz and /readyz. Writing needs a key; create one with
"carload key new". The service prints its URL when it is ready.

By default it listens only on this machine; other addresses need certificates.
It answers requests for localhost, for IP addresses, and for the names given
with --host and --gateway-host. It answers others with 421, so that no website
can act as the service by pointing its own name here. SIGINT or SIGTERM ends it
after the current requests.`,
		Example: `  carload serve
  carload serve --listen :443 --tls-cert cert.pem --tls-key key.pem --store /srv/carload`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.consoleSet = cmd.Flags().Changed("console")
			return a.serve(cmd.Context(), f)
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&f.listen, "listen", defaultListen, "address and port to listen on; port 0 takes any free one")
	addStore(cmd, &f.store)
	fl.StringArrayVar(&f.hosts, "host", nil, "name of the service; may be repeated. Without one, a service that other machines can reach answers to any name")
	fl.StringVar(&f.tlsCert, "tls-cert", "", "certificate file, in PEM format")
	fl.StringVar(&f.tlsKey, "tls-key", "", "file with its private key")
	fl.BoolVar(&f.insecure, "insecure", false, "listen on addresses other than loopback without TLS")
	f.maxBodyBytes = service.DefaultMaxBodyBytes
	fl.Var(&f.maxBodyBytes, "max-body-bytes", "largest request body")
	fl.StringVar(&f.access, "access", service.ModeReadWriteCreate, "what to allow: rwc, rw- (nothing new), r-- or --- (maintenance)")
	fl.BoolVar(&f.readOnly, "read-only", false, "write nothing to the store, which may be on read-only media: uploads get 503")
	fl.StringArrayVar(&f.fetchFrom, "fetch-from", nil, "URL of a trustless gateway to fetch pinned content from; may be repeated")
	fl.StringArrayVar(&f.gatewayHosts, "gateway-host", nil, "name below which each CID has its own name, CID.ipfs.NAME; may be repeated")
	fl.StringVar(&f.metricsAddr, "metrics-addr", "", "separate address and port for /metrics, open to everyone who can reach it; without it, only this machine can read metrics")
	fl.Var(&f.maxResponseBytes, "max-response-bytes", "largest file or archive in one gateway response; 0 for no limit")
	f.scrub.size = defaultScrub
	fl.Var(&f.scrub, "scrub", "bytes per second to read and hash in the background, which covers the store once a day; off for never")
	fl.DurationVar(&f.collect, "gc-interval", 10*time.Minute, "how often to remove shards that no upload needs; 0 for never")
	fl.BoolVar(&f.console, "console", true, "web console at the service's URL; by default only if nobody but this machine can reach it")
	fl.BoolVar(&f.discard, "discard", false, "check uploads but store no payload; for load tests")
	return cmd
}

func (a *app) serve(ctx context.Context, f serveFlags) (err error) {
	defer moreGarbage.limit()()
	if (f.tlsCert == "") != (f.tlsKey == "") {
		return usagef("--tls-cert and --tls-key must be given together")
	}
	if err := checkListen(f); err != nil {
		return err
	}
	if f.collect < 0 {
		return usagef("--gc-interval %v: it must not be negative", f.collect)
	}
	if modes := []string{service.ModeReadWriteCreate, service.ModeReadWrite, service.ModeReadOnly, service.ModeNone}; !slices.Contains(modes, f.access) {
		return usagef("--access %q: use one of %s", f.access, strings.Join(modes, ", "))
	}
	if f.readOnly {
		if f.discard || len(f.fetchFrom) > 0 || f.consoleSet && f.console {
			return usagef("--read-only does not work with --discard, --fetch-from and --console")
		}
		f.access, f.console = service.ModeReadOnly, false
	}
	var certificates []tls.Certificate
	if f.tlsCert != "" {
		c, err := certificate(f.tlsCert, f.tlsKey)
		if err != nil {
			return usageError{error: fmt.Errorf("TLS: %w", err)}
		}
		certificates = append(certificates, c)
	}
	dir, err := a.storeDir(f.store)
	if err != nil {
		return err
	}
	open := store.Open
	if f.readOnly {
		open = store.OpenReadOnly
	}
	st, err := open(ctx, store.Options{Dir: dir, Discard: f.discard, Logger: a.log})
	if errors.Is(err, syscall.EROFS) || errors.Is(err, fs.ErrPermission) {
		return withHint(err, "serve what is there with --read-only")
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	serviceOpts := service.Options{
		MaxBodyBytes: int64(f.maxBodyBytes), Mode: f.access, Version: version(), FetchFrom: f.fetchFrom,
		Hosts: f.hosts, AnyHost: f.anyHost(), MaxConns: maxConns(), GatewayHosts: f.gatewayHosts, MaxResponseBytes: int64(f.maxResponseBytes),
		Registry: prometheus.NewRegistry(), Logger: a.log,
	}
	pages, err := a.pages(st, f, dir, serviceOpts.Registry)
	if err != nil {
		return err
	}
	if pages != nil {
		serviceOpts.Console = pages.Handler
	}
	svc, err := service.New(ctx, st, serviceOpts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, svc.Close()) }()
	if !f.readOnly {
		if _, err := localToken(ctx, st, dir); err != nil {
			return err
		}
	}
	listener, err := listen("--listen", f.listen)
	if err != nil {
		return err
	}
	opts := service.ServerOptions{MaxConns: maxConns(), Logger: a.log}
	url := "http://" + listener.Addr().String()
	if len(certificates) > 0 {
		url = "https://" + listener.Addr().String()
		opts.TLS = &tls.Config{Certificates: certificates, MinVersion: tls.VersionTLS12}
	}
	server := service.NewServer(svc.Handler(), opts)

	metrics := service.NewServer(svc.Metrics(), service.ServerOptions{MaxConns: metricsConns, Logger: a.log})
	var metricsListener net.Listener
	if f.metricsAddr != "" {
		if metricsListener, err = listen("--metrics-addr", f.metricsAddr); err != nil {
			return errors.Join(err, listener.Close())
		}
		a.log.Info("serving metrics", "url", "http://"+metricsListener.Addr().String()+"/metrics")
	}

	var g errgroup.Group
	if metricsListener != nil {
		g.Go(func() error { return metrics.Serve(metricsListener) })
	}
	background, stopBackground := context.WithCancel(ctx)
	defer stopBackground()
	if f.scrub.size > 0 && !f.discard && !f.readOnly {
		g.Go(func() error {
			if err := st.Scrub(background, store.ScrubOptions{BytesPerSecond: int64(f.scrub.size)}); err != nil {
				a.log.Error("the scrub failed", "error", err) // the service continues
			}
			return nil
		})
	}
	if f.collect > 0 && !f.readOnly {
		g.Go(func() error {
			st.CollectRegularly(background, store.CollectOptions{Every: f.collect})
			return nil
		})
	}
	if pages != nil {
		g.Go(func() error { pages.Run(background); return nil })
	}
	stopped := make(chan struct{})
	g.Go(func() error {
		defer close(stopped)
		return server.Serve(listener)
	})
	forget := func() error { return nil }
	if !f.readOnly {
		endpointFile := filepath.Join(dir, localEndpointFile)
		if err := writePrivate(endpointFile, url+"\n"); err != nil {
			stopBackground()
			return errors.Join(err, metrics.Close(), server.Close(), g.Wait())
		}
		forget = func() error { return os.Remove(endpointFile) }
	}
	a.con.result(url)
	a.con.event(servingEvent{header("serving"), url, dir})
	a.log.Info("serving", "url", url, "store", dir)
	a.sayServing(url, f, pages != nil)

	select {
	case <-stopped:
	case <-ctx.Done():
		a.log.Info("stopping", "grace", grace)
	}
	stopBackground()
	err = server.Shutdown(a.life.hard)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests were cut off: %w", err), server.Close())
	}
	return errors.Join(err, metrics.Close(), g.Wait(), forget())
}

func certificate(cert, key string) (tls.Certificate, error) {
	chain, _, err := readSmall(cert, maxCertBytes)
	if err != nil {
		return tls.Certificate{}, err
	}
	private, _, err := readSmall(key, maxCertBytes)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(chain, private)
}

func listen(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil { // not a network failure: a retry does not help
		return nil, withHint(coded{err, exitOther}, fmt.Sprintf("choose a free address of this machine with %s; port 0 takes any free port", flag))
	}
	return l, nil
}

// sayServing says what to do next.
func (a *app) sayServing(url string, f serveFlags, pages bool) {
	if f.readOnly {
		a.con.say("fetch from it: %s/ipfs/CID; it takes no uploads; Ctrl-C ends it", url)
		return
	}
	up := "carload up FILE"
	if f.store != "" {
		up += " --store " + shellQuote([]string{f.store})
	}
	if f.anyHost() || len(f.hosts) > 0 {
		up += ", from elsewhere with --endpoint and the token from carload key new"
	}
	a.con.say("upload to it: %s", up)
	look := "fetch from it: " + url + "/ipfs/CID"
	if pages {
		look += "; look at it: carload console"
		if f.store != "" {
			look += " --store " + shellQuote([]string{f.store})
		}
	}
	a.con.say("%s; Ctrl-C ends it", look)
}

type servingEvent struct {
	eventHeader
	URL   string `json:"url"`
	Store string `json:"store"`
}

// anyHost reports whether the service answers to any name: others can reach it,
// and it has no name.
func (f serveFlags) anyHost() bool {
	host, _, err := net.SplitHostPort(f.listen)
	return err == nil && !isLoopbackHost(host) && len(f.hosts) == 0
}

// pages creates the console unless it is off. If others can reach the service,
// the user must turn it on.
func (a *app) pages(st *store.Store, f serveFlags, dir string, metrics prometheus.Gatherer) (*webconsole.Console, error) {
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil || !f.console || !f.consoleSet && !isLoopbackHost(host) {
		return nil, err
	}
	if f.anyHost() {
		return nil, withHint(usagef("--console: the service answers to any name, so any website could act as the console"), "name it with --host NAME")
	}
	return webconsole.New(st, webconsole.Options{Metrics: metrics, Free: freeSpace(dir), Logger: a.log})
}

// checkListen makes sure that other machines can reach the service only if the
// user wants that.
func checkListen(f serveFlags) error {
	host, _, err := net.SplitHostPort(f.listen)
	if err != nil {
		return usageError{error: fmt.Errorf("--listen: %w", err)}
	}
	for _, h := range f.hosts {
		if h == "" || strings.ContainsAny(h, "/*:") {
			return usagef("--host %q: give a name without scheme, port and path", h)
		}
	}
	if isLoopbackHost(host) || f.tlsCert != "" || f.insecure {
		return nil
	}
	return withHint(usagef("--listen %s: others can reach that address, and could read the keys in transit", f.listen),
		"pass --tls-cert and --tls-key, or --insecure if a proxy in front does TLS")
}
