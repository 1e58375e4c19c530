package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/internal/service"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/uploader/nftstorage"
)

// endpointFlags say which service is meant.
type endpointFlags struct {
	endpoint     string
	gateway      string
	store        string
	token        tokenFlags
	insecureHTTP bool
	caCert       string
	stall        time.Duration
	rate         requestRate
	share        share
}

func (e *endpointFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&e.endpoint, "endpoint", "", "URL of the service's API (default: the built-in service)")
	f.StringVar(&e.gateway, "gateway", "", "URL of the gateway that gives blocks back (default: the endpoint)")
	f.StringVar(&e.token.file, "token-file", "", "file with the API key; the variable CARLOAD_TOKEN can hold it as well")
	f.StringVar(&e.token.command, "token-command", "", "program that prints the API key; run without a shell")
	f.BoolVar(&e.insecureHTTP, "insecure-http", false, "send the key unencrypted to another machine")
	f.StringVar(&e.caCert, "ca-cert", "", "trust the certificate authorities in this PEM file as well as the system's")
	f.DurationVar(&e.stall, "stall-timeout", time.Minute, "give a request up when no byte moved for so long")
	e.rate.text = rateAuto
	f.Var(&e.rate, "tpslimit", "requests in a time, such as 30/10s; off for no limit; auto is 30/10s, and off on this machine")
	f.Var(&e.share, "rate-share", "the part of --tpslimit that this host takes, such as 1/16 when 16 hosts use the key")
	addStore(cmd, &e.store)
}

func addStore(cmd *cobra.Command, store *string) {
	cmd.Flags().StringVar(store, "store", "", "directory of the built-in service (default: in the user's data directory)")
}

// storeDir is where the built-in service keeps what it holds.
func (a *app) storeDir(flag string) (string, error) {
	if flag != "" {
		return filepath.Abs(flag)
	}
	dir, err := a.env.dataDir()
	if err != nil {
		return "", usageError{error: fmt.Errorf("%w (--store)", err)}
	}
	return filepath.Join(dir, "store"), nil
}

// target is the service that is meant, under the name by which the ledger
// knows it. The caller closes it.
type target struct {
	*nftstorage.Target
	local *embedded // the built-in service, if it runs in this process
	store string    // its directory, if the service is the built-in one
	url   string
}

// String names the target. The built-in service has another port each time,
// but it is the same one.
func (t *target) String() string {
	if t.store != "" {
		return "store:" + t.store
	}
	return t.Target.String()
}

func (t *target) close() error {
	err := t.Target.Close()
	if t.local != nil {
		err = errors.Join(err, t.local.close())
	}
	return err
}

// sayWhere tells how to fetch what was uploaded.
func (t *target) sayWhere(a *app, root string) {
	switch {
	case t.local != nil:
		command := []string{"carload", "serve"}
		if dir, err := a.storeDir(""); err != nil || dir != t.store {
			command = append(command, "--store", t.store)
		}
		a.con.say("stored in %s; to fetch it back: %s, then http://%s/ipfs/%s", quotePath(t.store), shellQuote(command), defaultListen, root)
	case t.store != "":
		a.con.say("stored in %s, fetch it from %s/ipfs/%s", quotePath(t.store), t.url, root)
	}
}

// connect makes the target that the flags mean. Without an endpoint that is
// the built-in service: one that is serving the store already, or else one in
// this process.
func (a *app) connect(ctx context.Context, f endpointFlags) (*target, error) {
	t := &target{url: f.endpoint}
	var token nftstorage.Token
	var err error
	if f.endpoint != "" {
		if token, err = a.token(ctx, f.token); err != nil {
			return nil, err
		}
		if token == (nftstorage.Token{}) {
			return nil, withHint(usagef("there is no API key for %s", f.endpoint),
				"put it into the variable CARLOAD_TOKEN, or name a file by --token-file or a program by --token-command")
		}
	} else {
		if t.store, err = a.storeDir(f.store); err != nil {
			return nil, err
		}
		t.url, token, t.local, err = a.local(ctx, t.store)
		a.embedded = t.local != nil
		if err != nil {
			return nil, err
		}
	}
	t.Target, err = a.client(f, t.url, token)
	if err != nil && t.local != nil {
		err = errors.Join(err, t.local.close())
	}
	return t, err
}

// client is the target at a URL.
func (a *app) client(f endpointFlags, url string, token nftstorage.Token) (*nftstorage.Target, error) {
	transport := nftstorage.NewTransport()
	if f.caCert != "" {
		roots, err := rootsAnd(f.caCert)
		if err != nil {
			return nil, usageError{error: fmt.Errorf("--ca-cert: %w", err)}
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	pacer, err := a.pacer(f.rate, f.share, url, token)
	if err != nil {
		return nil, err
	}
	t, err := nftstorage.New(nftstorage.Options{
		Endpoint: url, Gateway: f.gateway, Token: token, AllowHTTP: f.insecureHTTP, Transport: transport, Stall: f.stall, Pacer: pacer,
		UserAgent: "carload/" + version(),
	})
	if err != nil {
		return nil, usageError{error: err}
	}
	return t, nil
}

// maxCertBytes is more than all the authorities that systems trust.
const maxCertBytes = 4 << 20

// rootsAnd is the certificate authorities that the system trusts and those in
// a PEM file.
func rootsAnd(path string) (*x509.CertPool, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, maxCertBytes))
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // the system has none
	}
	if !roots.AppendCertsFromPEM(p) {
		return nil, fmt.Errorf("%q has no certificate in PEM form", path)
	}
	return roots, nil
}

// Files in the store beside the service's own: the key that this user's
// commands use, and where the service can be reached while it runs.
const (
	localTokenFile    = "local-token" //nolint:gosec // the name of the file
	localEndpointFile = "local-endpoint"
	localKeyName      = "carload (this user)"
)

// local reaches the built-in service over a store.
func (a *app) local(ctx context.Context, dir string) (url string, _ nftstorage.Token, _ *embedded, err error) {
	e, err := a.embed(ctx, dir)
	switch {
	case errors.Is(err, store.ErrLocked):
		p, errRead := os.ReadFile(filepath.Join(dir, localEndpointFile))
		secret, errToken := os.ReadFile(filepath.Join(dir, localTokenFile))
		if errRead != nil || errToken != nil {
			return "", nftstorage.Token{}, nil, err
		}
		url = strings.TrimSpace(string(p))
		token, err := nftstorage.NewToken(strings.TrimSpace(string(secret)))
		return url, token, nil, err
	case err != nil:
		return "", nftstorage.Token{}, nil, err
	}
	token, err := nftstorage.NewToken(e.token)
	return e.url, token, e, err
}

// embedded is the built-in service in this process, on a loopback address.
type embedded struct {
	store   *store.Store
	service *service.Service
	server  *http.Server
	group   errgroup.Group
	url     string
	token   string
}

func (a *app) embed(ctx context.Context, dir string) (_ *embedded, err error) {
	st, err := store.Open(ctx, store.Options{Dir: dir, Logger: a.log})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, st.Close())
		}
	}()
	e := &embedded{store: st}
	if e.token, err = localToken(ctx, st, dir); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if e.service, err = service.New(ctx, st, service.Options{Version: version(), Logger: a.log}); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	e.url = "http://" + listener.Addr().String()
	e.server = newServer(e.service.Handler(), a.log)
	e.group.Go(func() error {
		if err := e.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return e, nil
}

func (e *embedded) close() error {
	return errors.Join(e.server.Close(), e.group.Wait(), e.service.Close(), e.store.Close())
}

// newServer has timeouts on silence, none on how long a body may take.
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h,
		// It also runs for a connection that was made and is not used yet. A
		// client's pool keeps such connections, and must be the first to give
		// them up: otherwise an upload takes one that is being closed.
		ReadHeaderTimeout: time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// localToken is the key of this user's own commands. It is made when there is
// none, or when the one in the file is no longer valid.
func localToken(ctx context.Context, st *store.Store, dir string) (string, error) {
	path := filepath.Join(dir, localTokenFile)
	keys, err := st.Keys(ctx, 0)
	if err != nil {
		return "", err
	}
	for _, k := range keys {
		if k.Name != localKeyName {
			continue
		}
		p, err := os.ReadFile(path)
		if err == nil {
			return strings.TrimSpace(string(p)), nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if err := st.RevokeKey(ctx, k.ID); err != nil {
			return "", err
		}
	}
	_, token, err := st.CreateKey(ctx, store.KeyOptions{Name: localKeyName})
	if err != nil {
		return "", err
	}
	return token, writePrivate(path, token+"\n")
}

// writePrivate replaces a file that only this user may read.
func writePrivate(path, text string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
