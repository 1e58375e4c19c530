package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/carload/carload/internal/sqlite"
)

// newDatabase makes a database with an empty table t.
func newDatabase(t *testing.T) (*sqlite.Writer, *sqlite.Reader) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a name with ? and % in it.db")
	w, err := sqlite.OpenWriter(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.ExecContext(t.Context(), `CREATE TABLE t (n INTEGER PRIMARY KEY)`)
	r, rerr := sqlite.OpenReader(path, 2)
	if err := errors.Join(err, rerr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(r.Close(), w.Close()); err != nil {
			t.Error(err)
		}
	})
	return w, r
}

func count(t *testing.T, r *sqlite.Reader) (n int) {
	t.Helper()
	if err := r.QueryRowContext(t.Context(), `SELECT count(*) FROM t`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// An update takes effect as a whole or not at all, and the next one works.
func TestUpdate(t *testing.T) {
	t.Parallel()
	w, r := newDatabase(t)
	insert := func(n int) func(*sqlite.Writer) error {
		return func(w *sqlite.Writer) error {
			_, err := w.ExecContext(t.Context(), `INSERT INTO t VALUES (?)`, n)
			return err
		}
	}
	broken := errors.New("broken")
	for _, tt := range []struct {
		f    func(*sqlite.Writer) error
		fail bool
		want int
	}{
		{f: insert(1), want: 1},
		{f: func(w *sqlite.Writer) error { return errors.Join(insert(2)(w), broken) }, fail: true, want: 1},
		{f: func(w *sqlite.Writer) error { return errors.Join(insert(3)(w), insert(1)(w)) }, fail: true, want: 1}, // twice the same key
		{f: insert(4), want: 2},
	} {
		if err := w.Update(t.Context(), tt.f); (err != nil) != tt.fail {
			t.Errorf("update: %v", err)
		}
		if n := count(t, r); n != tt.want {
			t.Errorf("%d rows, want %d", n, tt.want)
		}
	}
}

// A statement that ran before sees a schema that has changed since.
func TestPreparedAfterChange(t *testing.T) {
	t.Parallel()
	w, r := newDatabase(t)
	for i := range 3 {
		if n := count(t, r); n != i {
			t.Errorf("%d rows, want %d", n, i)
		}
		if _, err := w.ExecContext(t.Context(), `INSERT INTO t (n) VALUES (?)`, i); err != nil {
			t.Fatal(err)
		}
		if _, err := w.ExecContext(t.Context(), fmt.Sprintf(`ALTER TABLE t ADD COLUMN c%d`, i)); err != nil {
			t.Fatal(err)
		}
	}
}

// More different queries than are kept prepared still work.
func TestManyQueries(t *testing.T) {
	t.Parallel()
	w, r := newDatabase(t)
	for i := range 600 {
		query := fmt.Sprintf(`SELECT %d`, i)
		var a, b int
		if err := errors.Join(r.QueryRowContext(t.Context(), query).Scan(&a), w.QueryRowContext(t.Context(), query).Scan(&b)); err != nil || a != i || b != i {
			t.Fatalf("%s: %d and %d, %v", query, a, b, err)
		}
	}
}

// Every method of a writer checks the context first.
func TestWriterContext(t *testing.T) {
	t.Parallel()
	w, _ := newDatabase(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, execErr := w.ExecContext(ctx, `INSERT INTO t VALUES (1)`)
	rows, queryErr := w.QueryContext(ctx, `SELECT n FROM t`)
	if queryErr == nil {
		queryErr = errors.Join(rows.Err(), rows.Close())
	}
	var n int
	for name, err := range map[string]error{
		"exec":   execErr,
		"query":  queryErr,
		"row":    w.QueryRowContext(ctx, `SELECT 1`).Scan(&n),
		"update": w.Update(ctx, func(*sqlite.Writer) error { return nil }),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.QueryRowContext(t.Context(), `SELECT count(*) FROM t`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d rows, %v", n, err)
	}
}

// A reader can't write, and the codes of errors are those of SQLite.
func TestReaderReads(t *testing.T) {
	t.Parallel()
	_, r := newDatabase(t)
	_, err := r.QueryContext(t.Context(), `INSERT INTO t VALUES (1) RETURNING n`)
	if err == nil || sqlite.Code(err)&0xff != sqlite.ReadOnly {
		t.Errorf("code %d: %v", sqlite.Code(err), err)
	}
	if n := count(t, r); n != 0 {
		t.Errorf("%d rows", n)
	}
	if code := sqlite.Code(errors.New("other")); code != sqlite.NotAnSQLite {
		t.Errorf("code %d", code)
	}
}
