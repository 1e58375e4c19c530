package service

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/carload/carload/internal/service/gateway"
)

// checkHost answers requests for hosts that the service is not known as with
// 421. A website can have its own name lead to this machine, and its page is
// then of the service's origin as far as a browser knows; only the name tells.
// An address needs no check, for nobody can have it lead elsewhere. Checks of
// health may come under any name.
func (s *Service) checkHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.opts.AnyHost || r.URL.Path == healthPath || s.knownAs(r.Host) {
			next.ServeHTTP(w, r)
			return
		}
		b := newBody(w, r, s.opts.MaxBodyBytes, s.opts.IdleTimeout)
		_ = writePlain(w, http.StatusMisdirectedRequest, fmt.Sprintf(
			"421 misdirected request: this service is not known as %q. Its operator can name it so: carload serve --host NAME\n", r.Host))
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

// local tells whether a request comes from this machine, and not by way of a
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
