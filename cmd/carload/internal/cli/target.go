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

// endpointFlags say which target is meant.
type endpointFlags struct {
	to           []string
	files        string
	endpoint     string
	gateways     urlList // that give blocks back; one, but for those who only read
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
	f.StringArrayVar(&e.to, "to", nil, "a target: the name of one, https://…, kubo://HOST:PORT, kubo: (this user's node), s3://BUCKET/PREFIX, cluster://HOST:PORT, dir:PATH or store:[PATH]")
	f.StringVar(&e.endpoint, "endpoint", "", "URL of the service's API (default: the built-in service)")
	e.addHow(cmd)
	group(f, groupWhere, "to", "endpoint")
	common(f, "to", "endpoint", "token-file")
}

// addHow adds the flags of how a target is asked.
func (e *endpointFlags) addHow(cmd *cobra.Command) {
	f := cmd.Flags()
	f.Var(&e.gateways, "gateway", "URL of the gateway that gives blocks back (default: the endpoint)")
	f.StringVar(&e.token.file, "token-file", "", "file with the API key; the variable CARLOAD_TOKEN can hold it as well")
	f.StringVar(&e.token.command, "token-command", "", "program that prints the API key; run without a shell")
	f.BoolVar(&e.insecureHTTP, "insecure-http", false, "send the key unencrypted to another machine")
	f.StringVar(&e.caCert, "ca-cert", "", "trust the certificate authorities in this PEM file as well as the system's")
	f.DurationVar(&e.stall, "stall-timeout", time.Minute, "give a request up when no byte moved for so long")
	e.rate.text = rateAuto
	f.Var(&e.rate, "tpslimit", "requests in a time, such as 30/10s; off for no limit; auto is 30/10s, and off on this machine")
	f.Var(&e.share, "rate-share", "the part of --tpslimit that this host takes, such as 1/16 when 16 hosts use the key; @FILE is read anew before each request")
	addStore(cmd, &e.store)
	group(f, groupWhere, "gateway", "token-file", "token-command", "insecure-http", "ca-cert", "store")
	group(f, groupSafety, "stall-timeout")
	group(f, groupSpeed, "tpslimit", "rate-share")
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

// target is where a command sends to, or asks, under the name by which the
// ledger knows it. The caller closes it.
type target struct {
	uploader.Target
	name    string             // what the user calls it; empty for none
	service *nftstorage.Target // the same, if it speaks the API of NFT.Storage
	local   bool               // it is the built-in service, and ends with a command
	store   string             // its directory, if the service is the built-in one
	url     string             // of the service
	gateway string             // of the service, or what gives back what is there
	closers []func() error
}

// storeTarget is the built-in service. It has another port each time, but it is
// the same one.
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

// label is what a target is called in messages.
func (t *target) label() string {
	if t.name != "" {
		return t.name
	}
	return t.String()
}

// lacks says that a target can't do something.
func (t *target) lacks(what string) error { return usagef("%s %s", t, what) }

// sayWhere tells how to fetch what was uploaded.
func (t *target) sayWhere(a *app, root string) {
	switch {
	case t.local:
		command := []string{"carload", "serve"}
		if dir, err := a.storeDir(""); err != nil || dir != t.store {
			command = append(command, "--store", t.store)
		}
		a.con.say("stored in %s; to fetch it back: %s, then http://%s/ipfs/%s", quotePath(t.store), shellQuote(command), defaultListen, root)
	case t.store != "":
		a.con.say("stored in %s, fetch it from %s/ipfs/%s", quotePath(t.store), t.url, root)
	case t.gateway != "":
		a.con.say("fetch it from %s/ipfs/%s", strings.TrimSuffix(t.gateway, "/"), root)
	default:
		if _, gives := t.Target.(gateway.Source); gives {
			a.con.say("fetch it back: %s", shellQuote([]string{"carload", "get", root, "--from", t.label()}))
		}
	}
}

// connect makes the target that the flags mean. Without any that is the
// built-in service: one that is serving the store already, or else one in this
// process.
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

// connectTo makes the target that a --to names.
func (a *app) connectTo(ctx context.Context, f endpointFlags, to string) (*target, error) {
	if f.endpoint != "" {
		return nil, usagef("give --to or --endpoint, not both")
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

// lookUp finds what a --to means: a target of the configuration, with its name,
// or one without.
func (a *app) lookUp(to string) (c targetConfig, name string, err error) {
	if c, ok := a.settings.targets[to]; ok {
		return c, to, nil
	}
	c, err = a.parseTarget(to)
	return c, "", err
}

func noToken(endpoint string) error {
	return withHint(usagef("there is no API key for %s", endpoint),
		"carload login keeps it; or put it into the variable CARLOAD_TOKEN, or name a file by --token-file or a program by --token-command")
}

// openStoreTarget makes a target of the built-in service over a store.
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

// openService makes a target of the service at a URL.
func (a *app) openService(f endpointFlags, url string, token nftstorage.Token) (*target, error) {
	if len(f.gateways) > 1 {
		return nil, usagef("give one --gateway for the blocks of %s, not %d", url, len(f.gateways))
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

// with are the flags with what the configuration of a target says.
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

// tls is how far sides are trusted; nil for the system's way.
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

// maxCertBytes is more than all the authorities that systems trust.
const maxCertBytes = 4 << 20

// rootsAnd is the certificate authorities that the system trusts and those in
// a PEM file.
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
		return nil, fmt.Errorf("%q has no certificate in PEM form", path)
	}
	return roots, nil
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
func writePrivate(path, text string) error { return writeFile(path, text, 0o600) }

// writeFile replaces a file. It appears complete or not at all.
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
