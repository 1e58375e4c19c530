package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
)

// Sink is a handler that reads and discards request bodies, and replies with
// the number of bytes.
func Sink() http.Handler {
	bufs := sync.Pool{New: func() any { b := make([]byte, 1<<20); return &b }}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b := bufs.Get().(*[]byte) //nolint:forcetypeassert // the pool holds nothing else
		defer bufs.Put(b)
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, *b)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprint(w, n)
	})
}

// ServeSink serves a [Sink] on a loopback port until ctx ends. It calls ready
// with the URL.
func ServeSink(ctx context.Context, ready func(url string)) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: Sink(), ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	ready("http://" + l.Addr().String())
	if err := srv.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// sinkTarget sends shards to a [Sink]. A sink makes no receipts, so this target
// only checks that all bytes arrived.
type sinkTarget struct {
	url    string
	client *http.Client
}

func (t sinkTarget) String() string { return t.url }

func (t sinkTarget) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	body := s.Open(ctx)
	defer body.Close() // in case no request took it over
	if err := put(ctx, t.client, t.url, body, s.Size); err != nil {
		return uploader.Receipt{}, err
	}
	archive, _ := body.CID()
	return uploader.Receipt{Root: s.Root, Parts: []cid.Cid{archive}}, nil
}

// put sends a body to a sink and checks that all of it arrived.
func put(ctx context.Context, client *http.Client, url string, body io.Reader, size int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, url, body)
	if err != nil {
		return err
	}
	req.ContentLength = size
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(io.LimitReader(resp.Body, 64))
	if err != nil {
		return err
	}
	if string(bytes.TrimSpace(p)) != strconv.FormatInt(size, 10) {
		return fmt.Errorf("sent %d bytes, but the sink received %q", size, p)
	}
	return nil
}

// bulkClient is a client with the transport of uploads, without Expect:
// 100-continue.
func bulkClient() *http.Client { return &http.Client{Transport: nftstorage.NewTransport()} }
