package uploader_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"github.com/carload/carload/car"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
	"github.com/carload/carload/uploader/uploadertest"
)

// TestVerifyFinds loses and damages blocks at a service that still reports
// "pinned". Both levels that fetch blocks find out. An upload sends just the
// shard that repairs it; without the source, the next upload does.
func TestVerifyFinds(t *testing.T) {
	t.Parallel()
	for _, level := range []uploader.VerifyLevel{uploader.VerifySample, uploader.VerifyFull} {
		for _, withSource := range []bool{true, false} {
			for _, block := range []int{0, 1, 9, -1} { // root, a node, a leaf of the first shards, the last
				for _, damage := range []bool{false, true} {
					name := fmt.Sprintf("%s/source=%t/block=%d/damage=%t", level, withSource, block, damage)
					t.Run(name, func(t *testing.T) { verifyFinds(t, level, withSource, block, damage) })
				}
			}
		}
	}
}

func verifyFinds(t *testing.T, level uploader.VerifyLevel, withSource bool, block int, damage bool) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	srv.Always(uploadertest.Check, uploadertest.Reports("pinned"))
	path := randomFile(t, fileBytes, 1)
	plan := planOf(t, path)
	if block < 0 {
		block = plan.Blocks.Len() - 1
	}
	c := plan.Blocks.At(block).Cid
	shard := slices.IndexFunc(plan.Shards, func(s splitter.Shard) bool { return s.First <= block && block < s.End })
	ledger := new(uploader.MemoryLedger)
	target := newTarget(t, srv)
	var mending []uploader.Mending
	watch := observerFunc(func(e uploader.Event) {
		if m, ok := e.(uploader.Mending); ok {
			mending = append(mending, m)
		}
	})
	upload := func(level uploader.VerifyLevel) (uploader.Result, error) {
		return uploadOne(t.Context(), newUploader(t, target, uploader.Options{Ledger: ledger, Verify: level, Observer: watch}), input(t, path))
	}
	first, err := upload(uploader.VerifyPinned)
	if err != nil {
		t.Fatal(err)
	}
	if damage {
		srv.Store.Damage(c)
	} else {
		srv.Store.Lose(c)
	}
	before := srv.Count(uploadertest.Upload)
	missing, wrong := []cid.Cid{c}, []cid.Cid(nil)
	if damage {
		missing, wrong = wrong, missing
	}
	mend := level
	if !withSource {
		_, err = newUploader(t, target, uploader.Options{Ledger: ledger, Verify: level}).Verify(t.Context(), first.Root)
		var found *uploader.VerifyError
		if !errors.As(err, &found) || !errors.Is(err, uploader.ErrIncomplete) || errors.Is(err, car.ErrCorrupt) != damage {
			t.Fatalf("error %v", err)
		}
		if !slices.Equal(found.Missing, missing) || !slices.Equal(found.Wrong, wrong) || found.Root != first.Root {
			t.Errorf("found %+v, want block %s", found, c)
		}
		mend = uploader.VerifyFull
	}
	r, err := upload(mend)
	if err != nil || r.Held != r.Shards-1 || r.Sent != plan.Shards[shard].Size || srv.Count(uploadertest.Upload).Bytes-before.Bytes != r.Sent {
		t.Errorf("mending: %+v, %v, %d bytes sent", r, err, srv.Count(uploadertest.Upload).Bytes-before.Bytes)
	}
	if want := (uploader.Mending{Name: path, Root: first.Root, Missing: len(missing), Wrong: len(wrong)}); withSource != slices.Contains(mending, want) {
		t.Errorf("said %+v, want %+v", mending, want)
	}
	if suspects, err := ledger.Suspects(t.Context(), uploader.UploadKey{Target: srv.URL, Root: first.Root}); err != nil || len(suspects) > 0 {
		t.Errorf("suspects %v, %v", suspects, err)
	}
	if r, err := upload(uploader.VerifyPinned); err != nil || r.Held != r.Shards {
		t.Errorf("after mending: %+v, %v", r, err)
	}
}

// TestMendingInVain: if a block is still missing after it was sent again, the
// error says so, and it is not sent a third time.
func TestMendingInVain(t *testing.T) {
	t.Parallel()
	for _, level := range []uploader.VerifyLevel{uploader.VerifySample, uploader.VerifyFull} {
		srv := uploadertest.NewServer(t, uploadertest.Options{})
		path := randomFile(t, fileBytes, 1)
		plan := planOf(t, path)
		c := plan.Blocks.At(9).Cid
		srv.Always(uploadertest.Check, uploadertest.Reports("pinned"))
		srv.Always(uploadertest.Upload, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(w, r)
			srv.Store.Lose(c)
		})
		ledger := new(uploader.MemoryLedger)
		r, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{Verify: level, Ledger: ledger}), input(t, path))
		var found *uploader.VerifyError
		if !errors.As(err, &found) || !slices.Equal(found.Missing, []cid.Cid{c}) || len(found.Shards) != 1 {
			t.Fatalf("%s: %v", level, err)
		}
		if n := srv.Count(uploadertest.Upload).Requests; n != len(plan.Shards)+1 {
			t.Errorf("%s: %d requests for %d shards", level, n, len(plan.Shards))
		}
		if suspects, err := ledger.Suspects(t.Context(), uploader.UploadKey{Target: srv.URL, Root: r.Root}); err != nil || !slices.Equal(suspects, []cid.Cid{c}) {
			t.Errorf("%s: suspects %v, %v", level, suspects, err)
		}
	}
}

// TestMendingBelow loses a node and leaves below it. The leaves are checked
// only when the node is there again, and are repaired in the same upload.
func TestMendingBelow(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	plan := planOf(t, path)
	srv.Always(uploadertest.Check, uploadertest.Reports("pinned"))
	upload := func() (uploader.Result, error) {
		return uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{Verify: uploader.VerifyFull}), input(t, path))
	}
	if _, err := upload(); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, plan.Blocks.Len() / 2, plan.Blocks.Len() - 1} {
		srv.Store.Lose(plan.Blocks.At(i).Cid)
	}
	before := srv.Count(uploadertest.Upload).Requests
	r, err := upload()
	if err != nil || !srv.Store.Complete(r.Root) || srv.Count(uploadertest.Upload).Requests-before != 3 || r.Held != r.Shards-3 {
		t.Errorf("%+v, %v, %d requests", r, err, srv.Count(uploadertest.Upload).Requests-before)
	}
}

// TestVerifyWithoutSource is `carload verify` when nothing is wrong.
func TestVerifyWithoutSource(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	plan := planOf(t, path)
	root := plan.Blocks.At(0).Cid
	for _, level := range []uploader.VerifyLevel{uploader.VerifyPinned, uploader.VerifySample, uploader.VerifyFull} {
		u := newUploader(t, newTarget(t, srv), uploader.Options{Verify: level, SampleBlocks: 7})
		if _, err := u.Verify(t.Context(), root); level == uploader.VerifyPinned && !errors.Is(err, uploader.ErrIncomplete) {
			t.Errorf("%s before there is anything: error %v", level, err)
		}
		if _, err := uploadOne(t.Context(), u, input(t, path)); err != nil {
			t.Fatal(err)
		}
		before := srv.Count(uploadertest.Block).Requests
		report, err := u.Verify(t.Context(), root)
		if err != nil {
			t.Fatal(err)
		}
		if level == uploader.VerifySample && (report == nil || report.Blocks != plan.Blocks.Len() || report.Sample != 7) {
			t.Errorf("report %+v of %d blocks", report, plan.Blocks.Len())
		}
		if n := srv.Count(uploadertest.Block).Requests - before; level == uploader.VerifyFull && n > 1 { // the root
			t.Errorf("%d blocks were fetched by themselves, not only the root", n)
		}
	}
}

// TestVerifyFullOverBrokenArchives breaks off the fetched archive at many
// places. The missing blocks are fetched one by one.
func TestVerifyFullOverBrokenArchives(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	root := rootOf(t, path)
	if _, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{}), input(t, path)); err != nil {
		t.Fatal(err)
	}
	faults := map[string]uploadertest.Fault{
		"empty":    uploadertest.Truncate(0),
		"header":   uploadertest.Break(59),
		"a byte":   uploadertest.Break(60),
		"early":    uploadertest.Break(30_000),
		"cut":      uploadertest.Truncate(300_000),
		"dropped":  uploadertest.Break(500_000),
		"stalled":  uploadertest.StallReply(400_000),
		"no page":  uploadertest.Page(200),
		"no route": uploadertest.Status(404),
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// A separate script for each, since they run in parallel.
			srv := uploadertest.NewServer(t, uploadertest.Options{Handler: srv.Store})
			srv.Script(uploadertest.Archive, fault)
			target := newTarget(t, srv, func(o *nftstorage.Options) {
				if name == "stalled" {
					o.Stall = 300e6
				}
			})
			u := newUploader(t, target, uploader.Options{Verify: uploader.VerifyFull})
			if _, err := u.Verify(t.Context(), root); err != nil {
				t.Error(err)
			}
			if name != "dropped" && name != "stalled" && srv.Count(uploadertest.Archive).Requests+srv.Count(uploadertest.Block).Requests < 2 {
				t.Error("nothing more was fetched")
			}
		})
	}
}

// TestVerifyEndlessArchive: archives go on forever with valid blocks that are
// not part of the DAG, or were sent before. They are given up, and missing
// blocks are fetched one by one.
func TestVerifyEndlessArchive(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	plan := planOf(t, path)
	root := plan.Blocks.At(0).Cid
	if _, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{}), input(t, path)); err != nil {
		t.Fatal(err)
	}
	section := func(data []byte) []byte {
		c, err := cid.V1Builder{Codec: cid.Raw, MhType: multihash.SHA2_256}.Sum(data)
		if err != nil {
			t.Fatal(err)
		}
		p := binary.AppendUvarint(nil, uint64(c.ByteLen()+len(data)))
		return append(append(p, c.Bytes()...), data...)
	}
	foreign, empty, leaf := section(randomBytes(leafBytes, 2)), section(nil), section(randomBytes(fileBytes, 1)[:leafBytes])
	const most = 256 << 20
	forever := func(w http.ResponseWriter, section []byte) {
		piece := bytes.Repeat(section, (1<<20)/len(section))
		for sent := 0; ; sent += len(piece) {
			if _, err := w.Write(piece); err != nil {
				return // the client has gone
			}
			if sent > most {
				t.Errorf("more than %d bytes were read", most)
				return
			}
		}
	}
	for name, fault := range map[string]uploadertest.Fault{
		"nothing of the DAG": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			_, _ = w.Write(car.AppendHeader(nil, root))
			forever(w, foreign)
		},
		"empty blocks": func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			_, _ = w.Write(car.AppendHeader(nil, root))
			forever(w, empty)
		},
		"a leaf again and again": func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(w, r)
			forever(w, leaf)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := uploadertest.NewServer(t, uploadertest.Options{Handler: srv.Store})
			srv.Always(uploadertest.Archive, fault)
			u := newUploader(t, newTarget(t, srv), uploader.Options{Verify: uploader.VerifyFull})
			if _, err := u.Verify(t.Context(), root); err != nil {
				t.Error(err)
			}
			if n := srv.Count(uploadertest.Archive).Requests; n != 1 {
				t.Errorf("%d archives were asked for", n)
			}
		})
	}
}

func TestVerifyGivesUp(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	ledger := new(uploader.MemoryLedger)
	target := newTarget(t, srv)
	if _, err := uploadOne(t.Context(), newUploader(t, target, uploader.Options{Ledger: ledger}), input(t, path)); err != nil {
		t.Fatal(err)
	}
	srv.Always(uploadertest.Block, uploadertest.Status(503))
	srv.Always(uploadertest.Archive, uploadertest.Status(503))
	for _, level := range []uploader.VerifyLevel{uploader.VerifySample, uploader.VerifyFull} {
		u := newUploader(t, target, uploader.Options{Verify: level, Ledger: ledger})
		_, err := u.Verify(t.Context(), rootOf(t, path))
		var found *uploader.VerifyError
		if !errors.Is(err, uploader.ErrUnavailable) || errors.As(err, &found) {
			t.Errorf("%s: error %v", level, err)
		}
		before := srv.Count(uploadertest.Block).Requests
		_, err = uploadOne(t.Context(), newUploader(t, target, uploader.Options{Verify: level, Ledger: ledger}), input(t, path))
		if !errors.Is(err, uploader.ErrUnavailable) || errors.As(err, &found) {
			t.Errorf("%s with the source: error %v", level, err)
		}
		if n := srv.Count(uploadertest.Block).Requests - before; n > 40 {
			t.Errorf("%s: %d requests until it was given up on", level, n)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("enough"))
		if _, err := u.Verify(ctx, rootOf(t, path)); err == nil || !errors.Is(err, context.Cause(ctx)) {
			t.Errorf("%s: error %v", level, err)
		}
	}
	suspects, err := ledger.Suspects(t.Context(), uploader.UploadKey{Target: srv.URL, Root: rootOf(t, path)})
	if len(suspects) > 0 || err != nil {
		t.Errorf("a service that is down made %d blocks suspect, %v", len(suspects), err)
	}
}

// blockFault applies a fault only to requests for these blocks.
func blockFault(fault uploadertest.Fault, blocks ...cid.Cid) uploadertest.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		for _, c := range blocks {
			if strings.HasSuffix(r.URL.Path, "/"+c.String()) {
				fault(w, r, next)
				return
			}
		}
		next.ServeHTTP(w, r)
	}
}

// TestVerifyFailingBlock: the gateway fails for one block, which is damaged on
// its disk or too long, and returns the others. The block becomes suspect, and
// the next upload sends its shard.
func TestVerifyFailingBlock(t *testing.T) {
	t.Parallel()
	longer := func(n int) uploadertest.Fault {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { _, _ = w.Write(make([]byte, n)) }
	}
	faults := []struct {
		name  string
		fault uploadertest.Fault
		wrong bool
	}{
		{"fails", uploadertest.Status(http.StatusInternalServerError), false},
		{"gone", uploadertest.Status(http.StatusGone), false},
		{"longer", longer(leafBytes + 1), true},
		{"huge", longer(car.MaxBlockBytes + 1), true},
	}
	for _, fault := range faults {
		for _, level := range []uploader.VerifyLevel{uploader.VerifySample, uploader.VerifyFull} {
			for _, withSource := range []bool{true, false} {
				for _, block := range []int{0, 1, 9} {
					if block == 0 && !withSource && !fault.wrong {
						continue // there is no other block to ask for
					}
					t.Run(fmt.Sprintf("%s/%s/source=%t/block=%d", fault.name, level, withSource, block), func(t *testing.T) {
						verifyFailingBlock(t, level, withSource, block, fault.fault, fault.wrong)
					})
				}
			}
		}
	}
}

func verifyFailingBlock(t *testing.T, level uploader.VerifyLevel, withSource bool, block int, fault uploadertest.Fault, wrong bool) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	plan := planOf(t, path)
	c := plan.Blocks.At(block).Cid
	ledger := new(uploader.MemoryLedger)
	target := newTarget(t, srv)
	// One transfer: the retries of one block are all that the breaker allows.
	u := newUploader(t, target, uploader.Options{Ledger: ledger, Verify: level, Transfers: 1})
	pinned := newUploader(t, target, uploader.Options{Ledger: ledger})
	if _, err := uploadOne(t.Context(), pinned, input(t, path)); err != nil {
		t.Fatal(err)
	}
	srv.Always(uploadertest.Archive, uploadertest.Status(http.StatusNotFound))
	srv.Always(uploadertest.Block, blockFault(fault, c))
	var err error
	if withSource {
		_, err = uploadOne(t.Context(), u, input(t, path))
	} else {
		_, err = u.Verify(t.Context(), plan.Blocks.At(0).Cid)
	}
	var found *uploader.VerifyError
	if !errors.As(err, &found) || errors.Is(err, uploader.ErrUnavailable) || errors.Is(err, car.ErrCorrupt) != wrong {
		t.Fatalf("error %v", err)
	}
	if list := slices.Concat(found.Missing, found.Wrong); !slices.Equal(list, []cid.Cid{c}) || len(found.Wrong) > 0 != wrong {
		t.Errorf("found %+v, want block %s", found, c)
	}
	srv.Always(uploadertest.Block, uploadertest.Pass)
	if r, err := uploadOne(t.Context(), u, input(t, path)); err != nil || r.Held != r.Shards-1 {
		t.Errorf("mending: %+v, %v", r, err)
	}
}

// TestVerifyManyFailingBlocks: verification gives up if the gateway fails for
// most blocks, and those that failed become suspect.
func TestVerifyManyFailingBlocks(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	path := randomFile(t, fileBytes, 1)
	plan := planOf(t, path)
	u := newUploader(t, newTarget(t, srv), uploader.Options{Verify: uploader.VerifyFull})
	if _, err := uploadOne(t.Context(), u, input(t, path)); err != nil {
		t.Fatal(err)
	}
	var leaves []cid.Cid
	for i := range plan.Blocks.Len() {
		if c := plan.Blocks.At(i).Cid; c.Prefix().Codec == cid.Raw {
			leaves = append(leaves, c)
		}
	}
	srv.Always(uploadertest.Archive, uploadertest.Status(http.StatusNotFound))
	srv.Always(uploadertest.Block, blockFault(uploadertest.Status(http.StatusBadGateway), leaves...))
	before := srv.Count(uploadertest.Block).Faults
	_, err := u.Verify(t.Context(), plan.Blocks.At(0).Cid)
	var found *uploader.VerifyError
	if !errors.Is(err, uploader.ErrUnavailable) || !errors.As(err, &found) || len(found.Missing) == 0 || len(found.Missing) >= len(leaves) {
		t.Errorf("error %v", err)
	}
	if n := srv.Count(uploadertest.Block).Faults - before; n > 200 {
		t.Errorf("%d requests until it was given up on", n)
	}
}

// loyal is a ledger that does nothing once the context is done.
type loyal struct{ uploader.MemoryLedger }

func (l *loyal) Suspect(ctx context.Context, u uploader.UploadKey, blocks []cid.Cid) error {
	return errors.Join(context.Cause(ctx), l.MemoryLedger.Suspect(ctx, u, blocks))
}

// TestVerifyEndsEarly: the gateway goes down, or the user cancels, after the
// first of several missing blocks was found. The error reports it next to the
// reason, and it is added to the ledger's suspects, so the next upload sends
// it.
func TestVerifyEndsEarly(t *testing.T) {
	t.Parallel()
	for _, level := range []uploader.VerifyLevel{uploader.VerifySample, uploader.VerifyFull} {
		for _, withSource := range []bool{true, false} {
			for _, want := range []error{uploader.ErrUnavailable, errEnough} {
				t.Run(fmt.Sprintf("%s/source=%t/%v", level, withSource, want), func(t *testing.T) {
					verifyEndsEarly(t, level, withSource, want)
				})
			}
		}
	}
}

var errEnough = errors.New("the user has enough")

func verifyEndsEarly(t *testing.T, level uploader.VerifyLevel, withSource bool, want error) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	srv.Always(uploadertest.Check, uploadertest.Reports("pinned"))
	srv.Always(uploadertest.Archive, uploadertest.Status(http.StatusNotFound)) // blocks are requested one by one
	path := randomFile(t, fileBytes, 1)
	plan := planOf(t, path)
	ledger := new(loyal)
	target := newTarget(t, srv)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	check := func(level uploader.VerifyLevel, withSource bool) (r uploader.Result, err error) {
		u := newUploader(t, target, uploader.Options{Ledger: ledger, Verify: level, Transfers: 1})
		if withSource {
			return uploadOne(ctx, u, input(t, path))
		}
		_, err = u.Verify(ctx, plan.Blocks.At(0).Cid)
		return r, err
	}
	first, err := check(uploader.VerifyPinned, true)
	if err != nil {
		t.Fatal(err)
	}
	key := uploader.UploadKey{Target: srv.URL, Root: first.Root, MaxShardBytes: shardBytes}
	resent := map[cid.Cid]bool{}
	if !withSource { // an earlier verification found something too
		c := plan.Blocks.At(plan.Blocks.Len() - 1).Cid
		resent[c] = true
		if err := ledger.Suspect(ctx, key, []cid.Cid{c}); err != nil {
			t.Fatal(err)
		}
	}
	lost := map[string]bool{}
	for i := range plan.Blocks.Len() - 1 {
		if c := plan.Blocks.At(i).Cid; c.Prefix().Codec == cid.Raw && i%3 == 0 {
			lost[c.String()] = true
			srv.Store.Lose(c)
		}
	}
	var down atomic.Bool
	srv.Always(uploadertest.Block, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !down.Load() {
			down.Store(lost[strings.TrimPrefix(r.URL.Path, "/ipfs/")])
			next.ServeHTTP(w, r)
			return
		}
		if errors.Is(want, errEnough) {
			cancel(errEnough)
		}
		http.Error(w, "down", http.StatusServiceUnavailable)
	})

	_, err = check(level, withSource)
	var found *uploader.VerifyError
	if !errors.Is(err, want) || !errors.As(err, &found) || !errors.Is(err, uploader.ErrIncomplete) {
		t.Fatalf("error %v", err)
	}
	if found.Root != first.Root || len(found.Missing) != 1 || !lost[found.Missing[0].String()] || len(found.Wrong) > 0 || withSource != (len(found.Shards) == 1) {
		t.Errorf("found %+v", found)
	}
	resent[found.Missing[0]] = true
	suspects, err := ledger.Suspects(t.Context(), key)
	if err != nil || len(suspects) != len(resent) {
		t.Errorf("suspects %v, %v", suspects, err)
	}
	shards := map[int]bool{}
	for _, c := range suspects {
		if !resent[c] {
			t.Errorf("%s is suspect", c)
		}
		i := slices.IndexFunc(plan.Shards, func(s splitter.Shard) bool {
			for k := s.First; k < s.End; k++ {
				if plan.Blocks.At(k).Cid == c {
					return true
				}
			}
			return false
		})
		shards[i] = true
	}
	ctx = t.Context()
	if r, err := check(uploader.VerifyPinned, true); err != nil || r.Held != r.Shards-len(shards) {
		t.Errorf("mending: %+v, %v; want %d shards sent", r, err, len(shards))
	}
}

func TestSampleReport(t *testing.T) {
	t.Parallel()
	tests := []struct {
		report uploader.SampleReport
		loss   float64
		want   string
	}{
		{uploader.SampleReport{Blocks: 31744, Sample: 300}, 0.00994, "300 of 31744 blocks: any loss above 0.99 % would have been seen with 95 % probability"},
		{uploader.SampleReport{Blocks: 10, Sample: 1}, 0.95, "1 of 10 blocks: any loss above 95 % would have been seen with 95 % probability"},
		{uploader.SampleReport{Blocks: 10, Sample: 10}, 0, "all 10 blocks"},
	}
	for _, test := range tests {
		if got := test.report.Loss(); math.Abs(got-test.loss) > 1e-4 {
			t.Errorf("%+v: loss %f, want %f", test.report, got, test.loss)
		}
		if got := test.report.String(); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}
