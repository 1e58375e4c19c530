package cli

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/carload/carload/uploader/nftstorage"
)

// requestRate is a flag for a limit of requests per time: "30/10s", "off", or
// "auto", which is the limit of the hosted NFT.Storage, and off for a service
// on this machine.
type requestRate struct {
	text     string
	requests int
	window   time.Duration
}

const (
	rateAuto = "auto"
	rateOff  = "off"
)

// Set implements pflag.Value.
func (r *requestRate) Set(s string) error {
	*r = requestRate{text: s}
	if s == rateAuto || s == rateOff {
		return nil
	}
	number, window, ok := strings.Cut(s, "/")
	var err error
	if r.requests, err = strconv.Atoi(number); err == nil && ok {
		r.window, err = time.ParseDuration(window)
	}
	if err != nil || !ok || r.requests < 1 || r.window <= 0 {
		return fmt.Errorf("rate %q: use auto, off, or a number of requests and a time, such as 30/10s", s)
	}
	return nil
}

// String implements pflag.Value.
func (r *requestRate) String() string { return r.text }

// Type implements pflag.Value.
func (r *requestRate) Type() string { return "rate" }

// pacer returns what limits the requests to an endpoint; nil for no limit.
// Processes of this user that use the same key share it.
func (a *app) pacer(r requestRate, s share, endpoint string, token nftstorage.Token) (nftstorage.Pacer, error) {
	if r.text == rateAuto {
		r.requests, r.window = nftstorage.HostedRequests, nftstorage.HostedWindow
		if isLoopback(endpoint) {
			return nil, nil
		}
	}
	if r.text == rateOff {
		return nil, nil
	}
	var err error
	if r.requests, err = s.of(r.requests); err != nil {
		return nil, usageError{error: err}
	}
	w, err := r.windowFor(a, token)
	if err != nil {
		return nil, err
	}
	if s.file != "" {
		w.Vary(func() (int, time.Duration, error) { return s.now(r.requests, r.window) })
	}
	return pacedRequests{w, &a.board}, nil
}

// pacedRequests is a pacer that shows who waits for it.
type pacedRequests struct {
	nftstorage.Pacer
	board *board
}

// Wait implements [nftstorage.Pacer].
func (p pacedRequests) Wait(ctx context.Context) error {
	p.board.pace(1)
	defer p.board.pace(-1)
	return p.Pacer.Wait(ctx)
}

func (r *requestRate) windowFor(a *app, token nftstorage.Token) (*nftstorage.Window, error) {
	dir, err := a.env.stateDir()
	if err != nil { // there is nothing to share it through
		return nftstorage.NewWindow(r.requests, r.window)
	}
	return nftstorage.NewSharedWindow(filepath.Join(dir, "rate"), token, r.requests, r.window)
}

func isLoopback(endpoint string) bool {
	u, err := url.Parse(endpoint)
	return err == nil && isLoopbackHost(u.Hostname())
}

func isLoopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
