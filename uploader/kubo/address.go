package kubo

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// address is the address of a node's RPC.
type address struct {
	base   *url.URL // of the node, without /api/v0
	socket string   // Unix socket of the node; empty for TCP
}

// String returns the address as a URL.
func (a address) String() string {
	if a.socket != "" {
		return "unix://" + a.socket
	}
	return a.base.String()
}

// parseAddress parses a URL, or a multiaddr as in Kubo's configuration and in
// the file $IPFS_PATH/api.
func parseAddress(s string) (address, error) {
	if strings.HasPrefix(s, "/") {
		return parseMultiaddr(s)
	}
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return address{}, fmt.Errorf("address of Kubo: %w", err)
	case u.User != nil:
		return address{}, errors.New("address of Kubo: the URL must not contain a user name or password; pass them separately, as basic:NAME:PASSWORD")
	case u.Scheme == "unix" && u.Host == "" && u.Path != "":
		return unixAddress(u.Path), nil
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return address{}, fmt.Errorf("address of Kubo %q: give a URL such as http://127.0.0.1:5001, or a multiaddr such as /ip4/127.0.0.1/tcp/5001", s)
	case u.RawQuery != "" || u.Fragment != "":
		return address{}, fmt.Errorf("address of Kubo %q: must end with its path", s)
	}
	u.Path = strings.TrimSuffix(strings.TrimRight(u.Path, "/"), "/api/v0")
	return address{base: u}, nil
}

func unixAddress(path string) address {
	return address{base: &url.URL{Scheme: "http", Host: "kubo"}, socket: path}
}

func parseMultiaddr(s string) (address, error) {
	bad := fmt.Errorf("address of Kubo %q: is not of the form /ip4/127.0.0.1/tcp/5001, /dns/example.org/tcp/443/https or /unix/run/ipfs.sock", s)
	if path, ok := strings.CutPrefix(s, "/unix/"); ok {
		if path == "" {
			return address{}, bad
		}
		return unixAddress("/" + path), nil
	}
	parts := strings.Split(strings.Trim(s, "/"), "/")
	if len(parts) < 4 || parts[1] == "" || parts[2] != "tcp" || parts[3] == "" {
		return address{}, bad
	}
	ip := net.ParseIP(parts[1])
	switch parts[0] {
	case "ip4", "ip6":
		if ip == nil || (ip.To4() != nil) != (parts[0] == "ip4") {
			return address{}, bad
		}
	case "dns", "dns4", "dns6":
	default:
		return address{}, bad
	}
	scheme := "http"
	switch strings.Join(parts[4:], "/") {
	case "", "http":
	case "https", "tls/http", "tls":
		scheme = "https"
	default:
		return address{}, bad
	}
	return parseAddress(scheme + "://" + net.JoinHostPort(parts[1], parts[3]))
}
