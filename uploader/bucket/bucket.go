// Package bucket is the upload target in S3-compatible storage: one object for
// each shard, and last of all a manifest.
//
// Below the prefix of the target there are, for each upload,
//
//	ROOT/00001-of-00335-99633831.car       a shard: its number, how many there are, its size
//	ROOT/00001-of-00335-99633831.car.idx   where the blocks are in it
//	ROOT.json                              the manifest
//
// Shards are CARv1 files. Beside them are indexes in the format that go-car has
// for it (multicodec 0x0401), so that single blocks can be read; what lacks one
// is read whole. The manifest lists the shards with their sizes and CIDs and is
// written when all of them are there: without it the upload is not complete.
//
// The SHA-256 digest that the storage computes of an object, keeps, and gives
// back is the digest in the CID of the shard. That is its receipt. A shard goes
// up with its digest in a trailer, so that it is read once. Where a storage does
// not know that, it is read twice, and where it keeps no digests it is read back.
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

// Limits of storages, and of what is read on their word.
const (
	maxObjectBytes   = 5_000_000_000 // of one request
	maxManifestBytes = 64 << 20
	maxIndexBytes    = 64 << 20
	maxReplyBytes    = 1 << 20
	questions        = 16 // at a time, about single objects
)

// Options are the knobs of [New].
type Options struct {
	// Config is where the storage is, which region it has, and who asks. A
	// BaseEndpoint in it is that of a storage other than AWS, whose buckets are
	// addressed by path.
	Config aws.Config
	Bucket string
	// Prefix begins all keys; a slash follows it. It may be empty.
	Prefix string
	// Import asks a storage that takes CARs into IPFS to do so (Filebase), and
	// compares the CID that it answers. The whole DAG has to be one object then.
	Import bool
	// TLS is how the storage is trusted; nil for the system's way.
	TLS *tls.Config
	// Stall is how long a request may move no byte; 0 means two minutes.
	Stall time.Duration
	// UserAgent names the program.
	UserAgent string
	// Clock is for waits between tries of what is read from an [Object]; nil means
	// that of the machine.
	Clock uploader.Clock
}

// Target is a bucket, or what is below a prefix of it. It is safe for
// concurrent use. Close lets go of idle connections.
type Target struct {
	opts   Options
	prefix string // empty, or with a slash at its end
	api    *s3.Client
	sign   *s3.PresignClient
	client *bulk.Client

	// digests is how the storage is known to take them.
	digests atomic.Int32

	mu      sync.Mutex
	uploads map[cid.Cid]*held // whose blocks were asked for
}

// New makes a target. It sends nothing.
func New(opts Options) (*Target, error) {
	if opts.Bucket == "" || strings.ContainsAny(opts.Bucket, "/?#") {
		return nil, fmt.Errorf("%q is no name of a bucket", opts.Bucket)
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
			o.Region = "us-east-1" // what others than AWS take
		}
		o.Retryer = aws.NopRetryer{} // the engine tries again
		// What is not asked for confuses storages that are not AWS.
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	})
	if o := t.api.Options(); o.Region == "" && o.BaseEndpoint == nil {
		return nil, errors.New("there is no region for the bucket: set AWS_REGION, or the region of the target or of its profile")
	}
	t.sign = s3.NewPresignClient(t.api)
	return t, nil
}

// Close lets go of idle connections.
func (t *Target) Close() error {
	t.client.Close()
	return nil
}

// String is the bucket and the prefix, and where that is if it is not AWS.
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

// dir is what the keys of an upload's shards begin with.
func (t *Target) dir(root cid.Cid) string { return t.prefix + root.String() + "/" }

// key is that of a shard: the same one has the same key at any time.
func (t *Target) key(root cid.Cid, index, count int, size int64) string {
	return fmt.Sprintf("%s%05d-of-%05d-%d.car", t.dir(root), index+1, count, size)
}

const (
	manifestSuffix = ".json"
	indexSuffix    = ".idx"
)

func (t *Target) manifestKey(root cid.Cid) string { return t.prefix + root.String() + manifestSuffix }

// manifest is what is known of a complete upload.
type manifest struct {
	Version    int             `json:"version"`
	Root       string          `json:"root"`
	Name       string          `json:"name,omitempty"`
	Blocks     int             `json:"blocks"`
	BlockBytes int64           `json:"blockBytes"`
	Shards     []manifestShard `json:"shards"`
}

type manifestShard struct {
	Key  string `json:"key"` // after the prefix
	Size int64  `json:"size"`
	Cid  string `json:"cid"` // of the archive
}

// Finish implements [uploader.Finisher]: it looks whether all shards are there,
// and writes the manifest.
func (t *Target) Finish(ctx context.Context, d uploader.Upload) error {
	if t.opts.Import {
		return nil // the storage said which root it imported
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
			// Lists may be late.
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
		if !archive.Defined() { // held before; the storage knows
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

// writeManifest writes the manifest. One that is there and lists the same shards
// stays: the upload keeps the name that it has.
func (t *Target) writeManifest(ctx context.Context, root cid.Cid, m *manifest) error {
	old, err := t.manifest(ctx, root)
	switch {
	case err == nil && sameShards(old.Shards, m.Shards):
		return nil
	case err == nil:
		m.Name = old.Name // it was cut into other shards
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
			return nil, bulk.Permanent(fmt.Errorf("%s: the manifest of %s lists %s, which is no shard of it", t, root, bulk.Quote(s.Key)))
		}
	}
	return &m, nil
}

// Status implements [uploader.StatusChecker]: an upload is complete if it has a
// manifest and all shards in it are there with their sizes. One without a
// manifest has the parts whose digests the storage gives back.
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

// digestsOf asks for the digests of shards. One whose digest the storage does
// not have is left out: it is sent again.
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

// List implements [uploader.Lister]: it yields the uploads that have a manifest,
// in the order of their keys.
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
				continue // somebody else's
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

// Delete implements [uploader.Deleter]. The manifest goes first: what is left
// if it is interrupted is no upload any more.
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

// objects lists what is below a prefix: sizes by key.
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

// headed is what the storage says of an object.
type headed struct {
	size    int64
	archive cid.Cid // of the digest; undefined if there is none
	cid     string  // that a storage with IPFS gave it
}

func (t *Target) head(ctx context.Context, key string) (headed, error) {
	out, err := t.api.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &t.opts.Bucket, Key: &key, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return headed{}, t.apiError(ctx, "look at "+key, err)
	}
	return headed{aws.ToInt64(out.ContentLength), archiveOf(aws.ToString(out.ChecksumSHA256)), out.Metadata["cid"]}, nil
}

// archiveOf makes the CID of an archive of its digest as S3 writes it; what is
// none, or that of several parts, is undefined.
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

// digestOf is archiveOf the other way round.
func digestOf(archive cid.Cid) (string, []byte) {
	d, err := multihash.Decode(archive.Hash())
	if err != nil {
		return "", nil
	}
	return base64.StdEncoding.EncodeToString(d.Digest), d.Digest
}

// get reads an object from an offset on, all of it or n bytes. The caller closes it.
func (t *Target) get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, error) {
	return t.getIf(ctx, key, offset, n, "")
}

// getIf is get of an object that has this ETag; if it is empty, of any.
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
		err := bulk.WrongReply(fmt.Errorf("read %s: the storage was asked for the bytes from %d on, and gives %s", key, offset, bulk.Quote(got)))
		return nil, errors.Join(err, out.Body.Close())
	}
	return &object{dog.Reply(out.Body), t, ctx, key, stop}, nil
}

// object is the body of an object that is read.
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

// Skew is how much the storage's clock was ahead of ours, if it was told.
func (t *Target) Skew() (time.Duration, bool) { return t.client.Skew() }

// Version asks whether the bucket can be reached, and is there.
func (t *Target) Version(ctx context.Context) (string, error) {
	_, err := t.api.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &t.opts.Bucket})
	return "S3", t.apiError(ctx, "look at the bucket", err)
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
