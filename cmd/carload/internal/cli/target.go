package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/gateway"
	"github.com/carload/carload/uploader/nftstorage"
)

// endpointFlags name the target.
type endpointFlags struct {
	to           []string
	files        string
	endpoint     string
	gateways     urlList // that return blocks; only commands that read may have several
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
	f.StringArrayVar(&e.to, "to", nil, "target: a name, https://…, kubo://HOST:PORT, kubo: (this user's node), s3://BUCKET/PREFIX, cluster://HOST:PORT, dir:PATH or store:[PATH]")
	f.StringVar(&e.endpoint, "endpoint", "", "URL of the service's API (default: the built-in service)")
	e.addHow(cmd)
	group(f, groupWhere, "to", "endpoint")
	common(f, "to", "endpoint", "token-file")
}

// addHow adds the flags that say how to connect to a target.
func (e *endpointFlags) addHow(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(&e.gateways, "gateway", "URL of the gateway to fetch blocks from (default: the endpoint)")
	f.StringVar(&e.token.file, "token-file", "", "file with the API key; CARLOAD_TOKEN can also hold it")
	f.StringVar(&e.token.command, "token-command", "", "program that prints the API key; run without a shell")
	f.BoolVar(&e.insecureHTTP, "insecure-http", false, "send the key unencrypted to another machine")
	f.StringVar(&e.caCert, "ca-cert", "", "trust the certificate authorities in this PEM file too")
	f.DurationVar(&e.stall, "stall-timeout", time.Minute, "give up a request when no byte has moved for this long")
	e.rate.text = rateAuto
	f.Var(&e.rate, "tpslimit", "limit of requests, such as 30/10s; off for no limit; auto is 30/10s, but off for this machine")
	f.Var(&e.share, "rate-share", "this host's part of --tpslimit, such as 1/16 if 16 hosts use the key; @FILE is read again before each request")
	addStore(cmd, &e.store)
	group(f, groupWhere, "gateway", "token-file", "token-command", "insecure-http", "ca-cert", "store")
	group(f, groupSafety, "stall-timeout")
	group(f, groupSpeed, "tpslimit", "rate-share")
}

func addStore(cmd *cobra.Command, store *string) {
	cmd.Flags().StringVar(store, "store", "", "directory of the built-in service (default: in the user's data directory)")
}

// storeDir returns the directory of the built-in service.
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

// target is what a command sends to, or asks, with the name that the ledger
// uses for it. The caller closes it.
type target struct {
	uploader.Target
	name    string             // what the user calls it; may be empty
	service *nftstorage.Target // the same target, if it speaks the NFT.Storage API
	local   bool               // the built-in service, which ends with a command
	store   string             // directory of the built-in service
	url     string             // of the service
	gateway string             // of the service, or of another place that returns the blocks
	closers []func() error
}

// storeTarget is the built-in service. Its port differs each time, but it is
// the same target.
type storeTarget struct {
	*nftstorage.Target
	dir string
}

// String names the store.
func (s storeTarget) String() string { return "store:" + s.dir }

func (t *target) close() error {
	var errs []error
	for _, f := range t.closers {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// label returns the name of a target in messages.
func (t *target) label() string {
	if t.name != "" {
		return t.name
	}
	return t.String()
}

// lacks returns the error for something that a target can't do.
func (t *target) lacks(what string) error { return usagef("%s %s", t, what) }

// sayWhere says how to fetch an upload.
func (t *target) sayWhere(a *app, root string) {
	switch {
	case t.local:
		command := []string{"carload", "serve"}
		if dir, err := a.storeDir(""); err != nil || dir != t.store {
			command = append(command, "--store", t.store)
		}
		a.con.say("stored in %s; to fetch it, run %s, then open http://%s/ipfs/%s", quotePath(t.store), shellQuote(command), defaultListen, root)
	case t.store != "":
		a.con.say("stored in %s; fetch it from %s/ipfs/%s", quotePath(t.store), t.url, root)
	case t.gateway != "":
		a.con.say("fetch it from %s/ipfs/%s", strings.TrimSuffix(t.gateway, "/"), root)
	default:
		if _, gives := t.Target.(gateway.Source); gives {
			a.con.say("fetch it with: %s", shellQuote([]string{"carload", "get", root, "--from", t.label()}))
		}
	}
}

// connect opens the target that the flags name. By default this is the built-in
// service: one that is already serving the store, or one in this process.
func (a *app) connect(ctx context.Context, f endpointFlags) (*target, error) {
	switch {
	case len(f.to) > 1:
		return nil, usagef("give one --to, not %d", len(f.to))
	case len(f.to) == 1:
		return a.connectTo(ctx, f, f.to[0])
	case f.endpoint != "":
		return a.open(ctx, f, "", targetConfig{Type: kindService, URL: f.endpoint})
	}
	return a.open(ctx, f, "", targetConfig{Type: kindStore, Path: f.store})
}

// connectTo opens the target that a --to names.
func (a *app) connectTo(ctx context.Context, f endpointFlags, to string) (*target, error) {
	if f.endpoint != "" {
		return nil, usagef("use --to or --endpoint, not both")
	}
	c, name, err := a.lookUp(to)
	if err != nil {
		return nil, err
	}
	t, err := a.open(ctx, f, name, c)
	if err != nil {
		if name != "" {
			err = fmt.Errorf("target %q: %w", name, err)
		}
		return nil, err
	}
	t.name = to
	return t, nil
}

// lookUp returns the target that a --to means: from the configuration with its
// name, or without a name.
func (a *app) lookUp(to string) (c targetConfig, name string, err error) {
	if c, ok := a.settings.targets[to]; ok {
		return c, to, nil
	}
	c, err = a.parseTarget(to)
	return c, "", err
}

func noToken(endpoint string) error {
	return withHint(usagef("there is no API key for %s", endpoint),
		"store it with carload login, put it into the variable CARLOAD_TOKEN, or name a file with --token-file or a program with --token-command")
}

// openStoreTarget opens the built-in service over a store.
func (a *app) openStoreTarget(ctx context.Context, f endpointFlags, store string) (*target, error) {
	local, err := a.local(ctx, store)
	if err != nil {
		return nil, err
	}
	a.embedded = local.own
	f.gateways, f.caCert = nil, ""
	t, err := a.openService(f, local.url, local.token)
	if err != nil {
		return nil, errors.Join(err, local.close())
	}
	t.Target, t.store, t.local = storeTarget{t.service, store}, store, local.ends
	t.closers = append(t.closers, local.close)
	return t, nil
}

// openService opens the service at a URL.
func (a *app) openService(f endpointFlags, url string, token nftstorage.Token) (*target, error) {
	if len(f.gateways) > 1 {
		return nil, usagef("use one --gateway for the blocks of %s, not %d", url, len(f.gateways))
	}
	transport := nftstorage.NewTransport()
	trust, err := f.tls()
	if err != nil {
		return nil, err
	}
	transport.TLSClientConfig = trust
	pacer, err := a.pacer(f.rate, f.share, url, token)
	if err != nil {
		return nil, err
	}
	t, err := nftstorage.New(nftstorage.Options{
		Endpoint: url, Gateway: f.gateways.String(), Token: token, AllowHTTP: f.insecureHTTP, Transport: transport, Stall: f.stall, Pacer: pacer,
		UserAgent: "carload/" + version(),
	})
	if err != nil {
		return nil, usageError{error: err}
	}
	return &target{Target: t, service: t, url: url, gateway: or(f.gateways.String(), url), closers: []func() error{t.Close}}, nil
}

// with returns the flags with the settings of a target applied.
func (e endpointFlags) with(c targetConfig) (endpointFlags, error) {
	if c.Gateway != "" {
		e.gateways = urlList{c.Gateway}
	}
	e.insecureHTTP, e.caCert = c.InsecureHTTP || e.insecureHTTP, or(c.CACert, e.caCert)
	if c.TPSLimit != "" {
		if err := e.rate.Set(c.TPSLimit); err != nil {
			return e, usageError{error: err}
		}
	}
	return e, nil
}

// tls returns which certificates to trust; nil means the system's.
func (e *endpointFlags) tls() (*tls.Config, error) {
	if e.caCert == "" {
		return nil, nil //nolint:nilnil // the system's way needs no configuration
	}
	roots, err := rootsAnd(e.caCert)
	if err != nil {
		return nil, usageError{error: fmt.Errorf("--ca-cert: %w", err)}
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// maxCertBytes is more than all certificate authorities of a system have.
const maxCertBytes = 4 << 20

// rootsAnd returns the certificate authorities of the system and those in a PEM
// file.
func rootsAnd(path string) (*x509.CertPool, error) {
	p, _, err := readSmall(path, maxCertBytes)
	if err != nil {
		return nil, err
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // the system has none
	}
	if !roots.AppendCertsFromPEM(p) {
		return nil, fmt.Errorf("%q contains no certificate in PEM format", path)
	}
	return roots, nil
}

// localToken returns the key for this user's own commands. It creates one if
// there is none, or if the one in the file is no longer valid.
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
		p, err := readLocal(dir, localTokenFile)
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
func writePrivate(path, text string) error { return writeFile(path, text, 0o600) }

// writeFile replaces a file, which appears complete or not at all.
func writeFile(path, text string, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
