package bucket_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/exchange/offline"
	"github.com/ipfs/boxo/ipld/merkledag"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/sync"
	"github.com/ipld/go-car/v2"
	"go.uber.org/goleak"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/bucket"
	"github.com/carload/carload/uploader/targettest"
	"github.com/carload/carload/uploader/uploadertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// file makes a file of random bytes.
func file(tb testing.TB, n int) (path string, data []byte) {
	tb.Helper()
	data = make([]byte, n)
	_, _ = rand.Read(data)
	path = filepath.Join(tb.TempDir(), "film.bin")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path, data
}

func open(tb testing.TB, s *targettest.S3, at, secret string, change ...func(*bucket.Options)) *bucket.Target {
	tb.Helper()
	opts := bucket.Options{
		Config: aws.Config{Region: "us-east-1", BaseEndpoint: &at, Credentials: credentials.NewStaticCredentialsProvider(s.Access, secret, "")},
		Bucket: s.Bucket, Prefix: "my/films",
	}
	for _, f := range change {
		f(&opts)
	}
	target, err := bucket.New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = target.Close() })
	return target
}

// upload uploads a file in shards of 1.5 MB.
func upload(ctx context.Context, tb testing.TB, target uploader.Target, path string, opts uploader.Options) (uploader.Result, error) {
	tb.Helper()
	if opts.MaxShardBytes == 0 {
		opts.MaxShardBytes = 1_500_000
	}
	u, err := uploader.New(target, opts)
	if err != nil {
		tb.Fatal(err)
	}
	in, err := uploader.File(path, chunker.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	for r, err := range u.Upload(ctx, slices.Values([]uploader.Input{in})) {
		return r, err
	}
	tb.Fatal("no result")
	return uploader.Result{}, nil
}

// TestTarget runs the tests that every target must pass.
func TestTarget(t *testing.T) {
	t.Parallel()
	s := targettest.StartS3(t)
	client := func(secret string) func(testing.TB, string) uploader.Target {
		return func(tb testing.TB, url string) uploader.Target { return open(tb, s, url, secret) }
	}
	targettest.Run(t, targettest.Subject{
		URL: s.URL, Open: client(s.Secret), Stranger: client("another"),
		Kind: func(r *http.Request) uploadertest.Op {
			switch {
			case r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".car"):
				return uploadertest.Upload
			case r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, ".json"):
				return uploadertest.Commit
			}
			return uploadertest.Other
		},
		Read: func(tb testing.TB, root cid.Cid) []byte {
			return restore(tb, filepath.Join(s.Dir, "my", "films", root.String()), root)
		},
	})
}

// restore reads the file from shards with go-car's and boxo's code.
func restore(tb testing.TB, dir string, root cid.Cid) []byte {
	tb.Helper()
	blocks := blockstore.NewBlockstore(sync.MutexWrap(datastore.NewMapDatastore()))
	shards, err := filepath.Glob(filepath.Join(dir, "*.car"))
	if err != nil || len(shards) == 0 {
		tb.Fatal(shards, err)
	}
	for _, name := range shards {
		p, err := os.ReadFile(name)
		if err != nil {
			tb.Fatal(err)
		}
		r, err := car.NewBlockReader(bytes.NewReader(p))
		if err != nil {
			tb.Fatal(err)
		}
		for {
			b, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				tb.Fatal(err)
			}
			if err := blocks.Put(tb.Context(), b); err != nil {
				tb.Fatal(err)
			}
		}
	}
	dag := merkledag.NewDAGService(blockservice.New(blocks, offline.Exchange(blocks)))
	node, err := dag.Get(tb.Context(), root)
	if err != nil {
		tb.Fatal(err)
	}
	file, err := uio.NewDagReader(tb.Context(), node, dag)
	if err != nil {
		tb.Fatal(err)
	}
	defer file.Close()
	data, err := io.ReadAll(file)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// TestUpload sends a file to a real server, and checks the files there.
func TestUpload(t *testing.T) {
	t.Parallel()
	s := targettest.StartS3(t)
	path, data := file(t, 5_000_000)
	target := open(t, s, s.URL, s.Secret)
	r, err := upload(t.Context(), t, target, path, uploader.Options{Verify: uploader.VerifyFull})
	if err != nil {
		t.Fatal(err)
	}
	if r.Shards < 4 || r.Sent < int64(len(data)) {
		t.Errorf("%+v", r)
	}
	status, err := target.Status(t.Context(), r.Root)
	if err != nil || status.State != uploader.StatePinned || len(status.Parts) != r.Shards {
		t.Errorf("%+v, %v", status, err)
	}
	// The server's files are the archives with the CIDs in the receipts.
	shards, err := filepath.Glob(filepath.Join(s.Dir, "my", "films", r.Root.String(), "*.car"))
	if err != nil || len(shards) != r.Shards {
		t.Fatalf("%v, %v", shards, err)
	}
	for i, name := range shards {
		p, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(p)
		if !bytes.HasSuffix(status.Parts[i].Hash(), sum[:]) {
			t.Errorf("%s is not %s", name, status.Parts[i])
		}
	}
	// Again, without a ledger.
	r, err = upload(t.Context(), t, target, path, uploader.Options{})
	if err != nil || r.Sent != 0 || r.Held != r.Shards {
		t.Errorf("again: %+v, %v", r, err)
	}
	// Without the manifest the upload is not complete, but nothing else is
	// missing.
	if err := os.Remove(filepath.Join(s.Dir, "my", "films", r.Root.String()+".json")); err != nil {
		t.Fatal(err)
	}
	if status, err := target.Status(t.Context(), r.Root); err != nil || status.State != uploader.StatePinning || len(status.Parts) != r.Shards {
		t.Errorf("without a manifest: %+v, %v", status, err)
	}
	r, err = upload(t.Context(), t, target, path, uploader.Options{})
	if err != nil || r.Sent != 0 || r.Held != r.Shards {
		t.Errorf("without a manifest: %+v, %v", r, err)
	}
	var listed []uploader.Held
	for h, err := range target.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		listed = append(listed, h)
	}
	if len(listed) != 1 || !listed[0].Root.Equals(r.Root) || listed[0].Name != "film.bin" || listed[0].Created.IsZero() || len(listed[0].Parts) != r.Shards {
		t.Errorf("listed: %+v", listed)
	}
	if err := target.Delete(t.Context(), r.Root); err != nil {
		t.Error(err)
	}
	if err := target.Delete(t.Context(), r.Root); !errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("deleted again: %v", err)
	}
	left := 0
	_ = filepath.WalkDir(s.Dir, func(_ string, d fs.DirEntry, _ error) error {
		if d != nil && d.Type().IsRegular() {
			left++
		}
		return nil
	})
	if left > 0 {
		t.Errorf("%d files are left", left)
	}
}

// TestDamage changes, truncates and removes objects behind the server's back.
func TestDamage(t *testing.T) {
	t.Parallel()
	s := targettest.StartS3(t)
	path, _ := file(t, 5_000_000)
	ledger := new(uploader.MemoryLedger)
	r, err := upload(t.Context(), t, open(t, s, s.URL, s.Secret), path, uploader.Options{Ledger: ledger})
	if err != nil {
		t.Fatal(err)
	}
	shards, err := filepath.Glob(filepath.Join(s.Dir, "my", "films", r.Root.String(), "*.car"))
	if err != nil || len(shards) < 3 {
		t.Fatal(shards, err)
	}
	for name, spoil := range map[string]func() error{
		"a byte": func() error {
			f, err := os.OpenFile(shards[1], os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("?!"), 1_000_000)
			return err
		},
		"cut":  func() error { return os.Truncate(shards[1], 1000) },
		"gone": func() error { return os.Remove(shards[2]) },
		"the index": func() error {
			return errors.Join(os.Remove(shards[0]+".idx"), os.WriteFile(shards[1]+".idx", []byte("nonsense"), 0o600))
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		u, err := uploader.New(open(t, s, s.URL, s.Secret), uploader.Options{Verify: uploader.VerifyFull, Ledger: ledger, Retries: -1, VerifyTimeout: 1})
		if err != nil {
			t.Fatal(err)
		}
		_, err = u.Verify(t.Context(), r.Root)
		if name != "the index" && !errors.Is(err, uploader.ErrIncomplete) {
			t.Errorf("%s: verify says %v", name, err)
		}
		again, err := upload(t.Context(), t, open(t, s, s.URL, s.Secret), path, uploader.Options{Verify: uploader.VerifyFull, Ledger: ledger})
		if name != "the index" && (err != nil || again.Sent == 0 || again.Sent > 2_100_000) {
			t.Errorf("%s: mended by %d bytes, %v", name, again.Sent, err)
		}
	}
}

// TestStorages uses storages that handle digests in different ways.
func TestStorages(t *testing.T) {
	t.Parallel()
	s := targettest.StartS3(t)
	to, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	path, data := file(t, 3_000_000)
	for _, test := range []struct {
		name   string
		change func(*http.Response) error
		refuse func(*http.Request) bool
		header bool // sent in the header
	}{
		{name: "knows trailers"},
		{name: "no trailers", header: true, refuse: func(r *http.Request) bool { return r.Header.Get("X-Amz-Trailer") != "" }},
		{name: "keeps no digests", header: true, change: func(r *http.Response) error { r.Header.Del("X-Amz-Checksum-Sha256"); return nil }},
	} {
		t.Run(test.name, func(t *testing.T) {
			var trailers, headers int
			proxy := &httputil.ReverseProxy{
				Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
				ModifyResponse: test.change, Transport: &http.Transport{DisableKeepAlives: true},
			}
			front := uploadertest.NewServer(t, uploadertest.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, ".car") && r.Method == http.MethodPut {
					switch {
					case r.Header.Get("X-Amz-Trailer") != "":
						trailers++
					case r.Header.Get("X-Amz-Checksum-Sha256") != "":
						headers++
					}
				}
				if test.refuse != nil && test.refuse(r) {
					_, _ = io.Copy(io.Discard, r.Body)
					http.Error(w, "<Error><Code>NotImplemented</Code></Error>", http.StatusNotImplemented)
					return
				}
				proxy.ServeHTTP(w, r)
			})})
			target := open(t, s, front.URL, s.Secret, func(o *bucket.Options) { o.Prefix = test.name })
			r, err := upload(t.Context(), t, target, path, uploader.Options{Verify: uploader.VerifySample, Transfers: 1})
			if err != nil || r.Sent < int64(len(data)) {
				t.Fatalf("%+v, %v", r, err)
			}
			if test.header != (headers == r.Shards) || trailers == 0 || !test.header && trailers != r.Shards {
				t.Errorf("of %d shards, %d with trailers and %d with headers", r.Shards, trailers, headers)
			}
		})
	}
}

// TestStaleList: listings of a storage lag behind, so single objects are looked
// up.
func TestStaleList(t *testing.T) {
	t.Parallel()
	s := targettest.StartS3(t)
	forward, lists := uploadertest.Forward(t, s.URL), 0
	front := uploadertest.NewServer(t, uploadertest.Options{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("list-type") == "2" {
			lists++
			w.Header().Set("Content-Type", "application/xml")
			_, _ = io.WriteString(w, `<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>`)
			return
		}
		forward.ServeHTTP(w, r)
	})})
	path, _ := file(t, 5_000_000)
	ledger := new(uploader.MemoryLedger)
	for _, again := range []bool{false, true} {
		r, err := upload(t.Context(), t, open(t, s, front.URL, s.Secret), path, uploader.Options{Ledger: ledger, Verify: uploader.VerifyFull, Transfers: 1})
		if err != nil || again != (r.Sent == 0) {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if lists == 0 {
		t.Error("nothing was listed")
	}
}

// TestNobodyListens: a storage that cannot be reached has not refused anything,
// and may be back soon.
func TestNobodyListens(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	target := open(t, &targettest.S3{Access: "someone", Bucket: "shards"}, at, "s3cret")
	root := cid.MustParse("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
	_, status := target.Status(t.Context(), root)
	_, block := target.FetchBlock(t.Context(), root, 1<<20)
	for what, err := range map[string]error{"status": status, "block": block, "delete": target.Delete(t.Context(), root)} {
		var network *net.OpError
		if again, _ := uploader.Retryable(err); !again || !errors.As(err, &network) || strings.Contains(err.Error(), "answered") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestRefusals distinguishes the storage's errors.
func TestRefusals(t *testing.T) {
	t.Parallel()
	s := targettest.StartS3(t)
	root := cid.MustParse("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
	if _, err := open(t, s, s.URL, s.Secret).Status(t.Context(), root); !errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("an unknown root: %v", err)
	}
	if _, err := open(t, s, s.URL, "wrong-secret").Status(t.Context(), root); !errors.Is(err, uploader.ErrUnauthorized) || strings.Contains(err.Error(), "wrong-secret") {
		t.Errorf("a wrong secret: %v", err)
	}
	unknown := func(o *bucket.Options) {
		o.Config.Credentials = credentials.NewStaticCredentialsProvider("nobody", s.Secret, "")
	}
	for _, err := range open(t, s, s.URL, s.Secret, unknown).List(t.Context()) {
		if !errors.Is(err, uploader.ErrUnauthorized) || errors.Is(err, uploader.ErrNotFound) {
			t.Errorf("an unknown key: %v", err)
		}
	}
	path, _ := file(t, 1000)
	if _, err := upload(t.Context(), t, open(t, s, s.URL, "wrong-secret"), path, uploader.Options{}); !errors.Is(err, uploader.ErrUnauthorized) || strings.Contains(err.Error(), "wrong-secret") {
		t.Errorf("an upload with a wrong secret: %v", err)
	}
	nowhere := func(o *bucket.Options) { o.Bucket = "nowhere" }
	if _, err := upload(t.Context(), t, open(t, s, s.URL, s.Secret, nowhere), path, uploader.Options{}); err == nil || !strings.Contains(err.Error(), "no such bucket") {
		t.Errorf("no bucket: %v", err)
	}
	if _, err := open(t, s, s.URL, s.Secret, nowhere).Status(t.Context(), root); err == nil || errors.Is(err, uploader.ErrNotFound) {
		t.Errorf("a root in no bucket: %v", err)
	}
}
