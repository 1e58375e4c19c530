package uploader_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/Shopify/toxiproxy/v2/collectors"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

// network is a line to a server, with what lines do.
type network struct {
	t     *testing.T
	proxy *toxiproxy.Proxy
	url   string
}

func newNetwork(t *testing.T, srv *uploadertest.Server) *network {
	t.Helper()
	metrics := toxiproxy.NewMetricsContainer(prometheus.NewRegistry())
	metrics.ProxyMetrics = collectors.NewProxyMetricCollectors()
	server := toxiproxy.NewServer(metrics, zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, "line", "127.0.0.1:0", strings.TrimPrefix(srv.URL, "http://"))
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		proxy.Toxics.ResetToxics(context.Background())
		proxy.Stop()
	})
	return &network{t, proxy, "http://" + proxy.Listen}
}

func (n *network) add(kind, stream, attributes string) {
	n.t.Helper()
	_, err := n.proxy.Toxics.AddToxicJson(strings.NewReader(fmt.Sprintf(
		`{"name":"x","type":%q,"stream":%q,"attributes":%s}`, kind, stream, attributes)))
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *network) heal() { n.proxy.Toxics.ResetToxics(context.Background()) }

// TestNetwork sends through a proxy that breaks the line until the first
// retry, or all the time.
func TestNetwork(t *testing.T) {
	t.Parallel()
	const continued = len("HTTP/1.1 100 Continue\r\n\r\n")
	tests := []struct {
		name               string
		kind, stream, attr string
		stays              bool // the line is no better for the retry
		stall              time.Duration
		resends            int // shards, at most
		retries            bool
	}{
		{"closed at once", "limit_data", "upstream", `{"bytes":0}`, false, 0, 2, true},
		{"closed after a byte", "limit_data", "upstream", `{"bytes":1}`, false, 0, 2, true},
		{"closed half-way", "limit_data", "upstream", fmt.Sprintf(`{"bytes":%d}`, shardBytes/2), false, 0, 2, true},
		{"closed before the last byte", "limit_data", "upstream", fmt.Sprintf(`{"bytes":%d}`, shardBytes-1000), false, 0, 2, true},
		{"reset", "reset_peer", "upstream", `{"timeout":0}`, false, 0, 2, true},
		{"reply lost", "limit_data", "downstream", fmt.Sprintf(`{"bytes":%d}`, continued), false, 0, 2, true},
		{"reply cut", "limit_data", "downstream", fmt.Sprintf(`{"bytes":%d}`, continued+100), false, 0, 2, true},
		{"stalled", "timeout", "upstream", `{"timeout":0}`, false, 400 * time.Millisecond, 2, true},
		{"reply stalled", "timeout", "downstream", `{"timeout":0}`, false, 400 * time.Millisecond, 2, true},
		{"slow line", "bandwidth", "upstream", `{"rate":200}`, true, 5 * time.Second, 0, false},
		{"far away", "latency", "downstream", `{"latency":100,"jitter":50}`, true, 0, 0, false},
		{"in slices", "slicer", "upstream", `{"average_size":700,"size_variation":300,"delay":10}`, true, 0, 0, false},
		{"replies byte by byte", "slicer", "downstream", `{"average_size":1,"size_variation":0,"delay":10}`, true, 0, 0, false},
		{"slow to close", "slow_close", "downstream", `{"delay":100}`, true, 0, 0, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv := uploadertest.NewServer(t, uploadertest.Options{})
			line := newNetwork(t, srv)
			path := randomFile(t, fileBytes, 1)
			line.add(test.kind, test.stream, test.attr)
			var once sync.Once
			obs := observerFunc(func(e uploader.Event) {
				if _, ok := e.(uploader.Retrying); ok && !test.stays {
					once.Do(line.heal)
				}
			})
			target := newTarget(t, srv, func(o *nftstorage.Options) { o.Endpoint, o.Stall = line.url, test.stall })
			u := newUploader(t, target, uploader.Options{Observer: obs, Transfers: 2, NoResume: true})
			r, err := uploadOne(t.Context(), u, input(t, path))
			if err != nil || !srv.Store.Complete(rootOf(t, path)) {
				t.Fatalf("%+v, %v", r, err)
			}
			p := u.Progress()
			if (p.Retries > 0) != test.retries {
				t.Errorf("%d retries", p.Retries)
			}
			if p.BytesSent != p.BytesToSend || r.Sent != p.BytesToSend {
				t.Errorf("progress %+v", p)
			}
			if most := p.BytesToSend + int64(test.resends)*shardBytes; srv.Count(uploadertest.Upload).Bytes > most {
				t.Errorf("%d bytes arrived, want at most %d", srv.Count(uploadertest.Upload).Bytes, most)
			}
		})
	}
}

// TestRefusedConnections meets a service that is not there, and is there later
// or never.
func TestRefusedConnections(t *testing.T) {
	t.Parallel()
	for _, comes := range []bool{true, false} {
		srv := uploadertest.NewServer(t, uploadertest.Options{})
		line := newNetwork(t, srv)
		line.proxy.Stop()
		retries := 0
		obs := observerFunc(func(e uploader.Event) {
			if _, ok := e.(uploader.Retrying); !ok {
				return
			}
			if retries++; retries == 3 && comes {
				if err := line.proxy.Start(); err != nil {
					t.Error(err)
				}
			}
		})
		c := &clock{now: time.Unix(1e9, 0)}
		target := newTarget(t, srv, func(o *nftstorage.Options) { o.Endpoint = line.url })
		u := newUploader(t, target, uploader.Options{Observer: obs, Transfers: 1, Clock: c})
		_, err := uploadOne(t.Context(), u, input(t, randomFile(t, fileBytes, 1)))
		if comes && err != nil || !comes && !errors.Is(err, uploader.ErrUnavailable) {
			t.Errorf("comes %t: error %v", comes, err)
		}
		for i, wait := range c.slept() {
			if most := 2 * time.Second << i; wait > most {
				t.Errorf("wait %d was %s, want at most %s", i, wait, most)
			}
		}
		if want := map[bool]int{true: 3, false: uploader.DefaultRetries}[comes]; retries != want {
			t.Errorf("comes %t: %d retries, want %d", comes, retries, want)
		}
	}
}
