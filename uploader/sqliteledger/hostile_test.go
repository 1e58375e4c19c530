package sqliteledger

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/carload/carload/internal/sqlite"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/ledgertest"
)

// Someone else may have made a ledger, with a schema and with values that
// carload does not write. Every sum is right: it is no secret.
func TestHostileLedger(t *testing.T) {
	t.Parallel()
	root := ledgertest.CID(1).Bytes()
	id := make([]byte, idSize)
	upload := row{id, "target", root, int64(100), []byte{}, int64(1), int64(1)}
	endless := `CREATE VIEW uploads AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
		SELECT x'00' id, 'target' target, x'00' root, 1 max_shard_bytes, x'' base, 1 begun, 1 finished, 1 sum FROM n`
	with := func(r row, at int, v any) row {
		r = append(row(nil), r...)
		r[at] = v
		return r
	}
	for name, tt := range map[string]struct {
		statements []string
		table      *table
		row        row
		kept       int
	}{
		"sound":           {table: uploadsTable, row: upload, kept: 1},
		"view":            {statements: []string{`DROP TABLE uploads`, endless}},
		"trigger":         {statements: []string{`CREATE TRIGGER t AFTER INSERT ON receipts BEGIN DELETE FROM receipts; END`}},
		"index":           {statements: []string{`CREATE INDEX i ON uploads (hex(zeroblob(1 << 20)))`}},
		"fewer columns":   {statements: []string{`DROP TABLE uploads`, `CREATE TABLE uploads (id BLOB PRIMARY KEY, sum INTEGER) WITHOUT ROWID`, `INSERT INTO uploads VALUES (x'00', 0)`}},
		"generated":       {statements: []string{`ALTER TABLE plans ADD COLUMN g AS (hex(zeroblob(100000000)))`}},
		"missing table":   {statements: []string{`DROP TABLE suspects`}},
		"text for root":   {table: uploadsTable, row: with(upload, 2, "root")},
		"text for limit":  {table: uploadsTable, row: with(upload, 3, "limit")},
		"float for limit": {table: uploadsTable, row: with(upload, 3, 1.5)},
		"text for id":     {table: uploadsTable, row: with(upload, 0, "id")},
		"no root":         {table: uploadsTable, row: with(upload, 2, []byte{})},
		"root is no CID":  {table: uploadsTable, row: with(upload, 2, []byte{1, 2, 3})},
		"negative limit":  {table: uploadsTable, row: with(upload, 3, int64(-1))},
		"distant time":    {table: uploadsTable, row: with(upload, 5, int64(1<<62))},
		"negative shard":  {table: receiptsTable, row: row{id, int64(-1), root}},
		"text for shard":  {table: receiptsTable, row: row{id, "shard", root}},
		"suspects":        {table: suspectsTable, row: row{id, "target", root, []byte{200}}},
		"level":           {table: verifiedTable, row: row{id, int64(1), "\x1b[31m"}},
		"large value":     {table: descriptionsTable, row: row{id, int64(1), make([]byte, maxValueBytes+1)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "ledger.db")
			tmp, err := build(t.Context(), path, func(tx *sqlite.Writer) error {
				for _, s := range tt.statements {
					if _, err := tx.ExecContext(t.Context(), s); err != nil {
						return err
					}
				}
				if tt.row == nil {
					return nil
				}
				return tt.table.put(t.Context(), tx, tt.row...)
			})
			if err == nil {
				err = replace(tmp, path)
			}
			if err != nil {
				t.Fatal(err)
			}
			l, err := Open(t.Context(), path, Options{NoSync: true})
			if (err == nil) != (tt.kept > 0) || err != nil && !errors.Is(err, uploader.ErrLedgerDamaged) {
				t.Fatal(err)
			}
			if err != nil && strings.ContainsRune(err.Error(), '\x1b') {
				t.Errorf("%q", err)
			}
			if err == nil {
				if err := l.Close(); err != nil {
					t.Fatal(err)
				}
			}
			report, err := Repair(t.Context(), path)
			if err != nil || report.Kept != tt.kept {
				t.Fatalf("repair: %+v, %v", report, err)
			}
			l, err = Open(t.Context(), path, Options{NoSync: true})
			if err != nil {
				t.Fatalf("repaired: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// SQLite keeps the text of a schema, with which checkSchema compares.
func TestTablesAreTrue(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	l, err := Open(t.Context(), path, Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, table := range tables {
		if !table.isTrue(t.Context(), l.read) {
			t.Error(table.name)
		}
		rows, err := l.read.QueryContext(t.Context(), `SELECT * FROM `+table.name)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err := errors.Join(err, rows.Close(), rows.Err()); err != nil {
			t.Fatal(err)
		}
		var known []string
		for _, c := range table.columns {
			known = append(known, c.name)
		}
		if want := strings.Join(append(known, "sum"), " "); strings.Join(columns, " ") != want {
			t.Errorf("%s has columns %v, not %s", table.name, columns, want)
		}
	}
}

// SQLite must not run what the schema of a file says.
func TestSchemaIsNotTrusted(t *testing.T) {
	t.Parallel()
	db, err := sqlite.OpenWriter(t.Context(), filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var trusted bool
	if err := db.QueryRowContext(t.Context(), `PRAGMA trusted_schema`).Scan(&trusted); err != nil || trusted {
		t.Error(trusted, err)
	}
}

// Files beside a ledger may lead elsewhere, or never end.
func TestFilesBesideLedger(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("links need a privilege there")
	}
	for _, suffix := range []string{lockSuffix, claimSuffix, "-wal", "-shm", journalSuffix} {
		dir := t.TempDir()
		path, victim := filepath.Join(dir, "ledger.db"), filepath.Join(dir, "victim")
		l, err := Open(t.Context(), path, Options{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		_ = os.Remove(path + suffix)
		if err := os.Symlink(victim, path+suffix); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), path, Options{NoSync: true}); err == nil || !strings.Contains(err.Error(), suffix) {
			t.Errorf("%s: %v", suffix, err)
		}
		if _, err := Repair(t.Context(), path); err == nil || !strings.Contains(err.Error(), suffix) {
			t.Errorf("%s: repair: %v", suffix, err)
		}
		if _, err := os.Lstat(victim); err == nil {
			t.Errorf("%s: something was written through it", suffix)
		}
	}
}

// Repairing copies the file, which may have a hole of 1 TiB: that can be stopped.
func TestRepairStops(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger.db")
	l, err := Open(t.Context(), path, Options{NoSync: true})
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	stopped := errors.New("stopped")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stopped)
	if err := copyFile(ctx, path, path+".copy"); !errors.Is(err, stopped) {
		t.Error(err)
	}
	if err := copyFile(t.Context(), path, path+".whole"); err != nil {
		t.Error(err)
	}
	want, err := os.ReadFile(path)
	got, errGot := os.ReadFile(path + ".whole")
	if err := errors.Join(err, errGot); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, not %d: %v", len(got), len(want), err)
	}
}
