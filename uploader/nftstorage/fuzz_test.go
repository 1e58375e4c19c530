package nftstorage_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
)

// answer is a transport that gives every request the same reply.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: a.status, Header: a.header, Request: req, ProtoMajor: 1, ProtoMinor: 1,
		ContentLength: int64(len(a.body)), Body: io.NopCloser(bytes.NewReader(a.body)),
	}, nil
}

// FuzzReply feeds arbitrary replies to the API client. Errors can be printed,
// do not contain the token, and do not ask for endless waits, and results make
// sense.
func FuzzReply(f *testing.F) {
	const good = `{"ok":true,"value":{"cid":"bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi","parts":["bagbaieraaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],"pin":{"status":"pinned"}}}`
	f.Add(200, "application/json", "", []byte(good))
	f.Add(200, "text/html", "", []byte("<html>"))
	f.Add(429, "application/json", "31536000", []byte(`{"ok":false,"error":{"code":"X","message":"\u001b[2J`+secret+`"}}`))
	f.Add(503, "", "Fri, 31 Dec 9999 23:59:59 GMT", []byte(`{"error":{"reason":"R","details":"D"}}`))
	f.Add(200, "application/json", "", []byte(`{"ok":true,"value":[1]}`))
	f.Add(200, "application/json", "", []byte(`{"ok":true,"value":{"cid":1,"parts":["x"],"pin":null}}`))
	f.Add(407, "", "-1", []byte(nil))
	token, err := nftstorage.NewToken(secret)
	if err != nil {
		f.Fatal(err)
	}
	root := cid.MustParse("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
	f.Fuzz(func(t *testing.T, status int, kind, retryAfter string, body []byte) {
		if status < 200 || status > 599 || status/100 == 3 {
			return // the transport's, or http.Client's
		}
		header := http.Header{"Content-Type": {kind}, "Retry-After": {retryAfter}}
		target, err := nftstorage.New(nftstorage.Options{Endpoint: "https://api.example.org", Token: token, Transport: answer{status, header, body}})
		if err != nil {
			t.Fatal(err)
		}
		reply, err := target.Status(t.Context(), root)
		block, berr := target.FetchBlock(t.Context(), root, 100)
		for _, err := range []error{err, berr} {
			if err == nil {
				continue
			}
			if s := err.Error(); strings.Contains(s, secret) || strings.ContainsFunc(s, unicode.IsControl) || len(s) > 4<<10 {
				t.Errorf("error %q", s)
			}
			if _, wait := uploader.Retryable(err); wait < 0 {
				t.Errorf("a wait of %s for %v", wait, err)
			}
			if errors.Is(err, uploader.ErrUnauthorized) != (status == 401 || status == 403 && !errors.Is(err, uploader.ErrQuotaExceeded)) || errors.Is(err, uploader.ErrNotFound) != (status == 404) {
				t.Errorf("status %d is %v", status, err)
			}
		}
		if err == nil && status/100 != 2 || berr == nil && (status != 200 || !bytes.Equal(block, body)) {
			t.Errorf("status %d is %+v and a block of %d bytes", status, reply, len(block))
		}
		for _, c := range reply.Parts {
			if err == nil && !c.Defined() {
				t.Error("a part that is no CID")
			}
		}
	})
}
