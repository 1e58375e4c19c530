package uploader_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/splitter"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/sqliteledger"
	"github.com/carload/carload/uploader/uploadertest"
)

// folder is a directory of small files.
type folder struct {
	dir  string
	opts chunker.Options
	next int // number of the next file, and of its content
}

const folderFileBytes = 5000

func newFolder(t *testing.T, files int) *folder {
	t.Helper()
	f := &folder{dir: t.TempDir()}
	f.add(t, files)
	return f
}

func (f *folder) path(i int) string { return filepath.Join(f.dir, fmt.Sprintf("file-%06d", i)) }

func (f *folder) write(t *testing.T, i, content int) {
	t.Helper()
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], uint64(content)+1)
	data := make([]byte, folderFileBytes)
	_, _ = rand.NewChaCha8(key).Read(data)
	if err := os.WriteFile(f.path(i), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *folder) add(t *testing.T, n int) {
	t.Helper()
	for range n {
		f.write(t, f.next, f.next)
		f.next++
	}
}

func (f *folder) change(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		f.write(t, f.next-1-i*2, 1_000_000+f.next*100_000+i)
	}
}

func (f *folder) remove(t *testing.T, n int) {
	t.Helper()
	for range n {
		f.next--
		if err := os.Remove(f.path(f.next)); err != nil {
			t.Fatal(err)
		}
	}
}

func (f *folder) input(t *testing.T) uploader.Input {
	t.Helper()
	tree := chunker.NewTree()
	if err := tree.AddDisk("", f.dir); err != nil {
		t.Fatal(err)
	}
	return uploader.Tree(f.dir, tree, f.opts)
}

func (f *folder) describe(t *testing.T) uploader.DAG { return describe(t, f.input(t)) }

// known returns the blocks of a DAG.
func known(dag uploader.DAG) map[cid.Cid]bool {
	blocks := make(map[cid.Cid]bool, dag.Len())
	for i := range dag.Len() {
		blocks[dag.At(i).Cid] = true
	}
	return blocks
}

// isNode distinguishes a directory's node from a file's content.
func isNode(c cid.Cid) bool { return c.Prefix().Codec != cid.Raw }

// TestFolderThatGrew: when a folder is sent again, only what the service lacks
// is sent: at most twice the new content, and the directory nodes that changed.
// The root is the same as for a fresh upload. When the previous upload has been
// deleted and collected, the whole DAG is still there.
func TestFolderThatGrew(t *testing.T) {
	t.Parallel()
	files, steps := 600, []int{1, 20, 100}
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		files, steps = 60_000, []int{1, 100, 10_000}
	}
	srv, st := newServiceAndStore(t, t.TempDir())
	target := newTarget(t, srv)
	ledger, err := sqliteledger.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"), sqliteledger.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close()
	opts := uploader.Options{Ledger: ledger, MaxShardBytes: splitter.DefaultMaxShardBytes, MaxUploadBytes: -1}
	var plan uploader.Described
	opts.Observer = observerFunc(func(e uploader.Event) {
		if d, ok := e.(uploader.Described); ok {
			plan = d
		}
	})
	f := newFolder(t, files)
	before := f.describe(t)
	if _, err := uploadOne(t.Context(), newUploader(t, target, opts), f.input(t)); err != nil {
		t.Fatal(err)
	}
	for _, n := range steps {
		for what, do := range map[string]func(*testing.T, int){"added": f.add, "changed": f.change, "removed": f.remove} {
			do(t, n)
			dag := f.describe(t)
			old := known(before)
			var content, nodes int64
			for i := range dag.Len() {
				switch b := dag.At(i); {
				case old[b.Cid]:
				case isNode(b.Cid):
					nodes += b.SectionSize()
				default:
					content += int64(b.Size())
				}
			}
			sent := srv.Count(uploadertest.Upload).Bytes
			blocks := srv.Count(uploadertest.Block).Requests
			r, err := uploadOne(t.Context(), newUploader(t, target, opts), f.input(t))
			sent = srv.Count(uploadertest.Upload).Bytes - sent
			if err != nil || r.Root != dag.Root() || r.Blocks != dag.Len() || plan.Base != before.Root() {
				t.Fatalf("%d %s: %+v, %v", n, what, r, err)
			}
			// Every archive has the root, and one with nothing else new has
			// another block.
			most := 2*content + nodes + 100*int64(r.Shards)
			if content == 0 {
				most += folderFileBytes + 100
			}
			if sent > most {
				t.Errorf("%d %s: %d bytes were sent for %d of content and %d of nodes", n, what, sent, content, nodes)
			}
			t.Logf("%d %s: %d bytes sent for %d of content and %d of nodes; %d nodes of the base were fetched; %d shards",
				n, what, sent, content, nodes, srv.Count(uploadertest.Block).Requests-blocks, r.Shards)

			if err := target.Delete(t.Context(), before.Root()); err != nil {
				t.Fatal(err)
			}
			if _, err := st.Collect(t.Context()); err != nil {
				t.Fatal(err)
			}
			full := opts
			full.Verify = uploader.VerifyFull
			if _, err := newUploader(t, target, full).Verify(t.Context(), r.Root); err != nil {
				t.Errorf("%d %s: after the old upload was deleted: %v", n, what, err)
			}
			// What is there is not sent again, even though its base is gone.
			sent = srv.Count(uploadertest.Upload).Bytes
			if r, err := uploadOne(t.Context(), newUploader(t, target, opts), f.input(t)); err != nil || r.Held != r.Shards || srv.Count(uploadertest.Upload).Bytes != sent {
				t.Errorf("%d %s: again: %+v, %v", n, what, r, err)
			}
			before = dag
		}
	}
	if r, err := st.Fsck(t.Context()); err != nil || len(r.Problems) > 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestBaseIsSharded: if most nodes of a sharded directory have changed, they
// are fetched in a few requests, even if an archive of them breaks off.
func TestBaseIsSharded(t *testing.T) {
	t.Parallel()
	profile, err := chunker.ProfileNamed(chunker.UnixFSv1().Name + "+hamt-links-count>50+fanout-16")
	if err != nil {
		t.Fatal(err)
	}
	for name, fault := range map[string]uploadertest.Fault{"whole": nil, "broken": uploadertest.Break(9000), "refused": uploadertest.Status(http.StatusBadRequest)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newService(t, t.TempDir())
			ledger := new(uploader.MemoryLedger)
			f := &folder{dir: t.TempDir(), opts: chunker.Options{Profile: profile}}
			f.add(t, 400)
			if _, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{Ledger: ledger}), f.input(t)); err != nil {
				t.Fatal(err)
			}
			old := known(f.describe(t))
			f.change(t, 150)
			dag := f.describe(t)
			var content, nodes int64
			changed := 0
			for i := range dag.Len() {
				switch b := dag.At(i); {
				case old[b.Cid]:
				case isNode(b.Cid):
					nodes += b.SectionSize()
					changed++
				default:
					content += int64(b.Size())
				}
			}
			if fault != nil {
				srv.Always(uploadertest.Archive, fault)
			}
			r, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{Ledger: ledger, MaxShardBytes: splitter.DefaultMaxShardBytes}), f.input(t))
			if err != nil || r.Root != dag.Root() || r.Sent > 2*content+nodes+100 {
				t.Errorf("%+v, %v; %d of content and %d of nodes", r, err, content, nodes)
			}
			blocks, archives := srv.Count(uploadertest.Block).Requests, srv.Count(uploadertest.Archive).Requests
			if changed < 40 || archives != 1 || fault == nil && blocks > 20 {
				t.Errorf("%d nodes changed, %d requests for blocks and %d for archives", changed, blocks, archives)
			}
		})
	}
}

// grown returns a service that has a folder, and the folder with more files in
// it.
func grown(t *testing.T, srv *uploadertest.Server, ledger uploader.Ledger) (f *folder, base cid.Cid) {
	t.Helper()
	f = newFolder(t, 40)
	r, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{Ledger: ledger}), f.input(t))
	if err != nil {
		t.Fatal(err)
	}
	f.add(t, 20)
	return f, r.Root
}

// TestBaseOfOthers: without a ledger a base can be given. It is ignored if the
// service does not have all of it, or if it has nothing in common with the
// upload.
func TestBaseOfOthers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		base func(f *folder, base cid.Cid, srv *uploadertest.Server) cid.Cid
		all  bool
	}{
		"named":   {base: func(_ *folder, base cid.Cid, _ *uploadertest.Server) cid.Cid { return base }},
		"unknown": {func(*folder, cid.Cid, *uploadertest.Server) cid.Cid { return randomCID(1) }, true},
		"none":    {func(*folder, cid.Cid, *uploadertest.Server) cid.Cid { return cid.Undef }, true},
		"unrelated": {func(*folder, cid.Cid, *uploadertest.Server) cid.Cid {
			r, err := uploadOne(t.Context(), newUploader(t, newTarget(t, newService(t, t.TempDir())), uploader.Options{}), input(t, randomFile(t, fileBytes, 1)))
			if err != nil {
				t.Fatal(err)
			}
			return r.Root
		}, true},
		"broken": {func(f *folder, base cid.Cid, srv *uploadertest.Server) cid.Cid {
			srv.Always(uploadertest.Block, uploadertest.Status(http.StatusBadRequest))
			return base
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := newService(t, t.TempDir())
			f, base := grown(t, srv, nil)
			base = tt.base(f, base, srv)
			sent := srv.Count(uploadertest.Upload).Bytes
			r, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{Base: base}), f.input(t))
			sent = srv.Count(uploadertest.Upload).Bytes - sent
			if err != nil || r.Sent != sent {
				t.Fatalf("%+v, %v", r, err)
			}
			if all := sent > 60*folderFileBytes; all != tt.all || !all && sent > 2*20*folderFileBytes {
				t.Errorf("%d bytes were sent", sent)
			}
		})
	}
}

// whenPlanned returns an observer that calls f when it is known what will be
// sent.
func whenPlanned(f func()) uploader.Observer {
	return observerFunc(func(e uploader.Event) {
		if d, ok := e.(uploader.Described); ok && d.Base.Defined() {
			f()
		}
	})
}

// TestBaseIsLost: the service loses blocks of the base, and does not report the
// DAG as complete. It is sent the rest, and no more than that.
func TestBaseIsLost(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	ledger := new(uploader.MemoryLedger)
	f := newFolder(t, 40)
	old := known(f.describe(t))
	if _, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{Ledger: ledger}), f.input(t)); err != nil {
		t.Fatal(err)
	}
	f.add(t, 20)
	dag := f.describe(t)
	whole, err := splitter.Split(dag, splitter.Options{MaxShardBytes: shardBytes})
	if err != nil {
		t.Fatal(err)
	}
	lost := 0
	watch := whenPlanned(func() {
		for c := range old {
			srv.Store.Lose(c)
			lost++
		}
	})
	r, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{Ledger: ledger, Observer: watch, Verify: uploader.VerifyFull}), f.input(t))
	if err != nil || r.Root != dag.Root() || !srv.Store.Complete(r.Root) || lost != len(old) {
		t.Fatalf("%+v, %v, %d lost", r, err, lost)
	}
	if least := int64(60 * folderFileBytes); r.Sent < least || r.Sent > whole.Size()+25*folderFileBytes {
		t.Errorf("%d bytes were sent of %d", r.Sent, whole.Size())
	}
	sent := srv.Count(uploadertest.Upload).Bytes
	if r, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), uploader.Options{Ledger: ledger, Verify: uploader.VerifyFull}), f.input(t)); err != nil || r.Held != r.Shards || srv.Count(uploadertest.Upload).Bytes != sent {
		t.Errorf("again: %+v, %v", r, err)
	}
}

// TestBaseIsDamaged: a block of the base is gone, and only verification
// notices. Its shard is sent within the upload. If another one is lost later,
// the next upload sends that.
func TestBaseIsDamaged(t *testing.T) {
	t.Parallel()
	srv := uploadertest.NewServer(t, uploadertest.Options{})
	srv.Always(uploadertest.Check, uploadertest.Reports("pinned"))
	ledger := new(uploader.MemoryLedger)
	f, base := grown(t, srv, ledger)
	dag := f.describe(t)
	lose := func() { srv.Store.Lose(dag.At(3).Cid) }
	opts := uploader.Options{Ledger: ledger, Verify: uploader.VerifyFull, Observer: whenPlanned(lose)}
	r, err := uploadOne(t.Context(), newUploader(t, newTarget(t, srv), opts), f.input(t))
	if err != nil || !srv.Store.Complete(dag.Root()) || r.Sent > 20*folderFileBytes+2*shardBytes {
		t.Fatalf("%+v, %v", r, err)
	}
	if last, err := ledger.Last(t.Context(), srv.URL, f.dir); err != nil || last.Root != dag.Root() || last.Base != base {
		t.Errorf("%+v, %v", last, err)
	}
	opts.Observer = nil
	lose()
	if _, err := newUploader(t, newTarget(t, srv), opts).Verify(t.Context(), dag.Root()); !errors.Is(err, uploader.ErrIncomplete) {
		t.Errorf("error %v", err)
	}
	r, err = uploadOne(t.Context(), newUploader(t, newTarget(t, srv), opts), f.input(t))
	if err != nil || !srv.Store.Complete(dag.Root()) || r.Sent == 0 || r.Sent > shardBytes {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestBaseAfterAStop: a stopped upload with a base goes on where it was, even
// if the base is deleted in between.
func TestBaseAfterAStop(t *testing.T) {
	t.Parallel()
	srv, st := newServiceAndStore(t, t.TempDir())
	target := newTarget(t, srv)
	ledger := new(uploader.MemoryLedger)
	f, base := grown(t, srv, ledger)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stop := observerFunc(func(e uploader.Event) {
		if s, ok := e.(uploader.ShardSent); ok && s.Index == 0 {
			cancel()
		}
	})
	opts := uploader.Options{Ledger: ledger, Transfers: 1, MaxShardBytes: 40_000}
	first := opts
	first.Observer = stop
	r, err := uploadOne(ctx, newUploader(t, target, first), f.input(t))
	if !errors.Is(err, context.Canceled) || r.Shards < 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	again, err := uploadOne(t.Context(), newUploader(t, target, opts), f.input(t))
	if err != nil || again.Held != 1 || again.Shards != r.Shards {
		t.Fatalf("%+v, %v", again, err)
	}
	if err := target.Delete(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	opts.Verify = uploader.VerifyFull
	if r, err := uploadOne(t.Context(), newUploader(t, target, opts), f.input(t)); err != nil || r.Held != r.Shards {
		t.Errorf("%+v, %v", r, err)
	}
}

func randomCID(seed uint64) cid.Cid {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	digest := make([]byte, 32)
	_, _ = rand.NewChaCha8(key).Read(digest)
	c, err := cid.Prefix{Version: 1, Codec: cid.DagProtobuf, MhType: 0x12, MhLength: 32}.Sum(digest)
	if err != nil {
		panic(err)
	}
	return c
}
