package kubo_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/kubo"
)

// FuzzReply feeds arbitrary replies to the RPC client. Errors can be printed
// and do not contain the secret, and results make sense.
func FuzzReply(f *testing.F) {
	const secret = "not-for-eyes"
	f.Add(200, "", []byte(`{"UniqueBlocks":6,"TotalSize":5000259}`+"\n"))
	f.Add(200, "error traversing DAG: block was not found locally (offline): ipld: could not find bafkqaaa", []byte("{}\n"))
	f.Add(200, "", []byte(`{"Keys":{"bafkqaaa":{"Type":"recursive"}}}`))
	f.Add(200, "", []byte(`{"Pins":["bafkqaaa"]}`+"\n"+`{"Message":"x","Type":"error"}`))
	f.Add(500, "", []byte(`{"Message":"ipld: could not find zzz \u001b[2J `+secret+`","Code":0,"Type":"error"}`))
	f.Add(403, "", []byte(secret))
	f.Add(500, secret, []byte(`{"Message":"path is not pinned"}`))
	var mu sync.Mutex
	var status int
	var trailer string
	var body []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		defer mu.Unlock()
		if trailer != "" {
			w.Header().Set("Trailer", "X-Stream-Error")
		}
		w.WriteHeader(status)
		_, _ = w.Write(body)
		if trailer != "" {
			w.Header().Set("X-Stream-Error", trailer)
		}
	}))
	defer srv.Close()
	target, err := kubo.New(kubo.Options{Address: srv.URL, Auth: secret, Files: "/x/"})
	if err != nil {
		f.Fatal(err)
	}
	defer target.Close()
	root := cid.MustParse("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
	f.Fuzz(func(t *testing.T, s int, text string, b []byte) {
		if s < 200 || s > 599 || s/100 == 3 || s == 204 || s == 407 || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' }) {
			return // the transport's, or http.Client's
		}
		mu.Lock()
		status, trailer, body = s, strings.TrimSpace(text), b
		mu.Unlock()
		block, berr := target.FetchBlock(t.Context(), root, 100)
		reply, serr := target.Status(t.Context(), root)
		ferr := target.Finish(t.Context(), uploader.Upload{Root: root, Blocks: 6, BlockBytes: 5000259})
		var lerr error
		for h, err := range target.List(t.Context()) {
			if lerr = err; err == nil && !h.Root.Defined() {
				t.Error("a pin of nothing")
			}
		}
		for _, err := range []error{berr, serr, ferr, lerr, target.Delete(t.Context(), root)} {
			if err == nil {
				continue
			}
			if s := err.Error(); strings.Contains(s, secret) || strings.ContainsFunc(s, unicode.IsControl) || len(s) > 8<<10 {
				t.Errorf("error %q", s)
			}
			if errors.Is(err, uploader.ErrUnauthorized) != (s == 401 || s == 403) {
				t.Errorf("status %d is %v", s, err)
			}
		}
		if berr == nil && (s != 200 || trailer != "" || !bytes.Equal(block, b)) || serr == nil && s != 200 || ferr == nil && (s != 200 || trailer != "") {
			t.Errorf("status %d is %+v and a block of %d bytes", s, reply, len(block))
		}
	})
}
