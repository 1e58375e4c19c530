package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"golang.org/x/sync/errgroup"

	"github.com/carload/carload/internal/store"
)

// deep makes a shard that takes several slices and runs: a chain of nodes, with
// end as its last block.
func deep(parentsFirst bool) (root cid.Cid, end block, body []byte) {
	end = raw("the end of it") // one of the last by its hash
	nodes := []block{end}
	for i := range 600 {
		nodes = append(nodes, pbNode(fmt.Sprint("link ", i), nodes[i].CID))
	}
	root = nodes[len(nodes)-1].CID
	if parentsFirst {
		slices.Reverse(nodes)
	}
	return root, end, carFile([]cid.Cid{root}, nodes...)
}

// tenBlocks is a shard that another user uploads.
func tenBlocks(tag string) []byte {
	var blocks []block
	var links []cid.Cid
	for i := range 9 {
		blocks = append(blocks, raw(fmt.Sprint(tag, i)))
		links = append(links, blocks[i].CID)
	}
	return carOf(append([]block{pbNode(tag, links...)}, blocks...)...)
}

// While a shard is being indexed, others write between its slices. Nothing
// reports the shard as held until all of it is.
func TestOthersWriteBetweenSlices(t *testing.T) {
	t.Parallel()
	for _, parentsFirst := range []bool{true, false} {
		s := newShelf(t, store.Options{})
		root, _, body := deep(parentsFirst)
		between := 0
		s.Between(func() {
			between++
			if _, err := s.Upload(t.Context(), s.who.UserID, root.String()); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("after slice %d: %v", between, err)
			}
			if between > 3 {
				return
			}
			if u := s.put(tenBlocks(fmt.Sprint("other ", between))); u.State != complete {
				t.Errorf("other upload: %d", u.State)
			}
		})
		s.put(body)
		if between == 0 {
			t.Error("it came in one slice")
		}
		if u := s.upload(root); u.State != complete {
			t.Errorf("%+v", u)
		}
		if r := fsck(t, s); len(r.Problems) > 0 {
			t.Errorf("%+v", r.Problems)
		}
	}
}

// If a client hangs up between slices, the next collection removes everything
// that is left.
func TestGivenUpBetweenSlices(t *testing.T) {
	t.Parallel()
	for _, collect := range []bool{true, false} {
		s := newShelf(t, store.Options{})
		root, end, body := deep(true)
		needs := pbNode("needs the end as well", end.CID)
		if u := s.put(carOf(needs, raw("something"))); u.State != incomplete {
			t.Fatalf("%+v", u)
		}
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		s.Between(func() {
			if n++; n == 1 {
				if s.has(end) {
					t.Error("the end of the chain has come already")
				}
				cancel()
			}
		})
		in, err := s.Receive(t.Context(), bytes.NewReader(body), int64(len(body)))
		if err != nil {
			t.Fatal(err)
		}
		err = s.Accept(ctx, in, &store.NewUpload{Caller: s.who, Kind: store.KindCAR, Mime: "application/car"})
		if !errors.Is(err, context.Canceled) || n > 4 {
			t.Fatalf("%v after %d slices", err, n)
		}
		if err := in.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Upload(t.Context(), s.who.UserID, root.String()); !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		if collect {
			if r, err := s.Collect(t.Context()); err != nil || r.Shards != 1 || r.Bytes != int64(len(body)) {
				t.Fatalf("%+v %v", r, err)
			}
			if s.has(end) {
				t.Error("collected and still there")
			}
			if r := fsck(t, s); len(r.Problems) > 0 || r.Orphans > 0 {
				t.Errorf("%+v", r)
			}
		}
		if u := s.put(body); u.State != complete { // sent again
			t.Errorf("%+v", u)
		}
		if got := s.state(needs.CID); got != complete {
			t.Errorf("the other one: %d", got)
		}
		if r := fsck(t, s); len(r.Problems) > 0 || r.Orphans > 0 {
			t.Errorf("%+v", r)
		}
	}
}

// A process ends between two slices, with the files as they were then.
func TestKilledBetweenSlices(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newShelf(t, store.Options{Dir: dir})
	root, end, body := deep(false)
	needs := pbNode("needs the end as well", end.CID)
	s.put(carOf(needs, raw("something")))
	var images []string
	slice := 0
	s.Between(func() {
		if slice++; slice > 6 && slice%200 > 0 {
			return
		}
		images = append(images, t.TempDir())
		if err := os.CopyFS(images[len(images)-1], os.DirFS(dir)); err != nil {
			t.Error(err)
		}
	})
	s.put(body)
	if len(images) < 6 {
		t.Fatalf("%d slices", len(images))
	}
	for i, image := range images {
		again := newShelf(t, store.Options{Dir: image})
		if _, err := again.Content(t.Context(), root); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("after slice %d: %v", i, err)
		}
		if r := fsck(t, again); len(r.Problems) > 0 {
			t.Fatalf("after slice %d: %+v", i, r)
		}
		// It has the block, so that counts and stays.
		if got := again.state(needs.CID); got != complete || !again.has(end) {
			t.Errorf("after slice %d: %d", i, got)
		}
		if _, err := again.Collect(t.Context()); err != nil {
			t.Error(err)
		}
		if got := again.state(needs.CID); got != complete || !again.has(end) {
			t.Errorf("after slice %d, collected: %d", i, got)
		}
		again.drop(needs.CID)
		if r, err := again.Collect(t.Context()); err != nil || r.Shards != 2 {
			t.Errorf("after slice %d: %+v %v", i, r, err)
		}
		again.close()
	}
}

// Links and blocks of a few bytes cost more than they are worth.
func TestBoundsOfLinksAndBlocks(t *testing.T) {
	t.Parallel()
	s := newShelf(t, store.Options{})
	short := func(i int) cid.Cid { // 24 bits of some hash
		mh, err := multihash.Encode([]byte{byte(i), byte(i >> 8), byte(i >> 16)}, multihash.MURMUR3X64_64)
		if err != nil {
			t.Fatal(err)
		}
		return cid.NewCidV1(cid.Raw, mh)
	}
	var links []cid.Cid
	for i := range 2000 {
		links = append(links, short(i))
	}
	var fault *store.CARError
	node := pbNode("many", links...)
	if _, err := s.tryPut(carOf(node, raw("leaf"))); !errors.As(err, &fault) || fault.Fault != store.FaultManyLinks {
		t.Errorf("short links: %v", err)
	}
	var blocks []block
	for range 10_000 {
		id, err := multihash.Sum(nil, multihash.IDENTITY, -1)
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, block{CID: cid.NewCidV1(cid.Raw, id)})
	}
	if _, err := s.tryPut(carOf(append([]block{raw("root")}, blocks...)...)); !errors.As(err, &fault) || fault.Fault != store.FaultManyBlocks {
		t.Errorf("short blocks: %v", err)
	}
	// The shortest ones that are really used.
	links = links[:0]
	for i := range 20_000 {
		links = append(links, raw(fmt.Sprint(i)).CID)
	}
	if _, err := s.tryPut(carOf(cborNode("all", links...), raw("0"))); err != nil {
		t.Error(err)
	}
}

// Uploads that come at the same time are made durable together.
func TestUploadsShareCommits(t *testing.T) {
	t.Parallel()
	s := newShelf(t, store.Options{})
	const uploads = 40
	s.PatientGroups()
	letGo := s.Hold(t.Context())
	before := s.Commits()
	var g errgroup.Group
	for i := range uploads {
		g.Go(func() error {
			body := tenBlocks(fmt.Sprint(i))
			in, err := s.Receive(t.Context(), bytes.NewReader(body), int64(len(body)))
			if err != nil {
				return err
			}
			err = s.Accept(t.Context(), in, &store.NewUpload{Caller: s.who, Kind: store.KindCAR, Mime: "application/car"})
			return errors.Join(err, in.Close())
		})
	}
	s.WaitQueued(uploads)
	if err := errors.Join(letGo(), g.Wait()); err != nil {
		t.Fatal(err)
	}
	if n := s.Commits() - before; n > 4 {
		t.Errorf("%d commits for %d uploads", n, uploads)
	}
	if _, count, err := s.Uploads(t.Context(), store.Filter{UserID: s.who.UserID, Limit: 1}); err != nil || count != uploads {
		t.Errorf("%d uploads, %v", count, err)
	}
}

// A job that fails or panics does not affect the others in its transaction.
func TestOneOfAGroupFails(t *testing.T) {
	t.Parallel()
	s := newShelf(t, store.Options{})
	_, token, err := s.CreateKey(t.Context(), store.KeyOptions{Name: "small", QuotaBytes: 10})
	if err != nil {
		t.Fatal(err)
	}
	poor, err := s.Authenticate(t.Context(), token)
	if err != nil {
		t.Fatal(err)
	}
	letGo := s.Hold(t.Context())
	errs := make([]error, 10)
	var g errgroup.Group
	for i := range errs {
		g.Go(func() error {
			body := tenBlocks(fmt.Sprint(i))
			in, err := s.Receive(t.Context(), bytes.NewReader(body), int64(len(body)))
			if err != nil {
				return err
			}
			up := &store.NewUpload{Caller: s.who, Kind: store.KindCAR, Mime: "application/car"}
			if i%2 == 1 {
				up.Caller = poor
			}
			errs[i] = s.Accept(t.Context(), in, up)
			return in.Close()
		})
	}
	s.WaitQueued(len(errs))
	if err := errors.Join(letGo(), g.Wait()); err != nil {
		t.Fatal(err)
	}
	for i, err := range errs {
		var quota *store.QuotaError
		if is := errors.As(err, &quota); is != (i%2 == 1) {
			t.Errorf("upload %d: %v", i, err)
		}
	}
	if r := fsck(t, s); len(r.Problems) > 0 || r.Orphans > 0 || r.Shards != 5 {
		t.Errorf("%+v", r)
	}
}

// The links of one node may take several slices, too. Children that come or go
// in the meantime count, also if the process ends at that moment.
func TestManyLinksInSlices(t *testing.T) {
	t.Parallel()
	rounds := 30
	if testing.Short() {
		rounds = 6
	}
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		dir := t.TempDir()
		s := newShelf(t, store.Options{Dir: dir})
		var children []block
		var links []cid.Cid
		for i := range 40 {
			child := raw(fmt.Sprint(seed, " child ", i))
			if i%4 == 0 {
				child = pbNode(fmt.Sprint(seed, " child ", i), links[max(0, i-1):]...)
			}
			children, links = append(children, child), append(links, child.CID)
		}
		root := pbNode(fmt.Sprint(seed, " root"), links...)
		some := func() (list []block) {
			for _, child := range children {
				if r.IntN(12) == 0 {
					list = append(list, child)
				}
			}
			return list
		}
		gone := s.put(carOf(pbNode("x", children[5].CID), children[5])).Root
		early := s.put(carOf(children[1], children[2]))
		var images []string
		between, inside := 0, false
		s.drop(gone)
		s.Between(func() {
			if between++; between > 60 {
				return
			}
			if r.IntN(3) == 0 {
				s.put(carOf(append([]block{raw(fmt.Sprint(seed, " other ", between))}, some()...)...))
			}
			if between == 2*seed {
				damage(t, dir, early.Parts[0], children[1])
				s.has(children[1])
			}
			if r.IntN(12) == 0 && !inside {
				inside = true
				if _, err := s.Collect(t.Context()); err != nil {
					t.Error(err)
				}
				inside = false
			}
			if r.IntN(12) == 0 {
				image := t.TempDir()
				if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
					t.Error(err)
				}
				images = append(images, image)
			}
		})
		s.put(carOf(append([]block{root, children[3]}, some()...)...))
		s.Between(nil)
		if between < 10 {
			t.Errorf("round %d: %d slices", seed, between)
		}
		finish := func(s *shelf) {
			t.Helper()
			s.put(carOf(children[1], children[2])) // which may be damaged
			if p := fsck(t, s).Problems; len(p) > 0 {
				t.Fatalf("round %d: %+v", seed, p)
			}
			s.put(carOf(append([]block{root}, children[:20]...)...))
			s.put(carOf(append([]block{children[20]}, children[21:]...)...))
			if s.state(root.CID) != complete {
				t.Fatalf("round %d: incomplete with all children", seed)
			}
			if p := fsck(t, s).Problems; len(p) > 0 {
				t.Fatalf("round %d: at the end: %+v", seed, p)
			}
		}
		lacks := slices.ContainsFunc(children, func(b block) bool { return !s.has(b) })
		if whole := s.state(root.CID) == complete; whole == lacks {
			t.Errorf("round %d: complete: %t, lacks children: %t", seed, whole, lacks)
		}
		finish(s)
		for _, image := range images {
			again := newShelf(t, store.Options{Dir: image})
			finish(again)
			again.close()
		}
	}
}
