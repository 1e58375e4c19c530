// Package nftstorage is the upload target for the HTTP API of NFT.Storage
// "Classic", which `carload serve` also serves.
package nftstorage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// maxReplyBytes limits what is read of a reply.
const maxReplyBytes = 4 << 20

// NewTransport makes the default transport of a target: it uses one TCP
// connection for each transfer (so no HTTP/2), large writes, and no timeout for
// whole requests. It uses the proxies in the environment: HTTPS_PROXY,
// HTTP_PROXY and NO_PROXY.
func NewTransport() *http.Transport { return bulk.NewTransport() }

// Options configure [New].
type Options struct {
	Endpoint string // base URL of the API, without credentials
	Token    Token  // the API key
	// Gateway is the base URL of the trustless gateway for reading blocks back;
	// empty means the endpoint.
	Gateway string
	// AllowHTTP permits sending the token unencrypted to other machines.
	AllowHTTP bool
	// Transport sends the requests; nil means NewTransport().
	Transport http.RoundTripper
	// Stall is how long a request may go without moving a byte; 0 means two
	// minutes.
	Stall time.Duration
	// Pacer, if not nil, delays each request.
	Pacer Pacer
	// UserAgent is sent with every request; empty means "carload".
	UserAgent string
}

// Pacer decides when the next request may be sent.
type Pacer interface {
	Wait(ctx context.Context) error
}

// Token is an API key. It prints as a placeholder; only Reveal returns its
// text.
type Token struct{ bulk.Secret }

// NewToken makes a token from its text.
func NewToken(secret string) (Token, error) {
	for _, r := range secret {
		if r <= ' ' || r > '~' || r == '"' || r == '\'' {
			return Token{}, errors.New("the token has spaces, quotes or control characters: give the bare API key")
		}
	}
	if len(secret) > 8<<10 {
		return Token{}, errors.New("the token is longer than 8 KiB: that is not an API key")
	}
	return Token{bulk.NewSecret(secret)}, nil
}

// Target is a service. It is safe for concurrent use.
type Target struct {
	opts    Options
	base    *url.URL
	gateway *url.URL
	client  *bulk.Client

	pageSize atomic.Int32 // of lists: what fits into a reply
}

// New makes a target. It sends nothing. The caller closes the target.
func New(opts Options) (*Target, error) {
	base, err := parseEndpoint(opts.Endpoint, opts.AllowHTTP)
	if err != nil {
		return nil, err
	}
	t := &Target{opts: opts, base: base, gateway: base}
	t.pageSize.Store(maxPageSize)
	if opts.Gateway != "" {
		if t.gateway, err = parseEndpoint(opts.Gateway, opts.AllowHTTP); err != nil {
			return nil, err
		}
	}
	if t.opts.Stall == 0 {
		t.opts.Stall = 2 * time.Minute
	}
	if t.opts.UserAgent == "" {
		t.opts.UserAgent = "carload"
	}
	transport := opts.Transport
	if transport == nil {
		transport = bulk.NewTransport()
	}
	t.client = bulk.NewClient(transport, opts.Token.Secret, t.opts.UserAgent)
	return t, nil
}

// parseEndpoint checks a base URL before anything is sent to it.
func parseEndpoint(s string, allowHTTP bool) (*url.URL, error) {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return nil, fmt.Errorf("endpoint: %w", err)
	case u.User != nil:
		return nil, errors.New("endpoint: the URL must not contain a user name or password; pass the token separately")
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("endpoint %q: give a full URL such as https://api.example.org", s)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("endpoint %q: must end with its path", s)
	case u.Scheme == "http" && !allowHTTP && !bulk.IsLoopback(u.Hostname()):
		return nil, fmt.Errorf("endpoint %q: plain HTTP would reveal the token on the way; use https", s)
	}
	u.Path = strings.TrimRight(u.Path, "/")
	return u, nil
}

// Close closes idle connections.
func (t *Target) Close() error {
	t.client.Close()
	return nil
}

// Skew returns how far the service's clock is ahead of ours. ok is false if
// that is not known yet.
func (t *Target) Skew() (time.Duration, bool) { return t.client.Skew() }

// String returns the endpoint.
func (t *Target) String() string { return t.base.String() }

// Put implements [uploader.Target] with POST /upload.
func (t *Target) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	if err := t.turn(ctx); err != nil {
		return uploader.Receipt{}, err
	}
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	open := func() (io.ReadCloser, error) { return dog.Request(s.Open(ctx)), nil }
	body, _ := open()
	req, err := t.request(ctx, http.MethodPost, t.base, "/upload", body)
	if err != nil {
		return uploader.Receipt{}, errors.Join(err, body.Close())
	}
	req.ContentLength, req.GetBody = s.Size, open
	req.Header.Set("Content-Type", "application/car")
	req.Header.Set("Expect", "100-continue")
	if s.Name != "" {
		req.Header.Set("X-Name", url.PathEscape(s.Name))
	}
	var v nft
	if _, err := t.do(req, dog, &v); err != nil {
		return uploader.Receipt{}, err
	}
	root := v.root()
	if !root.Defined() {
		return uploader.Receipt{}, fmt.Errorf("%w: it names no root; ours is %s", uploader.ErrRootMismatch, s.Root)
	}
	parts, err := v.parts()
	return uploader.Receipt{Root: root, Parts: parts, State: uploader.State(v.Pin.Status)}, err
}

// maxShardBytes is the request limit of the original service's edge.
const maxShardBytes = 100 << 20

// Limits implements [uploader.Limited].
func (t *Target) Limits() uploader.Limits {
	return uploader.Limits{ShardBytes: maxShardBytes, BlockBytes: car.MaxBlockBytes}
}

// SharesBlocks implements [uploader.BlockSharer]. `carload serve` shares blocks
// between uploads. A service that does not would never report such a DAG as
// complete, and is then sent the rest.
func (t *Target) SharesBlocks() bool { return true }

// Status implements [uploader.StatusChecker] with GET /{cid}.
func (t *Target) Status(ctx context.Context, root cid.Cid) (uploader.Status, error) {
	var v nft
	if _, err := t.get(ctx, "/"+root.String(), &v); err != nil {
		return uploader.Status{}, err
	}
	parts, err := v.parts()
	return uploader.Status{State: uploader.State(v.Pin.Status), Parts: parts}, err
}

// get requests a value, and returns the header of the reply.
func (t *Target) get(ctx context.Context, path string, v any) (http.Header, error) {
	if err := t.turn(ctx); err != nil {
		return nil, err
	}
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	req, err := t.request(ctx, http.MethodGet, t.base, path, nil)
	if err != nil {
		return nil, err
	}
	return t.do(req, dog, v)
}

// FetchBlock implements [uploader.BlockFetcher] with the trustless gateway.
func (t *Target) FetchBlock(ctx context.Context, c cid.Cid, limit int) ([]byte, error) {
	if err := t.turn(ctx); err != nil {
		return nil, err
	}
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	resp, err := t.fetch(ctx, "/ipfs/"+c.String()+"?format=raw", "application/vnd.ipld.raw")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(io.LimitReader(dog.Reply(resp.Body), int64(limit)+1))
	if err != nil {
		return nil, t.client.Failed(ctx, "read the block", err)
	}
	if len(p) > limit {
		return nil, bulk.Permanent(fmt.Errorf("%w: the gateway sent more than %d bytes for block %s", car.ErrCorrupt, limit, c))
	}
	return p, nil
}

// FetchArchive implements [uploader.ArchiveFetcher] with the trustless gateway:
// the whole DAG, depth first, with each block once if the gateway supports
// that.
func (t *Target) FetchArchive(ctx context.Context, root cid.Cid) (io.ReadCloser, error) {
	return t.archive(ctx, root, "dag-scope=all")
}

// FetchRange implements [uploader.RangeFetcher].
func (t *Target) FetchRange(ctx context.Context, c cid.Cid, from, to int64) (io.ReadCloser, error) {
	return t.archive(ctx, c, fmt.Sprintf("dag-scope=entity&entity-bytes=%d:%d", from, to-1))
}

// FetchDirectory implements [uploader.DirectoryFetcher].
func (t *Target) FetchDirectory(ctx context.Context, root cid.Cid) (io.ReadCloser, error) {
	return t.archive(ctx, root, "dag-scope=entity")
}

func (t *Target) archive(ctx context.Context, c cid.Cid, scope string) (io.ReadCloser, error) {
	if err := t.turn(ctx); err != nil {
		return nil, err
	}
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	//nolint:bodyclose // the body is handed on, and its reader closes it
	resp, err := t.fetch(ctx, "/ipfs/"+c.String()+"?format=car&"+scope+"&car-order=dfs&car-dups=n", "application/vnd.ipld.car; version=1; order=dfs; dups=n")
	if err != nil {
		stop()
		return nil, err
	}
	return &archiveBody{dog.Reply(resp.Body), t, ctx, stop}, nil
}

// archiveBody is the body of an archive that is being fetched.
type archiveBody struct {
	io.ReadCloser
	t    *Target
	ctx  context.Context //nolint:containedctx // of the request
	stop func()
}

func (b *archiveBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = b.t.client.Failed(b.ctx, "read the archive", err)
	}
	return n, err
}

func (b *archiveBody) Close() error {
	b.stop()
	return b.ReadCloser.Close()
}

func (t *Target) fetch(ctx context.Context, path, accept string) (*http.Response, error) {
	req, err := t.request(ctx, http.MethodGet, t.gateway, path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	resp, err := t.client.Send(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, t.apiError(resp)
	}
	return resp, nil
}

// request makes a request for a path below one of the two bases. It sends the
// token only to the API's origin.
func (t *Target) request(ctx context.Context, method string, base *url.URL, path string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, base.String()+path, body)
	if err != nil {
		return nil, err
	}
	if t.opts.Token.Reveal() != "" && base.Scheme == t.base.Scheme && base.Host == t.base.Host {
		req.Header.Set("Authorization", "Bearer "+t.opts.Token.Reveal())
	}
	return req, nil
}

// turn waits until the next request may be sent. It must come before the stall
// watchdog and before a body is opened.
func (t *Target) turn(ctx context.Context) error {
	if t.opts.Pacer == nil {
		return nil
	}
	return t.opts.Pacer.Wait(ctx)
}

var errTooLong = errors.New("the reply is too long")

// reply sends a request and returns a successful reply with its body.
func (t *Target) reply(req *http.Request, dog *bulk.Watchdog) (*http.Response, []byte, error) {
	resp, err := t.client.Send(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return nil, nil, t.apiError(resp)
	}
	p, err := io.ReadAll(io.LimitReader(dog.Reply(resp.Body), maxReplyBytes+1))
	if err != nil {
		return nil, nil, t.client.Failed(req.Context(), "read the reply", err)
	}
	if len(p) > maxReplyBytes {
		return nil, nil, bulk.WrongReply(fmt.Errorf("%w: that of %s has more than %d bytes: is it the right endpoint?", errTooLong, t, maxReplyBytes))
	}
	return resp, p, nil
}

// do sends a request and decodes the value in the envelope of the reply.
func (t *Target) do(req *http.Request, dog *bulk.Watchdog, v any) (http.Header, error) {
	resp, p, err := t.reply(req, dog) //nolint:bodyclose // it is closed there
	if err != nil {
		return nil, err
	}
	if mt, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); mt == "text/html" {
		return nil, bulk.WrongReply(fmt.Errorf("%s answered with a web page, not with the API's JSON: a login page of the network, or the wrong endpoint", t))
	}
	env := envelope{Value: v}
	if err := json.Unmarshal(p, &env); err != nil {
		// The reply may have been truncated on the way, although the service
		// has processed the request.
		return nil, bulk.BrokenReply(fmt.Errorf("the reply of %s is not the API's JSON: %w", t, err))
	}
	if !env.OK {
		return nil, t.refusal(resp, env)
	}
	return resp.Header, nil
}

// envelope wraps every reply of the API.
type envelope struct {
	OK    bool `json:"ok"`
	Value any  `json:"value"`
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Reason  string `json:"reason"` // of the pinning API, as is the next field
		Details string `json:"details"`
	} `json:"error"`
}

// nft is the part of the API's upload object that is used here.
type nft struct {
	CID   string   `json:"cid"`
	Parts []string `json:"parts"`
	Pin   struct {
		Status string `json:"status"`
	} `json:"pin"`
}

// root returns the root in the reply, undefined if there is none or it is
// invalid.
func (v *nft) root() cid.Cid {
	c, err := cid.Decode(v.CID)
	if err != nil {
		return cid.Undef
	}
	return c
}

// parts does not quote what it cannot parse: it might be a token.
func (v *nft) parts() ([]cid.Cid, error) {
	parts := make([]cid.Cid, 0, len(v.Parts))
	for i, s := range v.Parts {
		c, err := cid.Decode(s)
		if err != nil {
			return nil, bulk.WrongReply(fmt.Errorf("number %d of the %d parts in the reply is not a CID", i+1, len(v.Parts)))
		}
		parts = append(parts, c)
	}
	return parts, nil
}

var _ uploader.Target = (*Target)(nil)
