package uploader_test

import (
	"iter"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/sqliteledger"
	"github.com/carload/carload/uploader/uploadertest"
)

// manyFiles makes small files, some of them larger than a block.
func manyFiles(t *testing.T) []string {
	t.Helper()
	n := 60
	if os.Getenv("CARLOAD_TEST_LONG") != "" {
		n = 2000
	}
	paths := make([]string, n)
	for i := range paths {
		paths[i] = randomFile(t, 300+i*97%(40<<10), uint64(i))
	}
	return paths
}

func inputs(t *testing.T, paths []string) iter.Seq[uploader.Input] {
	return func(yield func(uploader.Input) bool) {
		for _, p := range paths {
			if !yield(input(t, p)) {
				return
			}
		}
	}
}

// requests returns how many requests arrived, and how many of them were
// uploads.
func requests(srv *uploadertest.Server) (all, uploads int) {
	for op := uploadertest.Upload; op <= uploadertest.Other; op++ {
		all += srv.Count(op).Requests
	}
	return all, srv.Count(uploadertest.Upload).Requests
}

// uploadAll uploads all inputs, each of which has to succeed. It returns the
// number of requests and the names that were sent.
func uploadAll(t *testing.T, srv *uploadertest.Server, u *uploader.Uploader, ins iter.Seq[uploader.Input]) (all, uploads int, sent []string, roots map[string]cid.Cid) {
	t.Helper()
	before, uploadsBefore := requests(srv)
	roots = map[string]cid.Cid{}
	for r, err := range u.Upload(t.Context(), ins) {
		if err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
		roots[r.Name] = r.Root
		if r.Sent > 0 {
			sent = append(sent, r.Name)
		}
	}
	all, uploads = requests(srv)
	return all - before, uploads - uploadsBefore, sent, roots
}

// TestRequests counts the requests for many small inputs: what one reply has
// said is not asked for again.
func TestRequests(t *testing.T) {
	t.Parallel()
	srv := newService(t, t.TempDir())
	ledger, err := sqliteledger.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"), sqliteledger.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer ledger.Close()
	target := newTarget(t, srv)
	run := func(paths []string) (all, uploads int, sent []string) {
		u := newUploader(t, target, uploader.Options{Ledger: ledger})
		all, uploads, sent, _ = uploadAll(t, srv, u, inputs(t, paths))
		return all, uploads, sent
	}
	paths := manyFiles(t)
	if all, uploads, sent := run(paths); uploads != len(paths) || all > len(paths)*105/100 || len(sent) != len(paths) {
		t.Errorf("%d files: %d sent, %d uploads, %d requests", len(paths), len(sent), uploads, all)
	}
	if all, _, sent := run(paths); all > 10 || len(sent) > 0 {
		t.Errorf("again: %d requests, sent %q", all, sent)
	}
	if all, _, sent := run(paths[:3]); all > 3 || len(sent) > 0 {
		t.Errorf("a few: %d requests, sent %q", all, sent)
	}

	// What the service has lost is detected from its list, and sent.
	lost := []string{paths[2], paths[40], paths[len(paths)-1]}
	for _, p := range lost {
		if err := target.Delete(t.Context(), rootOf(t, p)); err != nil {
			t.Fatal(err)
		}
	}
	all, uploads, sent := run(paths)
	slices.Sort(sent)
	slices.Sort(lost)
	if !slices.Equal(sent, lost) || uploads != len(lost) || all > 10+len(lost) {
		t.Errorf("after a loss: %d requests, %d uploads, sent %q", all, uploads, sent)
	}
}

// TestListBreaks: if the service's list cannot be read, uploads are checked one
// by one.
func TestListBreaks(t *testing.T) {
	t.Parallel()
	srv := newService(t, t.TempDir())
	ledger := new(uploader.MemoryLedger)
	paths := manyFiles(t)[:20]
	for range 2 {
		srv.Always(uploadertest.List, uploadertest.Refuse(400, "Error", "no lists today"))
		u := newUploader(t, newTarget(t, srv), uploader.Options{Ledger: ledger})
		uploadAll(t, srv, u, inputs(t, paths))
	}
	if n := srv.Count(uploadertest.Upload).Requests; n != len(paths) {
		t.Errorf("%d uploads of %d files", n, len(paths))
	}
	if n := srv.Count(uploadertest.Check).Requests; n != len(paths) || srv.Count(uploadertest.List).Faults == 0 {
		t.Errorf("%d questions for %d files", n, len(paths))
	}
}
