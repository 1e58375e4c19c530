// Package bucket is the upload target for S3-compatible storage. It stores one
// object for each shard, and finally a manifest.
//
// For each upload, there are these keys below the prefix of the target:
//
//	ROOT/00001-of-00335-99633831.car       a shard: its number, how many there are, its size
//	ROOT/00001-of-00335-99633831.car.idx   where the blocks are in the shard
//	ROOT.json                              the manifest
//
// Shards are CARv1 files. Their indexes are in the format of go-car (multicodec
// 0x0401), and make it possible to read single blocks; a shard without an index
// is read as a whole. The manifest lists the shards with their sizes and CIDs.
// It is written when all of them are there: without it, the upload is not
// complete.
//
// The receipt of a shard is the SHA-256 digest that the storage computes,
// stores, and returns: it is the digest in the shard's CID. A shard is sent
// with its digest in a trailer, so the source is read once. If a storage does
// not support trailers, it is read twice. If it stores no digests, the shard is
// read back.
package bucket

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// Limits of storages, and on what is read from them.
const (
	maxObjectBytes   = 5_000_000_000 // in one request
	maxManifestBytes = 64 << 20
	maxIndexBytes    = 64 << 20
	maxReplyBytes    = 1 << 20
	questions        = 16 // about single objects, at a time
)

// Options configure [New].
type Options struct {
	// Config has the endpoint, the region and the credentials. If it has a
	// BaseEndpoint, that is a storage other than AWS, whose buckets are
	// addressed by path.
	Config aws.Config
	Bucket string
	// Prefix is the beginning of all keys, followed by a slash. It may be
	// empty.
	Prefix string
	// Import asks a storage that can import CARs into IPFS (Filebase) to do so,
	// and compares the CID that it reports. The whole DAG must then fit into
	// one object.
	Import bool
	// TLS configures how certificates are checked; nil means the default.
	TLS *tls.Config
	// Stall is how long a request may go without moving a byte; 0 means two
	// minutes.
	Stall time.Duration
	// UserAgent is sent with every request; empty means "carload".
	UserAgent string
	// Clock times the waits between attempts to read an [Object]; nil means the
	// system clock.
	Clock uploader.Clock
}

// Target is a bucket, or the part of it below a prefix. It is safe for
// concurrent use.
type Target struct {
	opts   Options
	prefix string // empty, or ends with a slash
	api    *s3.Client
	sign   *s3.PresignClient
	client *bulk.Client

	// digests is how the storage accepts digests.
	digests atomic.Int32

	mu      sync.Mutex
	uploads map[cid.Cid]*held // uploads whose blocks were asked for
}

// New makes a target. It sends nothing. The caller closes the target.
func New(opts Options) (*Target, error) {
	if opts.Bucket == "" || strings.ContainsAny(opts.Bucket, "/?#") {
		return nil, fmt.Errorf("%q is not a bucket name", opts.Bucket)
	}
	t := &Target{opts: opts, prefix: strings.Trim(path.Clean("/"+opts.Prefix), "/"), uploads: map[cid.Cid]*held{}}
	if t.prefix != "" {
		t.prefix += "/"
	}
	if t.opts.Stall == 0 {
		t.opts.Stall = 2 * time.Minute
	}
	if t.opts.UserAgent == "" {
		t.opts.UserAgent = "carload"
	}
	if t.opts.Clock == nil {
		t.opts.Clock = uploader.MachineClock{}
	}
	transport := bulk.NewTransport()
	transport.TLSClientConfig = opts.TLS
	t.client = bulk.NewClient(transport, bulk.Secret{}, t.opts.UserAgent)
	t.api = s3.NewFromConfig(opts.Config, func(o *s3.Options) {
		o.HTTPClient = t.client
		o.UsePathStyle = o.BaseEndpoint != nil
		if o.Region == "" && o.BaseEndpoint != nil {
			o.Region = "us-east-1" // other storages accept it
		}
		o.Retryer = aws.NopRetryer{} // the engine retries
		// Checksums that were not asked for confuse storages other than AWS.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	if o := t.api.Options(); o.Region == "" && o.BaseEndpoint == nil {
		return nil, errors.New("there is no region for the bucket: set AWS_REGION, or the region of the target or of its profile")
	}
	t.sign = s3.NewPresignClient(t.api)
	return t, nil
}

// Close closes idle connections.
func (t *Target) Close() error {
	t.client.Close()
	return nil
}

// String returns the bucket and the prefix, and the endpoint if it is not AWS.
func (t *Target) String() string {
	s := "s3://" + t.opts.Bucket + "/" + strings.TrimSuffix(t.prefix, "/")
	if e := t.api.Options().BaseEndpoint; e != nil {
		s += " at " + *e
	}
	return s
}

// Limits implements [uploader.Limited].
func (t *Target) Limits() uploader.Limits {
	return uploader.Limits{ShardBytes: maxObjectBytes, OneShard: t.opts.Import}
}

// dir returns the common prefix of the keys of an upload's shards.
func (t *Target) dir(root cid.Cid) string { return t.prefix + root.String() + "/" }

// key returns the key of a shard. It depends on nothing else.
func (t *Target) key(root cid.Cid, index, count int, size int64) string {
	return fmt.Sprintf("%s%05d-of-%05d-%d.car", t.dir(root), index+1, count, size)
}

const (
	manifestSuffix = ".json"
	indexSuffix    = ".idx"
)

func (t *Target) manifestKey(root cid.Cid) string { return t.prefix + root.String() + manifestSuffix }

// manifest describes a complete upload.
type manifest struct {
	Version    int             `json:"version"`
	Root       string          `json:"root"`
	Name       string          `json:"name,omitempty"`
	Blocks     int             `json:"blocks"`
	BlockBytes int64           `json:"blockBytes"`
	Shards     []manifestShard `json:"shards"`
}

type manifestShard struct {
	Key  string `json:"key"` // without the prefix
	Size int64  `json:"size"`
	Cid  string `json:"cid"` // of the archive
}

// Finish implements [uploader.Finisher]. It checks that all shards are there
// and writes the manifest.
func (t *Target) Finish(ctx context.Context, d uploader.Upload) error {
	if t.opts.Import {
		return nil // the storage has reported the root that it imported
	}
	there, err := t.objects(ctx, t.dir(d.Root))
	if err != nil {
		return err
	}
	m := manifest{Version: 1, Root: d.Root.String(), Name: d.Name, Blocks: d.Blocks, BlockBytes: d.BlockBytes, Shards: make([]manifestShard, len(d.Shards))}
	gone := &uploader.MissingError{Root: d.Root}
	for i, s := range d.Shards {
		key := t.key(d.Root, i, len(d.Shards), s.Size)
		if there[key] != s.Size {
			// Listings may lag behind.
			h, err := t.head(ctx, key)
			if err != nil && !errors.Is(err, uploader.ErrNotFound) {
				return err
			}
			if err != nil || h.size != s.Size {
				gone.Blocks = append(gone.Blocks, s.First)
				continue
			}
		}
		archive := s.CID
		if !archive.Defined() { // held before: the storage knows
			h, err := t.head(ctx, key)
			if err != nil {
				return err
			}
			archive = h.archive
		}
		if !archive.Defined() {
			gone.Blocks = append(gone.Blocks, s.First)
			continue
		}
		m.Shards[i] = manifestShard{Key: strings.TrimPrefix(key, t.prefix), Size: s.Size, Cid: archive.String()}
	}
	if len(gone.Blocks) > 0 {
		return gone
	}
	return t.writeManifest(ctx, d.Root, &m)
}

// writeManifest writes the manifest. If there already is one with the same
// shards, it stays, so the upload keeps its name.
func (t *Target) writeManifest(ctx context.Context, root cid.Cid, m *manifest) error {
	old, err := t.manifest(ctx, root)
	switch {
	case err == nil && sameShards(old.Shards, m.Shards):
		return nil
	case err == nil:
		m.Name = old.Name // it was split into other shards
	case !errors.Is(err, uploader.ErrNotFound):
		return err
	}
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return t.putSmall(ctx, t.manifestKey(root), "application/json", append(text, '\n'))
}

func sameShards(a, b []manifestShard) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// manifest reads the manifest of an upload.
func (t *Target) manifest(ctx context.Context, root cid.Cid) (*manifest, error) {
	p, err := t.getSmall(ctx, t.manifestKey(root), maxManifestBytes)
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(p, &m); err != nil {
		return nil, bulk.Permanent(fmt.Errorf("%s: the manifest of %s is not carload's: %w", t, root, err))
	}
	c, err := cid.Decode(m.Root)
	if err != nil || m.Version != 1 || !c.Equals(root) {
		return nil, bulk.Permanent(fmt.Errorf("%s: the manifest of %s is of another upload, or another version of carload", t, root))
	}
	for _, s := range m.Shards {
		if _, err := cid.Decode(s.Cid); err != nil || !strings.HasPrefix(s.Key, root.String()+"/") || s.Size < 0 {
			return nil, bulk.Permanent(fmt.Errorf("%s: the manifest of %s lists %s, which is not one of its shards", t, root, bulk.Quote(s.Key)))
		}
	}
	return &m, nil
}

// Status implements [uploader.StatusChecker]. An upload is complete if it has a
// manifest, and all shards in it are there with the right sizes. Without a
// manifest, the parts are the shards whose digests the storage returns.
func (t *Target) Status(ctx context.Context, root cid.Cid) (uploader.Status, error) {
	m, err := t.manifest(ctx, root)
	if err != nil && !errors.Is(err, uploader.ErrNotFound) {
		return uploader.Status{}, err
	}
	there, lerr := t.objects(ctx, t.dir(root))
	if lerr != nil {
		return uploader.Status{}, lerr
	}
	if err != nil {
		if len(there) == 0 {
			return uploader.Status{}, err
		}
		parts, err := t.digestsOf(ctx, there)
		return uploader.Status{State: uploader.StatePinning, Parts: parts}, err
	}
	s := uploader.Status{State: uploader.StatePinned, Parts: make([]cid.Cid, 0, len(m.Shards))}
	for _, shard := range m.Shards {
		if there[t.prefix+shard.Key] != shard.Size {
			h, err := t.head(ctx, t.prefix+shard.Key)
			if err != nil && !errors.Is(err, uploader.ErrNotFound) {
				return uploader.Status{}, err
			}
			if err != nil || h.size != shard.Size {
				s.State = uploader.StatePinning
				continue
			}
		}
		c, err := cid.Decode(shard.Cid)
		if err != nil {
			return uploader.Status{}, err
		}
		s.Parts = append(s.Parts, c)
	}
	return s, nil
}

// digestsOf asks for the digests of shards. It leaves out shards without a
// digest, which are then sent again.
func (t *Target) digestsOf(ctx context.Context, objects map[string]int64) ([]cid.Cid, error) {
	parts := make([]cid.Cid, 0, len(objects))
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(questions)
	for key := range objects {
		if !strings.HasSuffix(key, ".car") {
			continue
		}
		g.Go(func() error {
			h, err := t.head(ctx, key)
			if errors.Is(err, uploader.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if h.archive.Defined() {
				parts = append(parts, h.archive)
			}
			return nil
		})
	}
	return parts, g.Wait()
}

// List implements [uploader.Lister]. It yields the uploads with a manifest, in
// the order of their keys.
func (t *Target) List(ctx context.Context) iter.Seq2[uploader.Held, error] {
	return func(yield func(uploader.Held, error) bool) {
		for o, err := range t.list(ctx, t.prefix, "/") {
			if err != nil {
				yield(uploader.Held{}, err)
				return
			}
			name, ok := strings.CutSuffix(strings.TrimPrefix(aws.ToString(o.Key), t.prefix), manifestSuffix)
			root, err := cid.Decode(name)
			if !ok || err != nil {
				continue // not ours
			}
			m, err := t.manifest(ctx, root)
			if errors.Is(err, uploader.ErrNotFound) {
				continue // deleted meanwhile
			}
			if err != nil {
				yield(uploader.Held{}, err)
				return
			}
			h := uploader.Held{Root: root, Name: m.Name, Bytes: m.BlockBytes, Created: aws.ToTime(o.LastModified), State: uploader.StatePinned}
			for _, s := range m.Shards {
				if c, err := cid.Decode(s.Cid); err == nil {
					h.Parts = append(h.Parts, c)
				}
			}
			if !yield(h, nil) {
				return
			}
		}
	}
}

// Delete implements [uploader.Deleter]. It deletes the manifest first: if it is
// interrupted, what is left does not count as an upload.
func (t *Target) Delete(ctx context.Context, root cid.Cid) error {
	_, err := t.head(ctx, t.manifestKey(root))
	there, lerr := t.objects(ctx, t.dir(root))
	switch {
	case lerr != nil:
		return lerr
	case errors.Is(err, uploader.ErrNotFound) && len(there) == 0:
		return err
	case err != nil && !errors.Is(err, uploader.ErrNotFound):
		return err
	}
	if err := t.remove(ctx, t.manifestKey(root)); err != nil {
		return err
	}
	t.mu.Lock()
	delete(t.uploads, root)
	t.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(questions)
	for key := range there {
		g.Go(func() error { return t.remove(ctx, key) })
	}
	return g.Wait()
}

func (t *Target) remove(ctx context.Context, key string) error {
	_, err := t.api.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &t.opts.Bucket, Key: &key})
	return t.apiError(ctx, "delete "+key, err)
}

// objects lists the objects below a prefix: sizes by key.
func (t *Target) objects(ctx context.Context, prefix string) (map[string]int64, error) {
	found := map[string]int64{}
	for o, err := range t.list(ctx, prefix, "") {
		if err != nil {
			return nil, err
		}
		found[aws.ToString(o.Key)] = aws.ToInt64(o.Size)
	}
	return found, nil
}

func (t *Target) list(ctx context.Context, prefix, delimiter string) iter.Seq2[types.Object, error] {
	return func(yield func(types.Object, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &t.opts.Bucket, Prefix: &prefix}
		if delimiter != "" {
			in.Delimiter = &delimiter
		}
		pages := s3.NewListObjectsV2Paginator(t.api, in)
		for pages.HasMorePages() {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(types.Object{}, t.apiError(ctx, "list "+prefix, err))
				return
			}
			for _, o := range page.Contents {
				if !yield(o, nil) {
					return
				}
			}
		}
	}
}

// headed is what the storage reports about an object.
type headed struct {
	size    int64
	archive cid.Cid // from the digest; undefined if there is none
	cid     string  // CID from a storage that imports into IPFS
}

func (t *Target) head(ctx context.Context, key string) (headed, error) {
	out, err := t.api.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &t.opts.Bucket, Key: &key, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return headed{}, t.apiError(ctx, "look up "+key, err)
	}
	return headed{aws.ToInt64(out.ContentLength), archiveOf(aws.ToString(out.ChecksumSHA256)), out.Metadata["cid"]}, nil
}

// archiveOf makes the CID of an archive from a digest as S3 encodes it. The CID
// is undefined if it is not a digest, or that of a multipart object.
func archiveOf(digest string) cid.Cid {
	sum, err := base64.StdEncoding.DecodeString(digest)
	if err != nil || len(sum) != 32 {
		return cid.Undef
	}
	mh, err := multihash.Encode(sum, multihash.SHA2_256)
	if err != nil {
		return cid.Undef
	}
	return cid.NewCidV1(car.Codec, mh)
}

// digestOf is the inverse of archiveOf.
func digestOf(archive cid.Cid) (string, []byte) {
	d, err := multihash.Decode(archive.Hash())
	if err != nil {
		return "", nil
	}
	return base64.StdEncoding.EncodeToString(d.Digest), d.Digest
}

// get reads n bytes of an object from an offset on, or all if n is negative.
// The caller closes the body.
func (t *Target) get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, error) {
	return t.getIf(ctx, key, offset, n, "")
}

// getIf is like get, but fails unless the object has this ETag, if it is not
// empty.
func (t *Target) getIf(ctx context.Context, key string, offset, n int64, etag string) (io.ReadCloser, error) {
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	in := &s3.GetObjectInput{Bucket: &t.opts.Bucket, Key: &key}
	if etag != "" {
		in.IfMatch = &etag
	}
	if offset > 0 || n >= 0 {
		r := "bytes=" + strconv.FormatInt(offset, 10) + "-"
		if n >= 0 {
			r += strconv.FormatInt(offset+n-1, 10)
		}
		in.Range = &r
	}
	out, err := t.api.GetObject(ctx, in)
	if err != nil {
		err = t.apiError(ctx, "read "+key, err)
		stop()
		return nil, err
	}
	if got := aws.ToString(out.ContentRange); offset > 0 && !strings.HasPrefix(got, "bytes "+strconv.FormatInt(offset, 10)+"-") {
		err := bulk.WrongReply(fmt.Errorf("read %s: asked the storage for the bytes from %d on, got %s", key, offset, bulk.Quote(got)))
		return nil, errors.Join(err, out.Body.Close())
	}
	return &object{dog.Reply(out.Body), t, ctx, key, stop}, nil
}

// object is the body of an object that is being read.
type object struct {
	io.ReadCloser
	t    *Target
	ctx  context.Context //nolint:containedctx // of the request
	key  string
	stop func()
}

func (o *object) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = o.t.client.Failed(o.ctx, "read "+o.key, err)
	}
	return n, err
}

func (o *object) Close() error {
	o.stop()
	return o.ReadCloser.Close()
}

func (t *Target) getSmall(ctx context.Context, key string, limit int64) ([]byte, error) {
	body, err := t.get(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	p, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(p)) > limit {
		return nil, bulk.Permanent(fmt.Errorf("%s: %s is larger than %d bytes", t, key, limit))
	}
	return p, nil
}

// Skew returns how far the storage's clock is ahead of ours. ok is false if
// that is not known yet.
func (t *Target) Skew() (time.Duration, bool) { return t.client.Skew() }

// Version checks that the bucket is there and can be reached. It always returns
// "S3".
func (t *Target) Version(ctx context.Context) (string, error) {
	_, err := t.api.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &t.opts.Bucket})
	return "S3", t.apiError(ctx, "look up the bucket", err)
}

var (
	_ s3.HTTPClient           = (*bulk.Client)(nil)
	_ uploader.Target         = (*Target)(nil)
	_ uploader.StatusChecker  = (*Target)(nil)
	_ uploader.BlockFetcher   = (*Target)(nil)
	_ uploader.ArchiveFetcher = (*Target)(nil)
	_ uploader.Finisher       = (*Target)(nil)
	_ uploader.Limited        = (*Target)(nil)
	_ uploader.Lister         = (*Target)(nil)
	_ uploader.Deleter        = (*Target)(nil)
	_ http.RoundTripper       = (*http.Transport)(nil)
)
