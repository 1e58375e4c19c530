package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/carload/carload/internal/sqlite"
)

// OpenReadOnly opens the store in opts.Dir for reading. It writes nothing
// there, so the store may be on read-only media. Changes fail with
// [ErrReadOnly]. Several processes may open a store this way. If a process has
// it open for writing, the error is [ErrLocked]; if it needs repair, the error
// is [ErrUnfinished]. The caller closes the store.
func OpenReadOnly(ctx context.Context, opts Options) (_ *Store, err error) {
	st := newStore(opts)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open store %s for reading: %w", opts.Dir, err), st.Close())
		}
	}()
	path := filepath.Join(opts.Dir, databaseName)
	if _, err := os.Stat(path); err != nil {
		return nil, err
	}
	if err := regularFiles(path); err != nil {
		return nil, err
	}
	if st.lock, err = shareDir(opts.Dir); err != nil {
		return nil, err
	}
	if err := st.finished(path); err != nil {
		return nil, err
	}
	// Immutable: SQLite neither looks for other files nor locks this one.
	if st.db.read, err = sqlite.OpenReader(path, 8, "mode=ro", "immutable=1"); err != nil {
		return nil, err
	}
	var version int
	if err := st.db.read.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return nil, fmt.Errorf("read version of index: %w", err)
	}
	if version != schemaVersion {
		return nil, fmt.Errorf("the index has version %d and would have to be upgraded to %d: %w", version, schemaVersion, ErrReadOnly)
	}
	if err := onlyTables(ctx, st.db.read); err != nil {
		return nil, err
	}
	rebuilding, err := exists(ctx, st.db.read, `SELECT 1 FROM settings WHERE name = ?`, settingRebuilding)
	if err == nil && rebuilding {
		err = ErrRebuilding
	}
	if err != nil {
		return nil, err
	}
	return st, st.db.read.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = 'salt'`).Scan(&st.salt)
}

// finished returns an error if the last process left something behind that only
// opening the store for writing takes care of.
func (st *Store) finished(path string) error {
	if info, err := os.Stat(path + "-wal"); err == nil && info.Size() > 0 {
		return ErrUnfinished
	}
	left, err := filepath.Glob(filepath.Join(st.files.dir, journalDir, "*.car"))
	if err == nil && len(left) > 0 {
		err = ErrUnfinished
	}
	return err
}
