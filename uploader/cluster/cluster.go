// Package cluster is the upload target for IPFS Cluster, by its REST API.
//
// Shards are added without pins, one archive in each request. Then the root is
// pinned. The upload is complete when every peer to which it is allocated has
// pinned it. All shards must reach the same peers: either all are added to the
// peer that is asked, or the allocations are fixed.
//
// This package was written from the code and documentation of IPFS Cluster
// 1.1.6, and has been tested with a simulated cluster, not with a real one.
package cluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// Limits on what is read from a cluster.
const (
	maxReplyBytes   = 4 << 20
	maxMessageBytes = 64 << 10
)

// Options configure [New].
type Options struct {
	Endpoint string // URL of the REST API, such as http://127.0.0.1:9094
	// Auth is NAME:PASSWORD for basic authentication, or a token from POST
	// /token; empty for none.
	Auth string
	// AllowHTTP permits sending the secret unencrypted to other machines.
	AllowHTTP bool
	// Allocations are the peers that should have the DAG. If there are none,
	// all shards are added to the peer that is asked, and others fetch them
	// from it.
	Allocations []string
	// TLS configures how certificates are checked; nil means the default.
	TLS *tls.Config
	// Stall is how long a request may go without moving a byte; 0 means two
	// minutes. The cluster forwards the blocks of a shard before it answers.
	Stall time.Duration
	// UserAgent is sent with every request; empty means "carload".
	UserAgent string
}

// Target is a cluster. It is safe for concurrent use.
type Target struct {
	opts   Options
	base   *url.URL
	auth   string // the Authorization header; empty for none
	client *bulk.Client
}

// New makes a target. It sends nothing. The caller closes the target.
func New(opts Options) (*Target, error) {
	base, err := url.Parse(opts.Endpoint)
	switch {
	case err != nil:
		return nil, fmt.Errorf("endpoint: %w", err)
	case base.User != nil:
		return nil, errors.New("endpoint: the URL must not contain a user name or password; pass them separately")
	case base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("endpoint %q: give the URL of the REST API of IPFS Cluster, such as http://127.0.0.1:9094", opts.Endpoint)
	case base.Scheme == "http" && opts.Auth != "" && !opts.AllowHTTP && !bulk.IsLoopback(base.Hostname()):
		return nil, fmt.Errorf("endpoint %q: plain HTTP would reveal the secret on the way; use https", opts.Endpoint)
	}
	base.Path = strings.TrimRight(base.Path, "/")
	t := &Target{opts: opts, base: base}
	if t.opts.Stall == 0 {
		t.opts.Stall = 2 * time.Minute
	}
	if t.opts.UserAgent == "" {
		t.opts.UserAgent = "carload"
	}
	secret := opts.Auth
	if name, password, ok := strings.Cut(opts.Auth, ":"); ok {
		req := http.Request{Header: http.Header{}}
		req.SetBasicAuth(name, password)
		t.auth, secret = req.Header.Get("Authorization"), password
	} else if opts.Auth != "" {
		t.auth = "Bearer " + opts.Auth
	}
	transport := bulk.NewTransport()
	transport.TLSClientConfig = opts.TLS
	t.client = bulk.NewClient(transport, bulk.NewSecret(secret), t.opts.UserAgent)
	return t, nil
}

// Close closes idle connections.
func (t *Target) Close() error {
	t.client.Close()
	return nil
}

// String returns the endpoint with the prefix "cluster:".
func (t *Target) String() string { return "cluster:" + t.base.String() }

// Limits implements [uploader.Limited]. The peers are Kubo nodes.
func (t *Target) Limits() uploader.Limits { return uploader.Limits{BlockBytes: car.MaxBlockBytes} }

// peers adds to q which peers shards and pins go to.
func (t *Target) peers(q url.Values, adding bool) url.Values {
	switch {
	case len(t.opts.Allocations) > 0:
		q.Set("user-allocations", strings.Join(t.opts.Allocations, ","))
	case adding:
		q.Set("local", "true")
	}
	return q
}

// Put implements [uploader.Target] with POST /add. The receipt is the root in
// the archive's header, and the total size of the blocks that were added.
func (t *Target) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	open := func() (io.ReadCloser, error) { return dog.Request(bulk.NewForm(s.Open(ctx))), nil }
	body, _ := open()
	// Without stream channels, the status is reliable, and arrives at the end.
	q := t.peers(url.Values{"format": {"car"}, "no-pin": {"true"}, "stream-channels": {"false"}}, true)
	req, err := t.request(ctx, http.MethodPost, "/add", q, body)
	if err != nil {
		return uploader.Receipt{}, errors.Join(err, body.Close())
	}
	req.ContentLength, req.GetBody = bulk.FormBytes+s.Size, open
	req.Header.Set("Content-Type", bulk.FormType)
	req.Header.Set("Expect", "100-continue")
	var added []struct {
		Cid   text  `json:"cid"`
		Bytes int64 `json:"bytes"`
	}
	if err := t.do(req, dog, &added); err != nil {
		return uploader.Receipt{}, err
	}
	if len(added) != 1 || added[0].Bytes <= 0 && s.Size > 200 {
		return uploader.Receipt{}, bulk.WrongReply(fmt.Errorf("%s does not say how much of the shard it added: is it IPFS Cluster?", t))
	}
	root, err := cid.Decode(string(added[0].Cid))
	if err != nil {
		return uploader.Receipt{}, bulk.WrongReply(fmt.Errorf("%s names %s as the root, which is not a CID", t, bulk.Quote(string(added[0].Cid))))
	}
	return uploader.Receipt{Root: root, BlockBytes: added[0].Bytes}, nil
}

// text is a CID in either of the API's forms.
type text string

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(p []byte) error {
	var link struct {
		Slash string `json:"/"`
	}
	if err := json.Unmarshal(p, &link); err == nil {
		*t = text(link.Slash)
		return nil
	}
	return json.Unmarshal(p, (*string)(t))
}

// Finish implements [uploader.Finisher]. It pins the root but does not wait for
// the peers; see Status.
func (t *Target) Finish(ctx context.Context, d uploader.Upload) error {
	status, err := t.pin(ctx, d.Root)
	switch {
	case err == nil && status == uploader.StateFailed:
		return t.ask(ctx, http.MethodPost, "/pins/"+d.Root.String()+"/recover", nil, nil)
	case err == nil:
		return nil
	case !errors.Is(err, uploader.ErrNotFound):
		return err
	}
	return t.ask(ctx, http.MethodPost, "/pins/"+d.Root.String(), t.peers(url.Values{"name": {d.Name}, "mode": {"recursive"}}, false), nil)
}

// Status implements [uploader.StatusChecker]. A DAG is complete if every peer
// to which it is allocated has pinned it.
func (t *Target) Status(ctx context.Context, root cid.Cid) (uploader.Status, error) {
	state, err := t.pin(ctx, root)
	return uploader.Status{State: state}, err
}

func (t *Target) pin(ctx context.Context, root cid.Cid) (uploader.State, error) {
	var v struct {
		Allocations []string `json:"allocations"`
		PeerMap     map[string]struct {
			Status string `json:"status"`
		} `json:"peer_map"`
	}
	if err := t.ask(ctx, http.MethodGet, "/pins/"+root.String(), nil, &v); err != nil {
		return "", err
	}
	pinned, known, worst := 0, 0, uploader.StatePinned
	for peer, p := range v.PeerMap {
		if len(v.Allocations) > 0 && !slices.Contains(v.Allocations, peer) {
			continue // not allocated to this peer
		}
		switch p.Status {
		case "pinned":
			pinned++
		case "unpinned", "remote":
			continue
		case "pin_error", "cluster_error", "unexpectedly_unpinned", "error":
			worst = uploader.StateFailed
		case "pin_queued", "queued":
			if worst == uploader.StatePinned {
				worst = uploader.StateQueued
			}
		default:
			if worst != uploader.StateFailed {
				worst = uploader.StatePinning
			}
		}
		known++
	}
	switch {
	case known == 0:
		return "", fmt.Errorf("%s: %w", root, uploader.ErrNotFound)
	case worst == uploader.StatePinned && pinned < len(v.Allocations):
		return uploader.StatePinning, nil
	}
	return worst, nil
}

// Delete implements [uploader.Deleter].
func (t *Target) Delete(ctx context.Context, root cid.Cid) error {
	return t.ask(ctx, http.MethodDelete, "/pins/"+root.String(), nil, nil)
}

// Skew returns how far the cluster's clock is ahead of ours. ok is false if
// that is not known yet.
func (t *Target) Skew() (time.Duration, bool) { return t.client.Skew() }

func (t *Target) request(ctx context.Context, method, path string, q url.Values, body io.Reader) (*http.Request, error) {
	u := *t.base
	u.Path += path
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return nil, err
	}
	if t.auth != "" {
		req.Header.Set("Authorization", t.auth)
	}
	return req, nil
}

func (t *Target) ask(ctx context.Context, method, path string, q url.Values, v any) error {
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	req, err := t.request(ctx, method, path, q, nil)
	if err != nil {
		return err
	}
	return t.do(req, dog, v)
}

// do sends a request and decodes the reply into v, unless v is nil.
func (t *Target) do(req *http.Request, dog *bulk.Watchdog, v any) error {
	resp, err := t.client.Send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return t.refusal(resp)
	}
	p, err := io.ReadAll(io.LimitReader(dog.Reply(resp.Body), maxReplyBytes+1))
	switch {
	case err != nil:
		return t.client.Failed(req.Context(), "read the reply", err)
	case len(p) > maxReplyBytes:
		return bulk.WrongReply(fmt.Errorf("the reply of %s is longer than %d bytes: is it IPFS Cluster?", t, maxReplyBytes))
	}
	if said := resp.Trailer.Get("X-Stream-Error"); said != "" {
		return &Error{Status: http.StatusInternalServerError, Message: t.client.Redact(said)}
	}
	if v == nil {
		return nil
	}
	if err := json.Unmarshal(p, v); err != nil {
		return bulk.BrokenReply(fmt.Errorf("the reply of %s is not that of IPFS Cluster: %w", t, err))
	}
	return nil
}

// Error is an error reply of the cluster. It matches [uploader.ErrUnauthorized]
// or [uploader.ErrNotFound] if that is what it means.
type Error struct {
	Status  int
	Message string

	after time.Duration
}

func (e *Error) Error() string {
	s := fmt.Sprintf("the cluster answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Message != "" {
		s += ": " + bulk.Quote(e.Message)
	}
	return s
}

// Is reports whether e matches target.
func (e *Error) Is(target error) bool {
	switch target {
	case uploader.ErrUnauthorized:
		return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
	case uploader.ErrNotFound:
		return e.Status == http.StatusNotFound
	}
	return false
}

// Retry reports whether the same request may succeed later.
func (e *Error) Retry() (again bool, after time.Duration) {
	return e.Status >= 500 && e.Status != http.StatusNotImplemented || e.Status == http.StatusRequestTimeout || e.Status == http.StatusTooManyRequests, e.after
}

func (t *Target) refusal(resp *http.Response) error {
	p, _ := io.ReadAll(io.LimitReader(resp.Body, maxMessageBytes)) // if this fails, the status is enough
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(p, &said) != nil {
		said.Message = strings.TrimSpace(string(p))
	}
	return &Error{resp.StatusCode, t.client.Redact(said.Message), bulk.RetryAfter(resp.Header.Get("Retry-After"), time.Now())}
}

var (
	_ uploader.Target        = (*Target)(nil)
	_ uploader.StatusChecker = (*Target)(nil)
	_ uploader.Finisher      = (*Target)(nil)
	_ uploader.Limited       = (*Target)(nil)
	_ uploader.Deleter       = (*Target)(nil)
)
