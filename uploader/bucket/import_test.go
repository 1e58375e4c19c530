package bucket_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	carv2 "github.com/ipld/go-car/v2"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/bucket"
	"github.com/carload/carload/uploader/targettest"
	"github.com/carload/carload/uploader/uploadertest"
)

// TestImport sends to a stand-in for a storage that imports CARs: a real S3
// server, with objects that ask for it getting the CID that go-car reads from
// them.
func TestImport(t *testing.T) {
	t.Parallel()
	s := targettest.StartS3(t)
	to, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	other := cid.MustParse("bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4")
	path, data := file(t, 3_000_000)
	for name, test := range map[string]struct {
		made  func(root cid.Cid) string // the CID that it reports
		limit int64
		want  error
		says  string
	}{
		"imports":           {made: func(c cid.Cid) string { return c.String() }},
		"imports another":   {made: func(cid.Cid) string { return other.String() }, want: uploader.ErrRootMismatch},
		"imports nothing":   {made: func(cid.Cid) string { return "" }, says: "it does not import CARs"},
		"in several shards": {limit: 1_200_000, want: uploader.ErrLimit, says: "a DAG has to fit into one archive of 1200000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			prefix := strings.ReplaceAll(name, " ", "-")
			proxy := &httputil.ReverseProxy{
				Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to); r.Out.Host = r.In.Host },
				Transport: &http.Transport{DisableKeepAlives: true},
				ModifyResponse: func(r *http.Response) error {
					if r.Request.Method != http.MethodHead || r.Header.Get("X-Amz-Meta-Import") != "car" {
						return nil
					}
					p, err := os.ReadFile(filepath.Join(s.Dir, filepath.FromSlash(strings.TrimPrefix(r.Request.URL.Path, "/"+s.Bucket+"/"))))
					if err != nil {
						return err
					}
					archive, err := carv2.NewBlockReader(bytes.NewReader(p))
					if err != nil {
						return err
					}
					r.Header.Set("X-Amz-Meta-Cid", test.made(archive.Roots[0]))
					return nil
				},
			}
			front := uploadertest.NewServer(t, uploadertest.Options{Handler: proxy, Kind: func(r *http.Request) uploadertest.Op {
				if r.Method == http.MethodPut {
					return uploadertest.Upload
				}
				return uploadertest.Other
			}})
			target := open(t, s, front.URL, s.Secret, func(o *bucket.Options) { o.Prefix, o.Import = prefix, true })
			opts := uploader.Options{MaxShardBytes: test.limit}
			if test.limit == 0 {
				opts.MaxShardBytes = target.Limits().ShardBytes
			}
			r, err := upload(t.Context(), t, target, path, opts)
			if test.says == "" && test.want == nil {
				if err != nil {
					t.Fatal(err)
				}
			} else {
				if err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
					t.Fatalf("%+v, %v", r, err)
				}
				if status, _ := target.Status(t.Context(), r.Root); status.State == uploader.StatePinned {
					t.Errorf("it is called complete: %+v", status)
				}
				if sent := front.Count(uploadertest.Upload).Requests; (sent > 0) != (test.limit == 0) {
					t.Errorf("%d objects were sent", sent)
				}
				return
			}
			if r.Shards != 1 || r.Sent < int64(len(data)) {
				t.Errorf("%+v", r)
			}
			if got := restore(t, filepath.Join(s.Dir, prefix, r.Root.String()), r.Root); !bytes.Equal(got, data) {
				t.Errorf("%d other bytes came back", len(got))
			}
		})
	}
}
