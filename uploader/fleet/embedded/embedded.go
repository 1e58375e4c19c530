// Package embedded runs a NATS server within the process, set up for the fleet:
// it listens on loopback by default, and syncs every acknowledged write to
// disk.
package embedded

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Options configure [Start].
type Options struct {
	Name   string // of the server, within its cluster
	Dir    string // directory for its state
	Listen string // host:port for clients
	// Routes are the addresses of all servers of the cluster; they may include
	// this one's, which is ClusterListen. Without routes there is no cluster.
	ClusterListen string
	Routes        []string
	Token         string      // required of clients and servers; empty means none
	TLS           *tls.Config // for clients and servers; nil means none
	Logger        *slog.Logger
}

// Server is a running server.
type Server struct{ s *server.Server }

// Start starts a server and waits until clients can connect. The caller closes
// it.
func Start(o Options) (*Server, error) {
	host, port, err := split(o.Listen)
	if err != nil {
		return nil, err
	}
	so := &server.Options{
		ServerName: o.Name, Host: host, Port: port, JetStream: true, StoreDir: o.Dir,
		// Otherwise acknowledged writes reach the disk two minutes later.
		SyncAlways: true,
		NoSigs:     true, NoLog: true, Authorization: o.Token, MaxPayload: 1 << 20,
	}
	if o.TLS != nil {
		so.TLSConfig, so.TLS, so.TLSTimeout = o.TLS, true, 5
	}
	if len(o.Routes) > 0 {
		so.Cluster.Name = "carload"
		if so.Cluster.Host, so.Cluster.Port, err = split(o.ClusterListen); err != nil {
			return nil, err
		}
		if o.TLS != nil {
			so.Cluster.TLSConfig, so.Cluster.TLSTimeout = o.TLS, 5
		}
		for _, r := range o.Routes {
			u := &url.URL{Scheme: "nats", Host: strings.TrimPrefix(r, "nats://")}
			if o.Token != "" {
				u.User = url.UserPassword("route", o.Token)
			}
			so.Routes = append(so.Routes, u)
		}
		if o.Token != "" {
			so.Cluster.Username, so.Cluster.Password = "route", o.Token
		}
	}
	s, err := server.NewServer(so)
	if err != nil {
		return nil, fmt.Errorf("start the queue's server: %w", err)
	}
	if o.Logger != nil {
		s.SetLoggerV2(logger{o.Logger}, false, false, false)
	}
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		s.Shutdown()
		return nil, errors.New("start the queue's server: it does not accept connections (is another one using the directory or the port?)")
	}
	return &Server{s}, nil
}

func split(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	if port, err = strconv.Atoi(p); err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("address %q: no such port", addr)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// URL is the URL for clients.
func (s *Server) URL() string { return s.s.ClientURL() }

// Close stops the server and waits for it to end.
func (s *Server) Close() {
	s.s.Shutdown()
	s.s.WaitForShutdown()
}

// logger passes on the server's log.
type logger struct{ to *slog.Logger }

func (l logger) Noticef(f string, v ...any) { l.to.Info(fmt.Sprintf(f, v...)) }
func (l logger) Warnf(f string, v ...any)   { l.to.Warn(fmt.Sprintf(f, v...)) }
func (l logger) Fatalf(f string, v ...any)  { l.to.Error(fmt.Sprintf(f, v...)) }
func (l logger) Errorf(f string, v ...any)  { l.to.Error(fmt.Sprintf(f, v...)) }
func (l logger) Debugf(f string, v ...any)  { l.to.Debug(fmt.Sprintf(f, v...)) }
func (l logger) Tracef(f string, v ...any)  { l.to.Debug(fmt.Sprintf(f, v...)) }
