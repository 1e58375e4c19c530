package service

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/carload/carload/internal/service/gateway"
)

// checkHost answers with 421 if the request is for a host that is not the
// service's. A website can point its own host name at this machine; browsers
// then take its pages to be of the service's origin (DNS rebinding). Only the
// host name gives it away. Addresses need no check, since nobody can point
// those elsewhere. Health checks may use any name.
func (s *Service) checkHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.opts.AnyHost || r.URL.Path == healthPath || s.knownAs(r.Host) {
			next.ServeHTTP(w, r)
			return
		}
		b := newBody(w, r, s.opts.MaxBodyBytes, s.opts.IdleTimeout)
		_ = writePlain(w, http.StatusMisdirectedRequest, fmt.Sprintf(
			"421 misdirected request: this service does not answer for the host %q. Its operator can add it: carload serve --host NAME\n", r.Host))
		b.drain(r.Context())
	})
}

func (s *Service) knownAs(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil || strings.EqualFold(host, localhost) || gateway.Under(host, localhost) {
		return true
	}
	for _, name := range s.opts.Hosts {
		if strings.EqualFold(host, name) {
			return true
		}
	}
	for _, name := range s.opts.GatewayHosts {
		if strings.EqualFold(host, name) || gateway.Under(host, name) {
			return true
		}
	}
	return false
}

const localhost = "localhost"

// local reports whether a request comes from this machine, and not through a
// proxy.
func local(r *http.Request) bool {
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip", "Via"} {
		if r.Header.Get(name) != "" {
			return false
		}
	}
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && addr.Addr().Unmap().IsLoopback()
}
