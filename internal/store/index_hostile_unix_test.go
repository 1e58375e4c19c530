//go:build unix

package store_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/carload/carload/internal/sqlite"
	"github.com/carload/carload/internal/store"
)

// The index may be from someone else, and so may files beside it.
func TestHostileIndex(t *testing.T) {
	t.Parallel()
	statement := func(s string) func(*testing.T, string) {
		return func(t *testing.T, index string) {
			db, err := sqlite.OpenWriter(t.Context(), index)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := db.ExecContext(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	fifo := func(suffix string) func(*testing.T, string) {
		return func(t *testing.T, index string) {
			_ = os.Remove(index + suffix)
			if err := syscall.Mkfifo(index+suffix, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tt := range map[string]struct {
		prepare func(*testing.T, string)
		want    string
	}{
		"trigger": {statement(`CREATE TRIGGER t AFTER INSERT ON shards BEGIN DELETE FROM blocks; END`), `trigger "t"`},
		"view":    {statement(`DROP TABLE fetches; CREATE VIEW fetches AS SELECT 1`), `view "fetches"`},
		"virtual": {statement(`CREATE VIRTUAL TABLE v USING fts5(a)`), `table "v"`},
		"index":   {fifo(""), "not a regular file"},
		"log":     {fifo("-wal"), "not a regular file"},
		"memory":  {fifo("-shm"), "not a regular file"},
		"journal": {fifo("-journal"), "not a regular file"},
	} {
		dir := t.TempDir()
		st, err := store.Open(t.Context(), store.Options{Dir: dir})
		if err == nil {
			err = st.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		tt.prepare(t, filepath.Join(dir, "index.db"))
		for how, open := range map[string]func() (*store.Store, error){
			"":             func() (*store.Store, error) { return store.Open(t.Context(), store.Options{Dir: dir}) },
			" for reading": func() (*store.Store, error) { return store.OpenReadOnly(t.Context(), store.Options{Dir: dir}) },
		} {
			failed := make(chan error, 1)
			go func() {
				st, err := open()
				if err == nil {
					_ = st.Close()
				}
				failed <- err
			}()
			select {
			case err := <-failed:
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s%s: %v", name, how, err)
				}
			case <-time.After(time.Minute):
				t.Fatalf("%s%s: it waits", name, how)
			}
		}
	}
}
