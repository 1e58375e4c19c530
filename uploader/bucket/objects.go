package bucket

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/cenkalti/backoff/v5"

	"github.com/carload/carload/car"
	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// How an [Object] is read.
const (
	pageBytes = 2 << 20 // in one request
	pagesOpen = 24      // at most in memory, for each open object
	pageAhead = 2       // requested ahead of reads
)

// Object is any object in a bucket, as a [car.Source]. Each request names the
// ETag that the object had when it was found, so if it is replaced, changed or
// removed, reads fail with an error that matches [car.ErrSourceChanged].
//
// It is read in ranges, some of them ahead. An open object takes at most 48 MiB
// of memory, and usually much less: ranges are dropped once they have been
// read.
type Object struct {
	t    *Target
	ctx  context.Context //nolint:containedctx // sources are opened without one
	key  string
	size int64
	etag string
	mod  time.Time
}

// Name is the URL of the object.
func (o *Object) Name() string { return "s3://" + o.t.opts.Bucket + "/" + o.key }

// Key is the name of the object in the bucket.
func (o *Object) Key() string { return o.key }

// Size is the length in bytes that the object had when it was found.
func (o *Object) Size() int64 { return o.size }

// ModTime is when the object was last written.
func (o *Object) ModTime() time.Time { return o.mod }

// Version is the ETag. It changes when the object does.
func (o *Object) Version() string { return o.etag }

// Object finds the object with this key. The prefix of the target does not
// matter. Cancelling ctx also ends later reads of the object. If there is no
// such object, the error matches [uploader.ErrNotFound].
func (t *Target) Object(ctx context.Context, key string) (*Object, error) {
	out, err := t.api.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &t.opts.Bucket, Key: &key})
	if err != nil {
		return nil, t.apiError(ctx, "look up "+key, err)
	}
	return t.object(ctx, key, aws.ToInt64(out.ContentLength), aws.ToString(out.ETag), aws.ToTime(out.LastModified))
}

func (t *Target) object(ctx context.Context, key string, size int64, etag string, mod time.Time) (*Object, error) {
	if etag == "" {
		return nil, bulk.Permanent(fmt.Errorf("%s reports no ETag for %s: a change while it is read would go unnoticed", t, key))
	}
	return &Object{t, ctx, key, size, etag, mod}, nil
}

// Objects lists all objects whose keys begin with prefix, in the order of their
// keys. The prefix of the target does not matter. Cancelling ctx also ends
// later reads of the objects. If it yields an error, that is the last thing.
func (t *Target) Objects(ctx context.Context, prefix string) iter.Seq2[*Object, error] {
	return func(yield func(*Object, error) bool) {
		for found, err := range t.list(ctx, prefix, "") {
			var o *Object
			if err == nil {
				o, err = t.object(ctx, aws.ToString(found.Key), aws.ToInt64(found.Size), aws.ToString(found.ETag), aws.ToTime(found.LastModified))
			}
			if !yield(o, err) || err != nil {
				return
			}
		}
	}
}

// Open implements [car.Source].
func (o *Object) Open() (car.SourceFile, error) {
	f := &objectFile{object: o, pages: map[int64]*page{}}
	f.ctx, f.cancel = context.WithCancel(o.ctx)
	return f, nil
}

// objectFile is an open object.
type objectFile struct {
	object *Object
	ctx    context.Context //nolint:containedctx // of requests, which outlive calls
	cancel context.CancelFunc
	wait   sync.WaitGroup

	mu    sync.Mutex
	pages map[int64]*page // by number
	used  list.List       // pages, the most recently used in front
	next  int64           // first page that was never requested
}

// page is a part of an object.
type page struct {
	number int64
	done   chan struct{} // closed when data or err is set
	data   []byte
	err    error

	left int           // bytes that have not been read yet
	at   *list.Element // position in used
}

// Close implements [car.SourceFile].
func (f *objectFile) Close() error {
	f.cancel()
	f.wait.Wait()
	return nil
}

// ReadAt implements [io.ReaderAt]. It is safe for concurrent use; concurrent
// reads should be close to one another.
func (f *objectFile) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) {
		at := off + int64(n)
		if at >= f.object.size {
			return n, io.EOF
		}
		pg := f.page(at / pageBytes)
		select {
		case <-pg.done:
		case <-f.ctx.Done():
			return n, context.Cause(f.ctx)
		}
		if pg.err != nil {
			return n, pg.err
		}
		k := copy(p[n:], pg.data[at%pageBytes:])
		n += k
		f.read(pg, k)
	}
	return n, nil
}

// page returns a page, and starts fetching those after it.
func (f *objectFile) page(number int64) *page {
	f.mu.Lock()
	defer f.mu.Unlock()
	pg := f.pages[number]
	if pg == nil {
		pg = f.fetch(number)
	} else {
		f.used.MoveToFront(pg.at)
	}
	last := (f.object.size - 1) / pageBytes
	f.next = max(f.next, number+1)
	for ; f.next <= min(number+pageAhead, last); f.next++ {
		if f.pages[f.next] == nil {
			f.fetch(f.next)
		}
	}
	return pg
}

// fetch starts fetching a page. The caller holds the lock.
func (f *objectFile) fetch(number int64) *page {
	for f.used.Len() >= pagesOpen {
		f.drop(f.used.Back().Value.(*page))
	}
	from := number * pageBytes
	size := min(pageBytes, f.object.size-from)
	pg := &page{number: number, done: make(chan struct{}), left: int(size)}
	pg.at = f.used.PushFront(pg)
	f.pages[number] = pg
	f.wait.Go(func() {
		defer close(pg.done)
		pg.data, pg.err = f.object.fetch(f.ctx, from, size)
	})
	return pg
}

// read notes that bytes of a page were read. Once all have been, the page is
// dropped: it is hardly ever wanted again.
func (f *objectFile) read(pg *page, n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if pg.left -= n; pg.left <= 0 {
		f.drop(pg)
	}
}

func (f *objectFile) drop(pg *page) {
	if f.pages[pg.number] == pg {
		delete(f.pages, pg.number)
		f.used.Remove(pg.at)
	}
}

// Attempts to read a range, and waits between them.
const (
	rangeTries = 6
	firstWait  = 500 * time.Millisecond
	mostWait   = 30 * time.Second
)

// fetch reads a range. It retries where that may help, and continues where the
// last attempt ended.
func (o *Object) fetch(ctx context.Context, from, size int64) ([]byte, error) {
	waits := backoff.ExponentialBackOff{InitialInterval: firstWait, RandomizationFactor: 1, Multiplier: 2, MaxInterval: mostWait}
	waits.Reset()
	p := make([]byte, 0, size)
	for try := 1; ; try++ {
		had := len(p)
		var err error
		if p, err = o.more(ctx, p, from); err == nil {
			return p, nil
		}
		if len(p) > had {
			try = 1
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		again, asked := uploader.Retryable(err)
		switch {
		case !again:
			return nil, err
		case try == rangeTries:
			return nil, fmt.Errorf("%w: %w", uploader.ErrUnavailable, err)
		}
		if err := o.t.opts.Clock.Sleep(ctx, max(waits.NextBackOff(), min(asked, mostWait))); err != nil {
			return nil, err
		}
	}
}

// more reads what p lacks of a range.
func (o *Object) more(ctx context.Context, p []byte, from int64) ([]byte, error) {
	at := from + int64(len(p))
	body, err := o.t.getIf(ctx, o.key, at, int64(cap(p)-len(p)), o.etag)
	var refused *Error
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusPreconditionFailed:
		return p, &car.SourceChangedError{Name: o.Name(), Offset: at, Reason: "it was replaced by another object"}
	case errors.Is(err, uploader.ErrNotFound):
		return p, &car.SourceChangedError{Name: o.Name(), Offset: at, Reason: "it is gone"}
	case errors.As(err, &refused) && refused.Status == http.StatusRequestedRangeNotSatisfiable:
		return p, &car.SourceChangedError{Name: o.Name(), Offset: at, Reason: "it ends there"}
	case err != nil:
		return p, fmt.Errorf("%s: %w", o.Name(), err)
	}
	defer body.Close()
	n, err := io.ReadFull(body, p[len(p):cap(p)])
	p = p[:len(p)+n]
	if err != nil {
		err = fmt.Errorf("%s: %w", o.Name(), bulk.BrokenReply(err))
	}
	return p, err
}

// Below returns the path of the object below a prefix. isFile is false if the
// object stands for a directory, or has no name below the prefix.
func (o *Object) Below(prefix string) (path string, isFile bool) {
	path = strings.TrimPrefix(o.key, prefix)
	return strings.TrimSuffix(path, "/"), path != "" && !strings.HasSuffix(path, "/")
}

var (
	_ car.Source     = (*Object)(nil)
	_ car.SourceFile = (*objectFile)(nil)
)
