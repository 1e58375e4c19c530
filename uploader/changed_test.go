package uploader_test

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/carload/carload/chunker"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/uploadertest"
)

// If a file is modified after its last shard was sent, the service has what was
// hashed, complete and verified, but the upload does not count as done.
func TestChangedAfterItLeft(t *testing.T) {
	t.Parallel()
	for _, isTree := range []bool{false, true} {
		dir := t.TempDir()
		path := filepath.Join(dir, "f")
		content := bytes.Repeat([]byte("some bytes "), 100_000)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		srv := uploadertest.NewServer(t, uploadertest.Options{})
		srv.Script(uploadertest.Upload, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(w, r) // it has all of the shard
			if err := os.WriteFile(path, append([]byte("X"), content[1:]...), 0o600); err != nil {
				t.Error(err)
			}
		})
		u, err := uploader.New(newTarget(t, srv), uploader.Options{})
		if err != nil {
			t.Fatal(err)
		}
		in, err := uploader.File(path, chunker.Options{})
		if isTree {
			tree := chunker.NewTree()
			err = tree.AddDisk("", dir)
			in = uploader.Tree(dir, tree, chunker.Options{})
		}
		if err != nil {
			t.Fatal(err)
		}
		for r, err := range u.Upload(t.Context(), slices.Values([]uploader.Input{in})) {
			var source *uploader.SourceError
			if !errors.Is(err, uploader.ErrSourceChanged) || !errors.As(err, &source) || !r.Root.Defined() {
				t.Errorf("tree %v: %v, %v", isTree, r.Root, err)
			}
		}
	}
}
