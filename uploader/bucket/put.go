package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// How a storage accepts digests.
const (
	digestUntried  = iota
	digestTrailing // in a trailer, so the body is read once
	digestFirst    // in a header, so the body is read twice
)

// Put implements [uploader.Target]. The receipt is the digest that the storage
// computed. If the storage has the shard with the right digest, it is not sent
// again; if the digest is wrong, it is replaced.
func (t *Target) Put(ctx context.Context, s *uploader.Shard) (uploader.Receipt, error) {
	key := t.key(s.Root, s.Index, s.Count, s.Size)
	archive, err := t.put(ctx, s, key, !s.Again)
	if errors.Is(err, errThere) {
		archive, err = t.replace(ctx, s, key)
	}
	if err != nil {
		return uploader.Receipt{}, err
	}
	if t.opts.Import {
		return t.imported(ctx, key, archive)
	}
	return uploader.Receipt{Parts: []cid.Cid{archive}}, nil
}

// replace looks at the object in the place of a shard, and sends the shard
// unless that is the shard.
func (t *Target) replace(ctx context.Context, s *uploader.Shard, key string) (cid.Cid, error) {
	ours, err := t.digest(ctx, s)
	if err != nil {
		return cid.Undef, err
	}
	h, err := t.head(ctx, key)
	if err != nil && !errors.Is(err, uploader.ErrNotFound) {
		return cid.Undef, err
	}
	if err == nil && h.size == s.Size && h.archive.Equals(ours) {
		return h.archive, t.ensureIndex(ctx, s, key)
	}
	return t.put(ctx, s, key, false)
}

// digest reads a shard to compute its CID.
func (t *Target) digest(ctx context.Context, s *uploader.Shard) (cid.Cid, error) {
	body := s.Open(ctx)
	_, err := body.WriteTo(io.Discard)
	if err = errors.Join(err, body.Close()); err != nil {
		return cid.Undef, err
	}
	c, _ := body.CID()
	return c, nil
}

// errThere means that the storage has an object with this key.
var errThere = errors.New("there already is an object with this key")

// put sends a shard, unless there already is an object, and then its index. It
// returns the CID from the storage's digest.
func (t *Target) put(ctx context.Context, s *uploader.Shard, key string, unlessThere bool) (cid.Cid, error) {
	for {
		how := t.digests.Load()
		archive, blocks, err := t.send(ctx, s, key, how != digestFirst, unlessThere)
		var refused *Error
		switch {
		case err == nil:
			t.digests.CompareAndSwap(digestUntried, digestTrailing)
			if how == digestFirst && !archive.Defined() {
				archive, err = t.readBack(ctx, key)
			}
			if err != nil {
				return cid.Undef, err
			}
			return archive, t.putIndex(ctx, key, blocks)
		case how == digestUntried && (errors.As(err, &refused) && refused.noTrailers() || errors.Is(err, errNoDigest)):
			t.digests.Store(digestFirst)
			unlessThere = unlessThere && !errors.Is(err, errNoDigest)
		default:
			return cid.Undef, err
		}
	}
}

// errNoDigest means that a storage accepted a body with a trailer without
// understanding it: it stores no digest, or the trailer became part of the
// object.
var errNoDigest = errors.New("the storage does not return the digest that followed the body")

// send sends a shard once.
func (t *Target) send(ctx context.Context, s *uploader.Shard, key string, trailing, unlessThere bool) (archive cid.Cid, _ []byte, err error) {
	var digest string
	payload := trailerPayload
	if !trailing {
		ours, err := t.digest(ctx, s)
		if err != nil {
			return cid.Undef, nil, err
		}
		var sum []byte
		digest, sum = digestOf(ours)
		payload = hex.EncodeToString(sum)
	}
	parent := ctx
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	var scan *scanner
	length := s.Size
	open := func() (io.ReadCloser, error) {
		scan = new(scanner) // of the last body, which is read to its end
		body := bulk.Body(&scanned{s.Open(ctx), scan})
		if trailing {
			body = newChunk(body.(*scanned), s.Size)
		}
		return dog.Request(body), nil
	}
	if trailing {
		length = chunkBytes(s.Size)
	}
	// Sign the request before opening the body, so that a slow digest does not
	// make the signature too old.
	req, err := t.putRequest(ctx, key, length, payload, func(h http.Header) {
		h.Set("Content-Type", "application/vnd.ipld.car")
		h.Set("X-Amz-Meta-Carload-Root", s.Root.String())
		if t.opts.Import {
			h.Set("X-Amz-Meta-Import", "car")
		}
		if unlessThere {
			h.Set("If-None-Match", "*")
		}
		if trailing {
			h.Set("Content-Encoding", "aws-chunked")
			h.Set("X-Amz-Decoded-Content-Length", strconv.FormatInt(s.Size, 10))
			h.Set("X-Amz-Trailer", trailerName)
			h.Set("X-Amz-Sdk-Checksum-Algorithm", "SHA256")
		} else {
			h.Set("X-Amz-Checksum-Sha256", digest)
		}
	})
	if err != nil {
		return cid.Undef, nil, err
	}
	req.Body, _ = open()
	req.GetBody = open
	req.Header.Set("Expect", "100-continue")
	resp, err := t.client.Send(req)
	if err != nil {
		return cid.Undef, nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return cid.Undef, nil, t.refusal(resp)
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(dog.Reply(resp.Body), maxReplyBytes)); err != nil {
		return cid.Undef, nil, t.client.Failed(ctx, "read the reply", err)
	}
	index, err := scan.index()
	if err != nil {
		return cid.Undef, nil, err
	}
	archive = archiveOf(resp.Header.Get("X-Amz-Checksum-Sha256"))
	if archive.Defined() {
		return archive, index, nil
	}
	h, err := t.head(parent, key)
	switch {
	case err != nil:
		return cid.Undef, nil, err
	case trailing && (h.size != s.Size || !h.archive.Defined()):
		return cid.Undef, nil, errNoDigest
	case h.size != s.Size:
		return cid.Undef, nil, bulk.BrokenReply(fmt.Errorf("%w: %s has %d bytes of %s, but the shard has %d", uploader.ErrRootMismatch, t, h.size, key, s.Size))
	}
	return h.archive, index, nil
}

// readBack computes the digest of an object by reading it, for a storage that
// keeps no digests.
func (t *Target) readBack(ctx context.Context, key string) (cid.Cid, error) {
	body, err := t.get(ctx, key, 0, -1)
	if err != nil {
		return cid.Undef, err
	}
	defer body.Close()
	h := sha256.New()
	if _, err := io.Copy(h, body); err != nil {
		return cid.Undef, fmt.Errorf("read %s back: %w", key, err)
	}
	return archiveOfSum(h.Sum(nil)), nil
}

// imported asks which root the storage made of an archive.
func (t *Target) imported(ctx context.Context, key string, archive cid.Cid) (uploader.Receipt, error) {
	h, err := t.head(ctx, key)
	if err != nil {
		return uploader.Receipt{}, err
	}
	root, err := cid.Decode(h.cid)
	if err != nil {
		return uploader.Receipt{}, bulk.Permanent(fmt.Errorf("%s does not say which CID it made of the CAR: it does not import CARs", t))
	}
	return uploader.Receipt{Root: root, Parts: []cid.Cid{archive}, State: uploader.StatePinned}, nil
}

// putRequest makes a signed request to write an object, at the URL that the SDK
// uses.
func (t *Target) putRequest(ctx context.Context, key string, length int64, payload string, header func(http.Header)) (*http.Request, error) {
	at, err := t.sign.PresignPutObject(ctx, &s3.PutObjectInput{Bucket: &t.opts.Bucket, Key: &key})
	if err != nil {
		return nil, t.apiError(ctx, "sign", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, at.URL, nil)
	if err != nil {
		return nil, err
	}
	req.URL.RawQuery = ""
	req.ContentLength = length
	req.Header.Set("X-Amz-Content-Sha256", payload)
	header(req.Header)
	o := t.api.Options()
	if o.Credentials == nil {
		return nil, t.apiError(ctx, "sign", errors.New("no credentials"))
	}
	who, err := o.Credentials.Retrieve(ctx)
	if err != nil {
		return nil, t.apiError(ctx, "sign", err)
	}
	sign := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	return req, sign.SignHTTP(ctx, who, req, payload, "s3", o.Region, time.Now())
}

// putSmall writes an object in one piece.
func (t *Target) putSmall(ctx context.Context, key, kind string, text []byte) error {
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	sum := sha256.Sum256(text)
	digest, _ := digestOf(archiveOfSum(sum[:]))
	req, err := t.putRequest(ctx, key, int64(len(text)), hex.EncodeToString(sum[:]), func(h http.Header) {
		h.Set("Content-Type", kind)
		h.Set("X-Amz-Checksum-Sha256", digest)
	})
	if err != nil {
		return err
	}
	req.Body = io.NopCloser(bytes.NewReader(text))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(text)), nil }
	resp, err := t.client.Send(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return t.refusal(resp)
	}
	_, err = io.Copy(io.Discard, io.LimitReader(dog.Reply(resp.Body), maxReplyBytes))
	return err
}
