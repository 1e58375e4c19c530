package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	client "github.com/ipfs/boxo/pinning/remote/client"
	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
)

// boxo's pinning client, which Kubo uses.
func TestPinsByBoxo(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	ctx := t.Context()
	c := client.NewClient(s.http.URL, s.token)
	var cids []cid.Cid
	for i := range 23 {
		b := raw(fmt.Sprintf("pinned %d", i))
		s.putCAR(carOf(b)).upload(t)
		p, err := c.Add(ctx, b.CID, client.PinOpts.WithName(fmt.Sprintf("name %d", i)), client.PinOpts.AddMeta(map[string]string{"k": "v"}))
		if err != nil {
			t.Fatal(err)
		}
		if p.GetStatus() != client.StatusPinned || p.GetRequestId() != b.CID.String() || p.GetPin().GetMeta()["k"] != "v" {
			t.Fatalf("%v", p)
		}
		cids = append(cids, b.CID)
	}
	all, err := c.LsSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, p := range all {
		seen[p.GetPin().GetCid().String()] = true
	}
	if len(all) != 23 || len(seen) != 23 {
		t.Fatalf("listed %d, %d of them distinct", len(all), len(seen))
	}
	named, err := c.LsSync(ctx, client.PinOpts.FilterName("name 7"), client.PinOpts.FilterCIDs(cids[7], cids[8]))
	if err != nil || len(named) != 1 || named[0].GetPin().GetName() != "name 7" {
		t.Fatalf("%v %v", named, err)
	}

	next := raw("replacement")
	s.putCAR(carOf(next)).upload(t)
	if _, err := c.Replace(ctx, cids[0].String(), next.CID); err != nil {
		t.Fatal(err)
	}
	if _, err := c.GetStatusByID(ctx, cids[0].String()); err == nil {
		t.Fatal("the replaced pin is still there")
	}
	got, err := c.GetStatusByID(ctx, next.CID.String())
	if err != nil || got.GetStatus() != client.StatusPinned {
		t.Fatalf("%v %v", got, err)
	}
	if err := c.DeleteByID(ctx, next.CID.String()); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteByID(ctx, next.CID.String()); err == nil {
		t.Fatal("deleted twice")
	}
}

func TestPinErrors(t *testing.T) {
	t.Parallel()
	s := newServer(t, options{})
	b := raw("x")
	s.putCAR(carOf(b)).upload(t)
	id := b.CID.String()
	absent := raw("absent").CID.String()
	for _, row := range []struct {
		name, method, path, body string
		status                   int
		want                     string
	}{
		{"no CID", "POST", "/pins", `{}`, 400, `{"error":{"reason":"INVALID_PIN_DATA","details":"Invalid request id: undefined"}}`},
		{"bad CID", "POST", "/pins", `{"cid":"foo"}`, 400, `{"error":{"reason":"INVALID_PIN_DATA","details":"Invalid request id: foo"}}`},
		{"name no string", "POST", "/pins", `{"cid":"` + id + `","name":7}`, 400, `{"error":{"reason":"INVALID_PIN_DATA","details":"invalid name"}}`},
		{"meta a list", "POST", "/pins", `{"cid":"` + id + `","meta":[1]}`, 400, `{"error":{"reason":"INVALID_PIN_DATA","details":"invalid metadata"}}`},
		{"get bad id", "GET", "/pins/foo", "", 400, `{"error":{"reason":"ERROR_INVALID_REQUEST_ID","details":"Invalid request id: foo"}}`},
		{"get unknown", "GET", "/pins/" + absent, "", 404, `{"error":{"reason":"NOT_FOUND","details":"pin not found"}}`},
		{"replace unknown", "POST", "/pins/garbage", `{"cid":"` + id + `"}`, 404, `{"error":{"reason":"NOT_FOUND","details":"pin not found"}}`},
		{"replace by itself", "POST", "/pins/" + id, `{"cid":"` + id + `"}`, 400, `{"error":{"reason":"INVALID_PIN_DATA","details":"exiting and replacement CID are the same"}}`},
		{"delete bad id", "DELETE", "/pins/foo", "", 400, `{"error":{"reason":"ERROR_INVALID_REQUEST_ID","details":"Invalid request id: foo"}}`},
		{"delete unknown", "DELETE", "/pins/" + absent, "", 404, `{"error":{"reason":"The specified resource was not found"}}`},
		{"list bad CID", "GET", "/pins?cid=" + id + ",foo", "", 400, `{"error":{"reason":"INVALID_CID","details":"Invalid cid foo"}}`},
		{"list bad status", "GET", "/pins?status=done", "", 400, `{"error":{"reason":"VALIDATION_ERROR"`},
		{"list bad match", "GET", "/pins?match=like", "", 400, `{"error":{"reason":"VALIDATION_ERROR"`},
		{"list bad limit", "GET", "/pins?limit=0", "", 400, `{"error":{"reason":"VALIDATION_ERROR"`},
		{"list bad time", "GET", "/pins?before=now", "", 400, `{"error":{"reason":"VALIDATION_ERROR"`},
		{"list bad meta", "GET", "/pins?meta={", "", 400, `{"error":{"reason":"INVALID_META"`},
		{"list", "GET", "/pins", "", 200, `{"count":0,"results":[]}`},
		{"get an upload", "GET", "/pins/" + id, "", 200, `{"requestid":"` + id + `","status":"pinned"`},
		{"meta of other types", "POST", "/pins", `{"cid":"` + id + `","name":"a_b%","meta":{"s":"t","n":1}}`, 200, `{"requestid":"` + id + `","status":"pinned"`},
		{"partial", "GET", "/pins?name=_b&match=partial", "", 200, `{"count":1,`},
		{"ipartial", "GET", "/pins?name=A_B&match=ipartial", "", 200, `{"count":1,`},
		{"iexact", "GET", "/pins?name=A_B%25&match=iexact", "", 200, `{"count":1,`},
		{"no wildcards", "GET", "/pins?name=%25&match=iexact", "", 200, `{"count":0,`},
		{"exact", "GET", "/pins?name=A_b%25", "", 200, `{"count":0,`},
		{"unheld", "POST", "/pins", `{"cid":"` + absent + `"}`, 200, `{"requestid":"` + absent + `","status":"failed"`},
		{"by status", "GET", "/pins?status=failed,queued", "", 200, `{"count":1,`},
	} {
		a := s.do(row.method, row.path, []byte(row.body))
		if a.status != row.status || !strings.HasPrefix(string(a.raw), row.want) {
			t.Errorf("%s: got %d %s", row.name, a.status, a.raw)
		}
	}
	if a := s.do("DELETE", "/pins/"+id, nil); a.status != 202 || len(a.raw) != 0 {
		t.Errorf("delete: %d %q", a.status, a.raw)
	}
	a := s.do("GET", "/"+absent, nil)
	if u := a.upload(t); u.Type != "remote" || u.Pin.Status != "failed" {
		t.Errorf("%s", a.raw)
	}
	s.putCAR(carOf(raw("absent"))).upload(t)
	if got := s.status(raw("absent").CID); got != "pinned" {
		t.Errorf("after upload: %s", got)
	}
}

// waitFor polls until ok returns true, or until the test's time is up.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestPinFetches(t *testing.T) {
	t.Parallel()
	origin := newServer(t, options{})
	a, b, c := raw("a"), raw("b"), raw("c")
	inner := cborNode("inner", a.CID, b.CID)
	root := pbNode("root", inner.CID, c.CID, inner.CID)
	origin.putCAR(carOf(root, inner, a, b, c)).upload(t)

	var cars, blocks atomic.Int64
	for _, mode := range []string{"car", "blocks", "cut car", "lies"} {
		gw := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			format := r.URL.Query().Get("format")
			map[string]*atomic.Int64{"car": &cars, "raw": &blocks}[format].Add(1)
			switch {
			case mode == "lies" && format == "raw":
				fmt.Fprint(w, "not the block")
				return
			case format == "car" && mode == "cut car":
				rec := httptest.NewRecorder()
				origin.svc.Handler().ServeHTTP(rec, r)
				if _, err := w.Write(rec.Body.Bytes()[:rec.Body.Len()-20]); err != nil {
					t.Error(err)
				}
				return
			case format == "car" && mode != "car":
				http.Error(w, "no", http.StatusNotImplemented)
				return
			}
			origin.svc.Handler().ServeHTTP(w, r)
		}))
		dir := t.TempDir()
		s := newServer(t, options{Dir: dir, FetchFrom: []string{gw.URL}})
		add := s.do("POST", "/pins", []byte(`{"cid":"`+root.CID.String()+`"}`))
		var p struct{ Status string }
		if err := json.Unmarshal(add.raw, &p); err != nil {
			t.Fatal(err)
		}
		end := "pinned"
		if mode == "lies" {
			end = "failed"
		}
		waitFor(t, mode, func() bool { return s.status(root.CID) == end })
		got := s.do("GET", "/pins/"+root.CID.String(), nil)
		if mode == "lies" && !strings.Contains(string(got.raw), "status_details") {
			t.Errorf("no reason: %s", got.raw)
		}
		if end == "pinned" {
			for _, blk := range []block{root, inner, a, b, c} {
				if got := s.do("GET", "/ipfs/"+blk.CID.String()+"?format=raw", nil); string(got.raw) != string(blk.Data) {
					t.Errorf("%s: %d %q", mode, got.status, got.raw)
				}
			}
			if u := s.do("GET", "/"+root.CID.String(), nil).upload(t); len(u.Parts) == 0 || u.Type != "remote" {
				t.Errorf("%s: %+v", mode, u)
			}
		}
		gw.Close()
	}
	if cars.Load() == 0 || blocks.Load() == 0 {
		t.Errorf("%d CARs and %d blocks were asked for", cars.Load(), blocks.Load())
	}
	if _, err := openServer(t, options{FetchFrom: []string{"ftp://x"}, Dir: t.TempDir()}); err == nil || errors.Is(err, store.ErrLocked) {
		t.Errorf("bad gateway: %v", err)
	}
}
