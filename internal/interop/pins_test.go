package interop_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	pins "github.com/ipfs/boxo/pinning/remote/client"
	"github.com/ipfs/go-cid"
)

// TestPinningClient uses the service through boxo's client for the pinning API.
func TestPinningClient(t *testing.T) {
	const count = 25
	s := newServer(t)
	var held []cid.Cid
	for i := range count + 1 {
		var u upload
		s.call(t, http.MethodPost, "/upload", "text/plain", strings.NewReader(fmt.Sprint("content ", i)), &u)
		c, err := cid.Decode(u.CID)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}

	ctx := t.Context()
	client := pins.NewClient(s.URL, s.keyOf(ctx, t, "pinner"))
	ids := map[cid.Cid]string{}
	for i, c := range held[:count] {
		pin, err := client.Add(ctx, c, pins.PinOpts.WithName(fmt.Sprint("pin ", i)), pins.PinOpts.AddMeta(map[string]string{"number": fmt.Sprint(i)}))
		if err != nil {
			t.Fatalf("add: %v", err)
		}
		ids[c] = pin.GetRequestId()
	}

	for i, c := range held[:count] {
		pin, err := client.GetStatusByID(ctx, ids[c])
		if err != nil {
			t.Fatalf("get: %v", err)
		}
		if got := pin.GetPin(); !got.GetCid().Equals(c) || got.GetName() != fmt.Sprint("pin ", i) || got.GetMeta()["number"] != fmt.Sprint(i) {
			t.Errorf("pin %d is %v", i, pin)
		}
		if pin.GetStatus() != pins.StatusPinned || pin.GetRequestId() != ids[c] {
			t.Errorf("pin %d is %s under the id %s, expected pinned under %s", i, pin.GetStatus(), pin.GetRequestId(), ids[c])
		}
	}

	list := func(t *testing.T, opts ...pins.LsOption) []cid.Cid {
		t.Helper()
		listed, err := client.LsSync(ctx, opts...)
		if err != nil {
			t.Fatalf("list: %v", err)
		}
		var cids []cid.Cid
		for _, pin := range listed {
			cids = append(cids, pin.GetPin().GetCid())
		}
		return cids
	}
	t.Run("list", func(t *testing.T) {
		for _, limit := range []int{1, 7, 10, count, 1000} {
			listed := list(t, pins.PinOpts.Limit(limit))
			if len(listed) != count {
				t.Errorf("%d pins in pages of %d, expected %d", len(listed), limit, count)
			}
			for i, c := range listed {
				if !c.Equals(held[count-1-i]) { // newest first
					t.Errorf("pages of %d: pin %d is %s, expected %s", limit, i, c, held[count-1-i])
				}
			}
		}
		for name, opt := range map[string]pins.LsOption{
			"cid":  pins.PinOpts.FilterCIDs(held[3], held[5]),
			"name": pins.PinOpts.FilterName("pin 3"),
		} {
			if listed := list(t, opt); len(listed) == 0 || !listed[len(listed)-1].Equals(held[3]) {
				t.Errorf("listed by %s: %v", name, listed)
			}
		}
		if listed := list(t, pins.PinOpts.FilterStatus(pins.StatusFailed)); len(listed) != 0 {
			t.Errorf("listed as failed: %v", listed)
		}
	})
	t.Run("not held", func(t *testing.T) {
		missing := cid.MustParse("bafkreifzjut3te7nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e")
		pin, err := client.Add(ctx, missing)
		if err != nil {
			t.Fatal(err)
		}
		if pin.GetStatus() == pins.StatusPinned {
			t.Error("a pin of what is not held is pinned")
		}
		if err := client.DeleteByID(ctx, pin.GetRequestId()); err != nil {
			t.Error(err)
		}
	})
	t.Run("replace", func(t *testing.T) {
		pin, err := client.Replace(ctx, ids[held[0]], held[count], pins.PinOpts.WithName("other"))
		if err != nil {
			t.Fatal(err)
		}
		if got := pin.GetPin(); !got.GetCid().Equals(held[count]) || got.GetName() != "other" {
			t.Errorf("replaced by %v", pin)
		}
		if _, err := client.GetStatusByID(ctx, ids[held[0]]); err == nil {
			t.Error("what was replaced is still there")
		}
	})
	t.Run("delete", func(t *testing.T) {
		if err := client.DeleteByID(ctx, ids[held[1]]); err != nil {
			t.Fatal(err)
		}
		if _, err := client.GetStatusByID(ctx, ids[held[1]]); err == nil {
			t.Error("what was deleted is still there")
		}
		if got := len(list(t, pins.PinOpts.Limit(100))); got != count-1 {
			t.Errorf("%d pins are left, expected %d", got, count-1)
		}
	})
	t.Run("bad token", func(t *testing.T) {
		if _, err := pins.NewClient(s.URL, "nonsense").LsSync(context.WithoutCancel(ctx)); err == nil {
			t.Error("a bad token was taken")
		}
	})
}
