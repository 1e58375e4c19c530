// Package kubo is the upload target for Kubo, the IPFS node that people run
// themselves, by its RPC. Other programs that serve the same requests work too.
//
// Shards are sent with dag/import, in parallel and without pins: Kubo hashes
// each block again and counts them. When all are there, [Target.Finish] lets
// Kubo walk the DAG offline. It pins the root only if nothing is missing,
// because Kubo would wait for missing blocks forever.
package kubo

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// Limits on what is read from a node.
const (
	maxLineBytes    = 64 << 10
	maxMessageBytes = 64 << 10
)

// Limits of Kubo.
const (
	// maxBlockBytes is the largest block that Kubo imports by default: larger
	// ones can't be sent to other nodes.
	maxBlockBytes   = 2 << 20
	maxPinNameBytes = 255
)

// Options configure [New].
type Options struct {
	// Address is a URL (http, https or unix), or a multiaddr as Kubo writes it
	// into its configuration and the file $IPFS_PATH/api.
	Address string
	// Auth is the secret of one of the node's API.Authorizations, in the same
	// form: bearer:TOKEN or basic:NAME:PASSWORD. Without either prefix it is a
	// bearer token. Empty means none.
	Auth string
	// AllowHTTP permits sending the secret unencrypted to other machines.
	AllowHTTP bool
	// TLS configures how certificates are checked; nil means the default.
	TLS *tls.Config
	// Files is a path in the node's files (MFS) where finished uploads appear.
	// A path that ends with a slash is a directory, which is created if
	// necessary; uploads appear in it under their names. Empty means nowhere.
	Files string
	// Stall is how long a request may go without moving a byte, or a walk
	// through the DAG without reaching a block; 0 means two minutes.
	Stall time.Duration
	// UserAgent is sent with every request; empty means "carload".
	UserAgent string
}

// Target is a node. It is safe for concurrent use.
type Target struct {
	opts   Options
	at     address
	auth   string // the Authorization header; empty for none
	client *bulk.Client
}

// New makes a target. It sends nothing. The caller closes the target.
func New(opts Options) (*Target, error) {
	at, err := parseAddress(opts.Address)
	if err != nil {
		return nil, err
	}
	t := &Target{opts: opts, at: at}
	if t.opts.Stall == 0 {
		t.opts.Stall = 2 * time.Minute
	}
	if t.opts.UserAgent == "" {
		t.opts.UserAgent = "carload"
	}
	if opts.Files != "" && !strings.HasPrefix(opts.Files, "/") {
		return nil, fmt.Errorf("path %q in the files of Kubo: must begin with a slash", opts.Files)
	}
	secret := opts.Auth
	if opts.Auth != "" {
		if at.socket == "" && at.base.Scheme == "http" && !opts.AllowHTTP && !bulk.IsLoopback(at.base.Hostname()) {
			return nil, fmt.Errorf("address of Kubo %q: plain HTTP would reveal the secret on the way; use https", at)
		}
		if t.auth, secret, err = authorization(opts.Auth); err != nil {
			return nil, err
		}
	}
	transport := bulk.NewTransport()
	if at.socket != "" {
		transport = bulk.NewUnixTransport(at.socket)
	}
	transport.TLSClientConfig = opts.TLS
	t.client = bulk.NewClient(transport, bulk.NewSecret(secret), t.opts.UserAgent)
	return t, nil
}

// authorization makes the header from a secret in Kubo's form, and returns the
// part that must not be shown.
func authorization(auth string) (header, secret string, err error) {
	if strings.ContainsFunc(auth, func(r rune) bool { return r < ' ' || r == 0x7f }) || len(auth) > 8<<10 {
		return "", "", errors.New("the secret for Kubo has control characters, or is longer than 8 KiB")
	}
	if pair, ok := strings.CutPrefix(auth, "basic:"); ok {
		name, password, ok := strings.Cut(pair, ":")
		if !ok {
			return "", "", errors.New("the secret for Kubo is not of the form basic:NAME:PASSWORD")
		}
		req := http.Request{Header: http.Header{}}
		req.SetBasicAuth(name, password)
		return req.Header.Get("Authorization"), password, nil
	}
	token := strings.TrimPrefix(auth, "bearer:")
	return "Bearer " + token, token, nil
}

// Close closes idle connections.
func (t *Target) Close() error {
	t.client.Close()
	return nil
}

// String returns the address with the prefix "kubo:", since a service of
// another kind may be at the same URL.
func (t *Target) String() string { return "kubo:" + t.at.String() }

// Limits implements [uploader.Limited].
func (t *Target) Limits() uploader.Limits {
	return uploader.Limits{BlockBytes: maxBlockBytes, Hashes: hashes}
}

// hashes are the functions in boxo's verifcid that we can check too.
var hashes = []uint64{
	multihash.SHA2_256, multihash.SHA2_512, multihash.SHA1, multihash.DBL_SHA2_256, multihash.BLAKE3, multihash.IDENTITY,
	multihash.SHA3_224, multihash.SHA3_256, multihash.SHA3_384, multihash.SHA3_512,
	multihash.KECCAK_224, multihash.KECCAK_256, multihash.KECCAK_384, multihash.KECCAK_512,
	multihash.SHAKE_256, multihash.BLAKE2B_MIN + 31, multihash.BLAKE2S_MIN + 31, multihash.BLAKE2B_MIN + 63,
}

// Put implements [uploader.Target] with dag/import. The receipt is the number
// of blocks that Kubo read and hashed, and their total size.
func (t *Target) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	open := func() (io.ReadCloser, error) { return dog.Request(bulk.NewForm(s.Open(ctx))), nil }
	body, _ := open()
	req, err := t.request(ctx, "dag/import", url.Values{"pin-roots": {"false"}, "stats": {"true"}, "fast-provide-root": {"false"}}, body)
	if err != nil {
		return uploader.Receipt{}, errors.Join(err, body.Close())
	}
	req.ContentLength, req.GetBody = bulk.FormBytes+s.Size, open
	req.Header.Set("Content-Type", bulk.FormType)
	req.Header.Set("Expect", "100-continue")
	var r uploader.Receipt
	said := false
	err = t.stream(req, dog, func(line []byte) error {
		var v struct {
			Stats *struct{ BlockCount, BlockBytesCount int64 }
		}
		if err := json.Unmarshal(line, &v); err != nil {
			return err
		}
		if v.Stats != nil {
			said, r.Blocks, r.BlockBytes = true, int(v.Stats.BlockCount), v.Stats.BlockBytesCount
		}
		return nil
	})
	if err == nil && !said {
		err = bulk.WrongReply(fmt.Errorf("%s accepted the shard but does not report what it counted: it is too old, or not Kubo", t))
	}
	return r, err
}

// SharesBlocks implements [uploader.BlockSharer]. A node stores the blocks of
// all its pins together.
func (t *Target) SharesBlocks() bool { return true }

// Status implements [uploader.StatusChecker]. A DAG is complete if it is
// pinned, since Kubo walked it then. Status does not walk it again.
func (t *Target) Status(ctx context.Context, root cid.Cid) (uploader.Status, error) {
	pinned, err := t.pinned(ctx, root)
	switch {
	case err != nil:
		return uploader.Status{}, err
	case pinned:
		return uploader.Status{State: uploader.StatePinned}, nil
	}
	if err := t.Has(ctx, root); err != nil {
		return uploader.Status{}, err
	}
	return uploader.Status{State: uploader.StatePinning}, nil
}

// Has returns nil if the node has a block, without asking other nodes.
// Otherwise the error matches [uploader.ErrNotFound].
func (t *Target) Has(ctx context.Context, c cid.Cid) error {
	return t.ask(ctx, "block/stat", url.Values{"arg": {c.String()}, "offline": {"true"}}, nil)
}

func (t *Target) pinned(ctx context.Context, root cid.Cid) (bool, error) {
	var v struct {
		Keys map[string]struct{ Type string }
	}
	err := t.ask(ctx, "pin/ls", url.Values{"arg": {root.String()}, "type": {"recursive"}}, &v)
	var rpc *RPCError
	if errors.As(err, &rpc) && strings.Contains(rpc.message, "is not pinned") {
		return false, nil
	}
	for key, pin := range v.Keys {
		if c, err := cid.Decode(key); err == nil && c.Equals(root) && pin.Type == "recursive" {
			return true, nil
		}
	}
	return false, err
}

// Finish implements [uploader.Finisher]. It lets the node walk the DAG,
// compares the counts, pins the root under the upload's name, and only then
// makes it appear in the node's files. A root that is pinned already keeps the
// name of its pin.
func (t *Target) Finish(ctx context.Context, d uploader.Upload) error {
	pinned, err := t.pinned(ctx, d.Root)
	if err != nil {
		return err
	}
	if !pinned {
		if err := t.walk(ctx, d); err != nil {
			return err
		}
		if err := t.pin(ctx, d); err != nil {
			return err
		}
	}
	if t.opts.Files == "" {
		return nil
	}
	return t.show(ctx, d)
}

// walk lets the node walk the DAG offline.
func (t *Target) walk(ctx context.Context, d uploader.Upload) error {
	if d.Blocks == 1 && d.BlockBytes == 0 {
		// Kubo fails on a DAG of zero bytes, because it divides by the size.
		err := t.Has(ctx, d.Root)
		if errors.Is(err, uploader.ErrNotFound) {
			return &uploader.MissingError{Root: d.Root, Blocks: []cid.Cid{d.Root}}
		}
		return err
	}
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	// Progress sends a line for each block, which shows that the walk goes on.
	req, err := t.request(ctx, "dag/stat", url.Values{"arg": {d.Root.String()}, "offline": {"true"}, "progress": {"true"}}, nil)
	if err != nil {
		return err
	}
	var last struct {
		UniqueBlocks int
		TotalSize    int64
	}
	err = t.stream(req, dog, func(line []byte) error { return json.Unmarshal(line, &last) })
	if c, ok := missing(err); ok {
		return t.lost(ctx, d, c)
	}
	if err != nil {
		return err
	}
	// The walk reached every leaf. It may count more blocks than we do: those
	// contained in their CID.
	if last.UniqueBlocks < d.Blocks || last.TotalSize < d.BlockBytes {
		return bulk.Permanent(fmt.Errorf("%w: %s counts %d blocks with %d bytes below %s, but there should be %d with %d",
			uploader.ErrIncomplete, t, last.UniqueBlocks, last.TotalSize, d.Root, d.Blocks, d.BlockBytes))
	}
	return nil
}

// lost reports what is gone: the block at which the walk ended, and blocks with
// which shards begin. Kubo's garbage collector removes everything that is not
// pinned, and a walk to find each lost block would take too long.
func (t *Target) lost(ctx context.Context, d uploader.Upload, first cid.Cid) error {
	gone := &uploader.MissingError{Root: d.Root, Blocks: []cid.Cid{first}}
	for i := range d.Shards {
		c := d.Shards[i].First
		if !c.Defined() || c.Equals(first) {
			continue
		}
		switch err := t.Has(ctx, c); {
		case errors.Is(err, uploader.ErrNotFound):
			gone.Blocks = append(gone.Blocks, c)
		case err != nil:
			return err
		}
	}
	return gone
}

// pin pins a DAG that was complete. If it no longer is, Kubo waits forever for
// what is missing, even offline. So pin counts as stalled when the number of
// blocks that Kubo has processed stops growing.
func (t *Target) pin(ctx context.Context, d uploader.Upload) error {
	watched, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	req, err := t.request(watched, "pin/add", url.Values{
		"arg": {d.Root.String()}, "recursive": {"true"}, "progress": {"true"}, "name": {cut(d.Name, maxPinNameBytes)},
	}, nil)
	if err != nil {
		return err
	}
	seen, done := 0, false
	err = t.streamQuietly(req, func(line []byte) error {
		var v struct {
			Pins     []string
			Progress int
		}
		if err := json.Unmarshal(line, &v); err != nil {
			return err
		}
		for _, p := range v.Pins {
			if c, err := cid.Decode(p); err == nil && c.Equals(d.Root) {
				done = true
			}
		}
		if v.Progress > seen || done {
			seen = v.Progress
			dog.Alive()
		}
		return nil
	})
	switch {
	case err == nil && !done:
		return bulk.WrongReply(fmt.Errorf("%s does not say that it pinned %s", t, d.Root))
	case err != nil && ctx.Err() == nil && watched.Err() != nil:
		// Blocks may have been lost since the walk.
		return errors.Join(t.walk(ctx, d), err)
	}
	return err
}

// show makes the upload appear in the node's files. It can be repeated.
func (t *Target) show(ctx context.Context, d uploader.Upload) error {
	to := t.opts.Files
	if strings.HasSuffix(to, "/") {
		name := strings.ReplaceAll(d.Name, "/", "_")
		if name == "" || name == "." || name == ".." {
			name = d.Root.String()
		}
		to += name
	}
	to = path.Clean(to)
	var v struct{ Hash string }
	err := t.ask(ctx, "files/stat", url.Values{"arg": {to}, "hash": {"true"}}, &v)
	if err == nil {
		if c, err := cid.Decode(v.Hash); err == nil && c.Equals(d.Root) {
			return nil
		}
		return bulk.Permanent(fmt.Errorf("it is pinned, but %q in the files of %s is something else: remove that, or give another path", to, t))
	}
	if !errors.Is(err, uploader.ErrNotFound) {
		return err
	}
	return t.ask(ctx, "files/cp", url.Values{"arg": {"/ipfs/" + d.Root.String(), to}, "parents": {"true"}}, nil)
}

// FetchBlock implements [uploader.BlockFetcher]. The node does not ask other
// nodes.
func (t *Target) FetchBlock(ctx context.Context, c cid.Cid, limit int) ([]byte, error) {
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	req, err := t.request(ctx, "block/get", url.Values{"arg": {c.String()}, "offline": {"true"}}, nil)
	if err != nil {
		return nil, err
	}
	resp, err := t.send(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(io.LimitReader(dog.Reply(resp.Body), int64(limit)+1))
	switch {
	case err != nil:
		return nil, t.client.Failed(ctx, "read the block", err)
	case len(p) > limit:
		return nil, bulk.Permanent(fmt.Errorf("%w: %s sent more than %d bytes for block %s", car.ErrCorrupt, t, limit, c))
	}
	return p, t.trailer(resp)
}

// FetchArchive implements [uploader.ArchiveFetcher] with dag/export.
func (t *Target) FetchArchive(ctx context.Context, root cid.Cid) (io.ReadCloser, error) {
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	req, err := t.request(ctx, "dag/export", url.Values{"arg": {root.String()}, "offline": {"true"}, "progress": {"false"}}, nil)
	if err != nil {
		stop()
		return nil, err
	}
	//nolint:bodyclose // export closes the body
	resp, err := t.send(req)
	if err != nil {
		stop()
		return nil, err
	}
	return &export{dog.Reply(resp.Body), resp, t, ctx, stop}, nil
}

// export is the body of an archive that is being fetched.
type export struct {
	io.ReadCloser
	resp *http.Response
	t    *Target
	ctx  context.Context //nolint:containedctx // of the request
	stop func()
}

func (e *export) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		if said := e.t.trailer(e.resp); said != nil {
			err = said
		}
	case err != nil:
		err = e.t.client.Failed(e.ctx, "read the archive", err)
	}
	return n, err
}

func (e *export) Close() error {
	e.stop()
	return e.ReadCloser.Close()
}

// List implements [uploader.Lister]. It yields the recursive pins.
func (t *Target) List(ctx context.Context) iter.Seq2[uploader.Held, error] {
	return func(yield func(uploader.Held, error) bool) {
		ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
		defer stop()
		req, err := t.request(ctx, "pin/ls", url.Values{"type": {"recursive"}, "names": {"true"}, "stream": {"true"}}, nil)
		if err != nil {
			yield(uploader.Held{}, err)
			return
		}
		err = t.stream(req, dog, func(line []byte) error {
			var v struct{ Cid, Name string }
			if err := json.Unmarshal(line, &v); err != nil {
				return err
			}
			root, err := cid.Decode(v.Cid)
			if err != nil {
				return fmt.Errorf("it lists %s as pinned, which is not a CID", bulk.Quote(v.Cid))
			}
			if !yield(uploader.Held{Root: root, Name: v.Name, State: uploader.StatePinned}, nil) {
				return errEnough
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(uploader.Held{}, err)
		}
	}
}

var errEnough = errors.New("no more entries are wanted")

// Delete implements [uploader.Deleter] by removing the pin. If the upload
// appears in the node's files, it stays there, with its blocks.
func (t *Target) Delete(ctx context.Context, root cid.Cid) error {
	return t.ask(ctx, "pin/rm", url.Values{"arg": {root.String()}}, nil)
}

// Skew returns how far the node's clock is ahead of ours. ok is false if that
// is not known yet.
func (t *Target) Skew() (time.Duration, bool) { return t.client.Skew() }

// Version returns the version of Kubo.
func (t *Target) Version(ctx context.Context) (string, error) {
	var v struct{ Version string }
	err := t.ask(ctx, "version", nil, &v)
	return v.Version, err
}

// request makes an RPC request.
func (t *Target) request(ctx context.Context, command string, args url.Values, body io.Reader) (*http.Request, error) {
	u := *t.at.base
	u.Path += "/api/v0/" + command
	u.RawQuery = args.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), body)
	if err != nil {
		return nil, err
	}
	if t.auth != "" {
		req.Header.Set("Authorization", t.auth)
	}
	return req, nil
}

// send sends a request. An error reply becomes an error.
func (t *Target) send(req *http.Request) (*http.Response, error) {
	resp, err := t.client.Send(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, t.refusal(resp)
	}
	return resp, nil
}

// ask sends a small request and decodes the single value of the reply into v,
// unless v is nil.
func (t *Target) ask(ctx context.Context, command string, args url.Values, v any) error {
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	req, err := t.request(ctx, command, args, nil)
	if err != nil {
		return err
	}
	return t.stream(req, dog, func(line []byte) error {
		if v == nil {
			return nil
		}
		return json.Unmarshal(line, v)
	})
}

// stream sends a request and passes on each line of the reply. It reads the
// whole reply, since errors after the first line are in the trailer.
func (t *Target) stream(req *http.Request, dog *bulk.Watchdog, each func(line []byte) error) error {
	return t.lines(req, dog.Reply, each)
}

// streamQuietly is like stream, but the bytes of the reply do not count as
// progress.
func (t *Target) streamQuietly(req *http.Request, each func(line []byte) error) error {
	return t.lines(req, func(body io.ReadCloser) io.ReadCloser { return body }, each)
}

func (t *Target) lines(req *http.Request, watched func(io.ReadCloser) io.ReadCloser, each func(line []byte) error) error {
	resp, err := t.send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	in := newLineReader(watched(resp.Body), maxLineBytes)
	for {
		line, err := in.next()
		if errors.Is(err, io.EOF) {
			return t.trailer(resp)
		}
		if errors.Is(err, errLongLine) {
			return bulk.WrongReply(fmt.Errorf("a line of the reply of %s is longer than %d bytes: is it Kubo?", t, maxLineBytes))
		}
		if err != nil {
			return t.client.Failed(req.Context(), "read the reply", err)
		}
		var said struct {
			Message string
			Type    string
		}
		if bytes.Contains(line, []byte(`"Type":"error"`)) && json.Unmarshal(line, &said) == nil && said.Type == "error" {
			return newRPCError(http.StatusInternalServerError, t.client.Redact(said.Message))
		}
		if err := each(line); err != nil {
			if errors.Is(err, errEnough) {
				return err
			}
			return bulk.BrokenReply(fmt.Errorf("the reply of %s is not Kubo's: %w", t, err))
		}
	}
}

// cut shortens a name to at most n bytes, at a character boundary.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

var (
	_ uploader.Target         = (*Target)(nil)
	_ uploader.StatusChecker  = (*Target)(nil)
	_ uploader.BlockFetcher   = (*Target)(nil)
	_ uploader.ArchiveFetcher = (*Target)(nil)
	_ uploader.Finisher       = (*Target)(nil)
	_ uploader.Limited        = (*Target)(nil)
	_ uploader.Lister         = (*Target)(nil)
	_ uploader.Deleter        = (*Target)(nil)
)
