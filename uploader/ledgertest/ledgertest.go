// Package ledgertest tests what every [uploader.Ledger] must do.
package ledgertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/car"
	"github.com/carload/carload/uploader"
)

// CID returns the n-th of many CIDs of archives.
func CID(n int) cid.Cid {
	var digest [32]byte
	copy(digest[:], fmt.Sprint(n))
	return car.CID(digest)
}

// Run tests ledgers. open returns an empty ledger, and a function that closes
// it and opens it again, as if the process had ended; the function is nil for
// ledgers that do not outlive their process.
func Run(t *testing.T, open func(t *testing.T) (l uploader.Ledger, reopen func() uploader.Ledger)) {
	t.Helper()
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, reopen := open(t)
			if reopen == nil {
				reopen = func() uploader.Ledger { return l }
			}
			test(t, l, reopen)
		})
	}
}

var key = uploader.UploadKey{Target: "https://api.example.org", Root: CID(1), MaxShardBytes: 100}

var tests = map[string]func(t *testing.T, l uploader.Ledger, reopen func() uploader.Ledger){
	"empty":        testEmpty,
	"receipts":     testReceipts,
	"keys":         testKeys,
	"forget":       testForget,
	"suspects":     testSuspects,
	"descriptions": testDescriptions,
	"concurrently": testConcurrently,
	"claims":       testClaims,
	"sources":      testSources,
}

func testEmpty(t *testing.T, l uploader.Ledger, _ func() uploader.Ledger) {
	wantReceipts(t, l, key, nil)
	wantSuspects(t, l, key, nil)
	if p, err := l.Description(t.Context(), "x"); p != nil || err != nil {
		t.Errorf("description %q, %v", p, err)
	}
	// Unknown uploads can be finished and forgotten.
	must(t, l.Finish(t.Context(), key, nil, uploader.Finished{}))
	must(t, l.Forget(t.Context(), key))
}

func testReceipts(t *testing.T, l uploader.Ledger, reopen func() uploader.Ledger) {
	want := map[int]cid.Cid{}
	for _, i := range []int{0, 7, 3, 334, 1 << 20} {
		want[i] = CID(i)
		must(t, l.Record(t.Context(), key, i, CID(i)))
		wantReceipts(t, l, key, want)
	}
	l = reopen()
	wantReceipts(t, l, key, want)
	want[7] = CID(8)
	must(t, l.Record(t.Context(), key, 7, CID(8)))
	must(t, l.Finish(t.Context(), key, nil, uploader.Finished{}))
	l = reopen()
	wantReceipts(t, l, key, want)
	want[7], want[9] = CID(7), CID(9)
	must(t, l.Finish(t.Context(), key, map[int]cid.Cid{7: CID(7), 9: CID(9)}, uploader.Finished{}))
	fresh := key
	fresh.Root = CID(2)
	must(t, l.Finish(t.Context(), fresh, map[int]cid.Cid{0: CID(4)}, uploader.Finished{}))
	l = reopen()
	wantReceipts(t, l, key, want)
	wantReceipts(t, l, fresh, map[int]cid.Cid{0: CID(4)})
}

func testKeys(t *testing.T, l uploader.Ledger, reopen func() uploader.Ledger) {
	keys := []uploader.UploadKey{key, key, key, key, key, key}
	keys[4].Base = CID(7)
	keys[5].Base = CID(8)
	keys[1].Target += "/"
	keys[2].Root = CID(2)
	keys[3].MaxShardBytes++
	for i, k := range keys {
		must(t, l.Record(t.Context(), k, i, CID(i)))
	}
	l = reopen()
	for i, k := range keys {
		wantReceipts(t, l, k, map[int]cid.Cid{i: CID(i)})
	}
	must(t, l.Forget(t.Context(), keys[2]))
	wantReceipts(t, l, keys[2], nil)
	wantReceipts(t, l, keys[3], map[int]cid.Cid{3: CID(3)})
}

func testForget(t *testing.T, l uploader.Ledger, reopen func() uploader.Ledger) {
	must(t, l.Record(t.Context(), key, 0, CID(0)))
	must(t, l.Suspect(t.Context(), key, []cid.Cid{CID(5)}))
	must(t, l.Forget(t.Context(), key))
	l = reopen()
	wantReceipts(t, l, key, nil)
	wantSuspects(t, l, key, []cid.Cid{CID(5)})
	must(t, l.Record(t.Context(), key, 1, CID(1)))
	wantReceipts(t, l, key, map[int]cid.Cid{1: CID(1)})
}

func testSuspects(t *testing.T, l uploader.Ledger, reopen func() uploader.Ledger) {
	must(t, l.Suspect(t.Context(), key, []cid.Cid{CID(1), CID(2)}))
	other := key
	other.MaxShardBytes, other.Base = 0, CID(9)
	wantSuspects(t, reopen(), other, []cid.Cid{CID(1), CID(2)})
	l = reopen()
	must(t, l.Suspect(t.Context(), other, []cid.Cid{CID(3)}))
	wantSuspects(t, l, key, []cid.Cid{CID(3)})
	must(t, l.Finish(t.Context(), key, nil, uploader.Finished{}))
	l = reopen()
	wantSuspects(t, l, key, nil)
	must(t, l.Suspect(t.Context(), key, []cid.Cid{CID(4)}))
	must(t, l.Suspect(t.Context(), key, nil))
	wantSuspects(t, l, key, nil)
}

func testDescriptions(t *testing.T, l uploader.Ledger, reopen func() uploader.Ledger) {
	descriptions := map[string][]byte{"a": []byte("plan"), "b": bytes.Repeat([]byte("0123456789abcdef"), 1<<14), strings.Repeat("long key", 500): {1}}
	for k, p := range descriptions {
		must(t, l.SaveDescription(t.Context(), k, p))
	}
	must(t, l.SaveDescription(t.Context(), "a", []byte("another")))
	descriptions["a"] = []byte("another")
	must(t, l.SaveDescription(t.Context(), "gone", []byte("plan")))
	must(t, l.SaveDescription(t.Context(), "gone", nil))
	must(t, l.SaveDescription(t.Context(), "never there", nil))
	l = reopen()
	for _, k := range []string{"gone", "never there"} {
		if p, err := l.Description(t.Context(), k); p != nil || err != nil {
			t.Errorf("description %q has %d bytes, %v", k, len(p), err)
		}
	}
	for k, want := range descriptions {
		if got, err := l.Description(t.Context(), k); err != nil || !bytes.Equal(got, want) {
			t.Errorf("description %.10q has %d bytes, %v; want %d", k, len(got), err, len(want))
		}
	}
}

func testConcurrently(t *testing.T, l uploader.Ledger, reopen func() uploader.Ledger) {
	const n = 64
	want := map[int]cid.Cid{}
	var g errgroup.Group
	for i := range n {
		want[i] = CID(i)
		g.Go(func() error {
			if err := l.Record(t.Context(), key, i, CID(i)); err != nil {
				return err
			}
			got, err := l.Receipts(t.Context(), key)
			if err == nil && got[i] != CID(i) {
				err = fmt.Errorf("receipt %d is not there after Record", i)
			}
			return err
		})
	}
	must(t, g.Wait())
	wantReceipts(t, reopen(), key, want)
}

func testSources(t *testing.T, l uploader.Ledger, reopen func() uploader.Ledger) {
	want := func(target, source string, want uploader.UploadKey) {
		t.Helper()
		if got, err := l.Last(t.Context(), target, source); err != nil || got != want {
			t.Errorf("the last of %q at %q is %+v, %v; want %+v", source, target, got, err, want)
		}
	}
	wantSources := func(root cid.Cid, want ...string) {
		t.Helper()
		got, err := l.Sources(t.Context(), key.Target, root)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("sources of %s: %q, %v; want %q", root, got, err, want)
		}
	}
	want(key.Target, "/a", uploader.UploadKey{})
	wantSources(key.Root)
	other, grown := key, key
	other.Target = "elsewhere"
	grown.Root, grown.Base = CID(2), key.Root
	must(t, l.Record(t.Context(), key, 0, CID(0)))
	must(t, l.Finish(t.Context(), key, nil, uploader.Finished{Source: "/a"}))
	must(t, l.Finish(t.Context(), key, nil, uploader.Finished{Source: "/b"}))
	must(t, l.Finish(t.Context(), other, nil, uploader.Finished{Source: "/c"}))
	l = reopen()
	want(key.Target, "/a", key)
	want(other.Target, "/c", other)
	want(key.Target, "/c", uploader.UploadKey{})
	wantSources(key.Root, "/a", "/b")
	must(t, l.Finish(t.Context(), grown, nil, uploader.Finished{Source: "/a"}))
	must(t, l.Finish(t.Context(), key, nil, uploader.Finished{}))
	l = reopen()
	want(key.Target, "/a", grown)
	wantSources(key.Root, "/b")
	wantSources(grown.Root, "/a")
}

// testClaims: of many who claim the same root, one has it at a time. Other
// roots are not affected. Whoever gives up waiting does not get the claim.
func testClaims(t *testing.T, l uploader.Ledger, _ func() uploader.Ledger) {
	never := func() { t.Error("it waits") }
	end, err := l.Begin(t.Context(), key, never)
	must(t, err)
	other := key
	other.Root = CID(2)
	endOther, err := l.Begin(t.Context(), other, never)
	must(t, err)
	endOther()

	limit := key
	limit.MaxShardBytes++
	limit.Base = CID(9)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := l.Begin(ctx, limit, cancel); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	var g errgroup.Group
	var holders atomic.Int32
	waiting := make(chan struct{}, 16)
	for range cap(waiting) {
		g.Go(func() error {
			end, err := l.Begin(t.Context(), key, func() { waiting <- struct{}{} })
			if err != nil {
				return err
			}
			defer end()
			if n := holders.Add(1); n != 1 {
				return fmt.Errorf("%d have it", n)
			}
			holders.Add(-1)
			return nil
		})
	}
	for range cap(waiting) {
		<-waiting
	}
	end()
	must(t, g.Wait())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantReceipts(t *testing.T, l uploader.Ledger, k uploader.UploadKey, want map[int]cid.Cid) {
	t.Helper()
	got, err := l.Receipts(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(got, want) {
		t.Errorf("receipts %v, want %v", got, want)
	}
}

func wantSuspects(t *testing.T, l uploader.Ledger, k uploader.UploadKey, want []cid.Cid) {
	t.Helper()
	got, err := l.Suspects(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("suspects %v, want %v", got, want)
	}
}
