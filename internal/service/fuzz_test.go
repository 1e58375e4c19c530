package service_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
)

// FuzzUploadCAR sends arbitrary bytes as a CAR. If it is accepted, it must be
// sound.
func FuzzUploadCAR(f *testing.F) {
	leaf := raw("leaf")
	node := pbNode("node", leaf.CID)
	f.Add(carOf(node, leaf))
	f.Add(wrapV2(carOf(node, leaf)))
	f.Add(carOf(cborNode("cbor", leaf.CID, node.CID), leaf))
	f.Add(carOf(blockOf(cid.DagJSON, []byte(`{"a":[{"/":"`+leaf.CID.String()+`"}]}`)), leaf))
	f.Add(carFile(nil))
	f.Add([]byte{0xff, 0xff, 0xff})
	s := newServer(f, options{})
	s.http.Client().Timeout = 20 * time.Second // no reply within this time is a finding
	f.Fuzz(func(t *testing.T, body []byte) {
		s := *s
		s.t = t
		a := s.putCAR(body)
		switch {
		case a.status == http.StatusOK:
			u := a.upload(t)
			if u.Pin.Status != "pinned" && u.Pin.Status != "pinning" {
				t.Errorf("status %q", u.Pin.Status)
			}
			if again := s.putCAR(body).upload(t); len(again.Parts) != len(u.Parts) {
				t.Errorf("the same shard twice: %d parts, then %d", len(u.Parts), len(again.Parts))
			}
		case a.status != http.StatusBadRequest && a.status != http.StatusInternalServerError:
			t.Errorf("%d %s", a.status, a.raw)
		case a.Error.Code == "ERROR_DB" || strings.Contains(a.Error.Message, "Internal"):
			t.Errorf("%d %s", a.status, a.raw)
		}
	})
}

// FuzzRequest sends arbitrary requests. There must be a reply, and no panic.
func FuzzRequest(f *testing.F) {
	for _, row := range [][3]string{
		{"GET", "/?limit=3&before=2021-01-01T00:00:00Z", ""},
		{"GET", "/check/bafkreidvbhs33ighmljlvr7zbv2ywwzcmp5adtf4kqvlly67cy56bdtmve", ""},
		{"POST", "/pins", `{"cid":"bafkreidvbhs33ighmljlvr7zbv2ywwzcmp5adtf4kqvlly67cy56bdtmve","meta":{"a":1},"origins":["x"]}`},
		{"GET", "/pins?name=x&match=ipartial&status=queued,failed&meta={}", ""},
		{"PATCH", "/upload/x", `{"name":"y"}`},
		{"POST", "/internal/tokens", `{"name":"t"}`},
		{"DELETE", "/internal/tokens", `{"id":7}`},
		{"GET", "/ipfs/bafkqaaa/x?format=car", ""},
		{"POST", "/upload", "blob"},
	} {
		f.Add(row[0], row[1], row[2], "")
	}
	f.Add("POST", "/store", "--x\r\nContent-Disposition: form-data; name=\"meta\"\r\n\r\n{\"a\":{}}\r\n--x--", "multipart/form-data; boundary=x")
	_, ask := asker(f)
	f.Fuzz(func(t *testing.T, method, path, body, mime string) {
		ask(t, method, path, body, http.Header{"Content-Type": {mime}})
	})
}

// FuzzForm sends arbitrary parts of a form.
func FuzzForm(f *testing.F) {
	part := func(head, body string) string { return "--x\r\n" + head + "\r\n\r\n" + body + "\r\n" }
	f.Add("/upload", part(`Content-Disposition: form-data; name="file"; filename="a/b.txt"`, "content")+
		part(`Content-Disposition: form-data; name="file"; filename="a/../b"`, "content")+"--x--")
	f.Add("/upload", part(`Content-Disposition: form-data; name="file"; filename="%E4"`, "")+part(`Content-Disposition: form-data; name="file"; filename="%E4"`, "")+"--x--")
	f.Add("/store", part(`Content-Disposition: form-data; name="meta"`, `{"name":"n","image":null,"properties":{"a":{"b":null}}}`)+
		part(`Content-Disposition: form-data; name="image"; filename="i.png"`, "png")+
		part(`Content-Disposition: form-data; name="properties.a.b"; filename="b"`, "b")+"--x--")
	_, ask := asker(f)
	f.Fuzz(func(t *testing.T, path, body string) {
		ask(t, http.MethodPost, path, body, http.Header{"Content-Type": {"multipart/form-data; boundary=x"}})
	})
}

// FuzzPins sends arbitrary requests to the pinning API.
func FuzzPins(f *testing.F) {
	const c = "bafkreidvbhs33ighmljlvr7zbv2ywwzcmp5adtf4kqvlly67cy56bdtmve"
	f.Add("POST", "", `{"cid":"`+c+`","name":"n","meta":{"a":"b"},"origins":["/ip4/127.0.0.1/tcp/1/p2p/x"]}`)
	f.Add("GET", "?cid="+c+"&name=n&match=partial&status=pinned,queued&before=2030-01-01T00:00:00Z&limit=2&meta={\"a\":\"b\"}", "")
	f.Add("GET", "/"+c, "")
	f.Add("POST", "/"+c, `{"cid":"`+c+`"}`)
	f.Add("DELETE", "/"+c, "")
	_, ask := asker(f)
	f.Fuzz(func(t *testing.T, method, rest, body string) {
		ask(t, method, "/pins"+rest, body, http.Header{"Content-Type": {"application/json"}})
	})
}

// FuzzGateway sends arbitrary requests to the gateway.
func FuzzGateway(f *testing.F) {
	s, ask := asker(f)
	root := s.do(http.MethodPost, "/upload", []byte("--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a/b.txt\"\r\n\r\ncontent\r\n--x--"),
		"Content-Type", "multipart/form-data; boundary=x").upload(f).CID
	f.Add(root+"/a/b.txt", "", "bytes=1-3")
	f.Add(root+"?format=car&dag-scope=entity&entity-bytes=0:-1", "", "")
	f.Add(root+"/a?format=raw", "", "")
	f.Add(root, "application/vnd.ipld.car; version=1; order=dfs; dups=n", "")
	f.Add(root+"/a", "application/vnd.ipld.dag-json", "bytes=-2,5-")
	f.Fuzz(func(t *testing.T, rest, accept, span string) {
		ask(t, http.MethodGet, "/ipfs/"+rest, "", http.Header{"Accept": {accept}, "Range": {span}})
	})
}

// asker starts a service. It returns a function that sends one request and
// checks the reply: there must be one, and it must not be an internal error.
func asker(f *testing.F) (*server, func(t *testing.T, method, path, body string, header http.Header)) {
	s := newServer(f, options{})
	handler := s.svc.Handler()
	return s, func(t *testing.T, method, path, body string, header http.Header) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		req.RequestURI = path
		req.Header = header
		req.Header.Set("Authorization", "Bearer "+s.token)
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, req)
		if rec.Code == http.StatusInternalServerError && strings.Contains(rec.Body.String(), "Internal error") {
			t.Errorf("%s %s: %s", method, path, rec.Body)
		}
	}
}
