package service_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/service"
)

// FuzzUploadCAR sends anything as a CAR: what is accepted must be sound.
func FuzzUploadCAR(f *testing.F) {
	leaf := raw("leaf")
	node := pbNode("node", leaf.c)
	f.Add(carOf(node, leaf))
	f.Add(wrapV2(carOf(node, leaf)))
	f.Add(carOf(cborNode("cbor", leaf.c, node.c), leaf))
	f.Add(carOf(blockOf(cid.DagJSON, []byte(`{"a":[{"/":"`+leaf.c.String()+`"}]}`)), leaf))
	f.Add(carFile(nil))
	f.Add([]byte{0xff, 0xff, 0xff})
	s := newServer(f, service.Options{})
	s.http.Client().Timeout = 20 * time.Second // an answer, or a finding
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

// FuzzRequest sends anything anywhere: there must be an answer, and no panic.
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
	s := newServer(f, service.Options{})
	handler := s.svc.Handler()
	f.Fuzz(func(t *testing.T, method, path, body, mime string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://x"+path, strings.NewReader(body))
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		req.RequestURI = path
		req.Header.Set("Authorization", "Bearer "+s.token)
		req.Header.Set("Content-Type", mime)
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, req)
		if rec.Code == http.StatusInternalServerError && strings.Contains(rec.Body.String(), "Internal error") {
			t.Errorf("%s %s: %s", method, path, rec.Body)
		}
	})
}
