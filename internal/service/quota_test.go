package service_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carload/carload/internal/store"
)

// Each key pays once for each shard that it sent, even for an upload that
// another key began.
func TestQuotaCountsShardsOfAKey(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newServer(t, options{Dir: dir})
	var leaves []block
	for _, tag := range []string{"a", "b", "c", "d"} {
		leaves = append(leaves, raw(strings.Repeat(tag, 1000)))
	}
	root := pbNode("root", leaves[0].CID, leaves[1].CID, leaves[2].CID, leaves[3].CID)
	shard := func(i int) []byte { return carOf(root, leaves[i]) }
	tokens := make([]string, 2)
	for i, name := range []string{"first", "second"} {
		var err error
		quota := int64(2*len(shard(0)) + 10)
		if _, tokens[i], err = s.st.CreateKey(t.Context(), store.KeyOptions{Name: name, QuotaBytes: quota}); err != nil {
			t.Fatal(err)
		}
	}
	type step struct{ key, shard, status int }
	put := func(steps ...step) {
		t.Helper()
		for i, st := range steps {
			a := s.do("POST", "/upload", shard(st.shard), "Content-Type", "application/car", "Authorization", "Bearer "+tokens[st.key])
			if a.status != st.status {
				t.Errorf("step %d: %+v: %d %s", i, st, a.status, a.raw)
			}
		}
	}
	put(
		step{0, 0, 200}, step{0, 1, 200}, step{0, 2, 403}, // full
		step{0, 1, 200},                                   // sent again
		step{1, 2, 200}, step{1, 3, 200}, step{1, 0, 403}, // the other key pays for its own shards
		step{1, 3, 200}, step{0, 0, 200},
	)
	if got := s.status(root.CID); got != "pinned" {
		t.Error(got)
	}
	s.close()

	// Version 1 had no column for this: the key that began the upload paid.
	db, err := sql.Open("sqlite", filepath.Join(dir, "index.db"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.ExecContext(t.Context(), `
		CREATE TABLE old (
			seq       INTEGER PRIMARY KEY,
			upload_id INTEGER NOT NULL REFERENCES uploads(id),
			shard_id  INTEGER NOT NULL REFERENCES shards(id),
			UNIQUE (upload_id, shard_id)
		);
		INSERT INTO old SELECT seq, upload_id, shard_id FROM upload_shards;
		DROP TABLE upload_shards;
		ALTER TABLE old RENAME TO upload_shards;
		CREATE INDEX upload_shards_shard ON upload_shards(shard_id);
		CREATE INDEX uploads_key ON uploads(key_id);
		DROP TABLE damage;
		DROP TABLE parents;
		DROP TABLE pieces;
		DROP TABLE staging;
		PRAGMA user_version = 1`)
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	again := newServer(t, options{Dir: dir})
	again.token = s.token
	s = again
	put(step{0, 3, 200}, step{1, 0, 200}, step{1, 1, 200}, step{1, 2, 403})
	if u := s.do("GET", "/"+root.CID.String(), nil).upload(t); len(u.Parts) != 4 || u.Scope != "first" {
		t.Errorf("%+v", u)
	}
}
