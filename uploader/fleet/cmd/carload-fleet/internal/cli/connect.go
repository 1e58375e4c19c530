package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/pflag"

	"github.com/carload/carload/uploader/fleet/natsqueue"
)

const defaultURL = "nats://127.0.0.1:4222"

// connection says how to reach the queue's servers.
type connection struct {
	url, creds, context, tokenFile, ca, cert, key string
}

func (c *connection) add(f *pflag.FlagSet) {
	f.StringVar(&c.url, "nats", "", "the queue's servers, separated by commas (default "+defaultURL+")")
	f.StringVar(&c.creds, "nats-creds", "", "file with NATS credentials (JWT and NKEY)")
	f.StringVar(&c.context, "nats-context", "", "name or file of a context of the nats CLI")
	f.StringVar(&c.tokenFile, "nats-token-file", "", "file with the token that the servers require")
	f.StringVar(&c.ca, "nats-ca", "", "CA certificate of the servers")
	f.StringVar(&c.cert, "nats-cert", "", "certificate of this client")
	f.StringVar(&c.key, "nats-key", "", "key of this client's certificate")
}

// natsContext is the part of a nats CLI context that is used.
type natsContext struct {
	URL   string `json:"url"`
	Creds string `json:"creds"`
	Token string `json:"token"`
	User  string `json:"user"`
	Pass  string `json:"password"`
	NKey  string `json:"nkey"`
	CA    string `json:"ca"`
	Cert  string `json:"cert"`
	Key   string `json:"key"`
}

// mostFileBytes limits files with settings and secrets.
const mostFileBytes = 64 << 10

// readSmall does not wait for somebody to write to a FIFO.
func readSmall(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, mostFileBytes+1))
	if err == nil && len(p) > mostFileBytes {
		err = fmt.Errorf("%q has more than %d bytes", path, mostFileBytes)
	}
	return p, err
}

// readSecret reads a file that must not be readable by others.
func readSecret(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 && os.PathSeparator == '/' {
		return "", usagef("%q can be read by others: chmod 600 it", path)
	}
	p, err := readSmall(path)
	return strings.TrimSpace(string(p)), err
}

func (a *app) loadContext(name string) (c natsContext, err error) {
	path := name
	if !strings.ContainsRune(name, filepath.Separator) && !strings.HasSuffix(name, ".json") {
		dir := a.env["XDG_CONFIG_HOME"]
		if dir == "" {
			dir = filepath.Join(a.env["HOME"], ".config")
		}
		path = filepath.Join(dir, "nats", "context", name+".json")
	}
	p, err := readSmall(path)
	if err == nil {
		err = json.Unmarshal(p, &c)
	}
	if err != nil {
		return c, fmt.Errorf("context %q of nats: %w", name, err)
	}
	return c, nil
}

// connect connects to the servers. The connection reconnects by itself.
func (a *app) connect(name string) (*nats.Conn, error) {
	c := a.conn
	opts := []nats.Option{
		nats.Name(name), nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond), nats.Timeout(5 * time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				a.log.Warn("the connection to the queue was lost", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { a.log.Info("connected again", "url", nc.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { a.log.Info("queue", "err", err) }),
	}
	if c.context != "" {
		n, err := a.loadContext(c.context)
		if err != nil {
			return nil, err
		}
		set := func(s *string, v string) {
			if *s == "" {
				*s = v
			}
		}
		set(&c.url, n.URL)
		set(&c.creds, n.Creds)
		set(&c.ca, n.CA)
		set(&c.cert, n.Cert)
		set(&c.key, n.Key)
		if n.Token != "" {
			opts = append(opts, nats.Token(n.Token))
		}
		if n.User != "" {
			opts = append(opts, nats.UserInfo(n.User, n.Pass))
		}
		if n.NKey != "" {
			o, err := nats.NkeyOptionFromSeed(n.NKey)
			if err != nil {
				return nil, err
			}
			opts = append(opts, o)
		}
	}
	if c.url == "" {
		c.url = defaultURL
	}
	for u := range strings.SplitSeq(c.url, ",") {
		if parsed, err := url.Parse(strings.TrimSpace(u)); err == nil && parsed.User != nil {
			return nil, usagef("others can see a secret in --nats: use --nats-token-file, --nats-creds or --nats-context")
		}
	}
	if c.creds != "" {
		opts = append(opts, nats.UserCredentials(c.creds))
	}
	if c.tokenFile != "" {
		t, err := readSecret(c.tokenFile)
		if err != nil {
			return nil, err
		}
		opts = append(opts, nats.Token(t))
	}
	if c.ca != "" {
		opts = append(opts, nats.RootCAs(c.ca))
	}
	if c.cert != "" {
		opts = append(opts, nats.ClientCert(c.cert, c.key))
	}
	nc, err := nats.Connect(c.url, opts...)
	if err != nil {
		return nil, coded{fmt.Errorf("connect to the queue at %s: %w (is `carload fleet up` running?)", c.url, err), exitTemporary}
	}
	return nc, nil
}

// withQueue opens the fleet and calls f.
func (a *app) withQueue(ctx context.Context, name string, f func(*natsqueue.Queue, *nats.Conn) error) error {
	nc, err := a.connect(name)
	if err != nil {
		return err
	}
	defer nc.Close()
	opening, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	q, err := natsqueue.Open(opening, nc, natsqueue.Options{Name: a.fleet})
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = coded{fmt.Errorf("the queue does not respond: %w", err), exitTemporary}
		}
		return err
	}
	return f(q, nc)
}

// serverTLS makes the TLS configuration of an embedded server.
func serverTLS(cert, key, ca string) (*tls.Config, error) {
	if cert == "" {
		return nil, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if ca != "" {
		p, err := readSmall(ca)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(p) {
			return nil, usagef("%q is not a certificate", ca)
		}
		c.ClientCAs = c.RootCAs
	}
	return c, nil
}

// isLoopback reports whether only this machine can reach an address.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
