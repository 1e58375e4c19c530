// Package sqliteledger keeps an [uploader.Ledger] in a file.
//
// The file is a SQLite database in WAL mode. Each change is on disk when the
// call returns, and several processes may have the file open. Every row has a
// checksum, and [Open] checks all rows and pages. A damaged ledger is refused,
// never quietly replaced; [Repair] saves what can be read.
//
// If path has a ledger that an earlier carload kept in a bbolt file, [Open]
// converts it and keeps the old file under another name.
package sqliteledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/sqlite"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/receipts"
)

// DefaultMaxDescriptionBytes is enough for some sixty files of 31 GiB.
const DefaultMaxDescriptionBytes = 64 << 20

// Options configure [Open].
type Options struct {
	// MaxDescriptionBytes limits the total size of descriptions; the oldest are
	// dropped first. 0 means DefaultMaxDescriptionBytes.
	MaxDescriptionBytes int64
	// NoSync leaves it to the operating system when a change reaches the disk.
	// It is for tests: a ledger that has lost changes in a crash sends shards
	// twice.
	NoSync bool
}

// Ledger is a ledger in a file. It is safe for concurrent use, also by several
// processes. It must be closed. If other programs change the file while it is
// open, calls may fail with an error that matches [uploader.ErrLedgerDamaged];
// then all later calls do too.
type Ledger struct {
	path string
	opts Options
	lock *os.File
	read *sqlite.Reader

	claims uploader.MemoryLedger // claims of this Ledger: a locked byte keeps out only other processes
	claim  *os.File

	queueMu sync.Mutex
	queue   []*change

	mu    sync.Mutex // held while write is used
	write *sqlite.Writer

	brokenMu sync.Mutex
	broken   error       // the first damage found
	file     os.FileInfo // as last seen; SQLite never makes the file smaller
}

var _ uploader.Ledger = (*Ledger)(nil)

// Open opens the ledger at path. If there is no file, it creates one, and its
// directory. The error matches [uploader.ErrLedgerLocked] if another process
// keeps it locked, and [uploader.ErrLedgerDamaged] if the ledger is damaged.
// The caller closes the ledger.
func Open(ctx context.Context, path string, opts Options) (*Ledger, error) {
	if opts.MaxDescriptionBytes == 0 {
		opts.MaxDescriptionBytes = DefaultMaxDescriptionBytes
	}
	l := &Ledger{path: path, opts: opts}
	if err := l.open(ctx); err != nil {
		return nil, fmt.Errorf("ledger %q: %w", path, errors.Join(explain(path, err), l.Close()))
	}
	return l, nil
}

func (l *Ledger) open(ctx context.Context) (err error) {
	if err := checkFiles(l.path); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o700); err != nil {
		return err
	}
	if l.lock, err = openLock(l.path + lockSuffix); err != nil {
		return err
	}
	if l.claim, err = openLock(l.path + claimSuffix); err != nil {
		return err
	}
	if err := settle(ctx, l.path, l.lock); err != nil {
		return err
	}
	if err = l.connect(ctx); !isDamage(err) {
		return err
	}
	// From here on, only SQLite may open the file: if we close it, the process
	// loses the locks that SQLite has on it.
	k, errKind := kindOf(l.path)
	switch {
	case errKind != nil:
		return errKind
	case k == bolt:
		if err := errors.Join(l.disconnect(), settleOld(ctx, l.path, l.lock)); err != nil {
			return err
		}
		return l.connect(ctx)
	case k == other:
		return damaged("the file is not a ledger")
	}
	return err
}

// connect opens the database and checks it.
func (l *Ledger) connect(ctx context.Context) (err error) {
	if err := writable(l.path); err != nil {
		return err
	}
	var params []string
	if l.opts.NoSync {
		params = []string{"_pragma=synchronous(OFF)"}
	}
	if l.write, err = sqlite.OpenWriter(ctx, l.path, params...); err != nil {
		return err
	}
	if l.read, err = sqlite.OpenReader(l.path, 2); err != nil {
		return err
	}
	if err := check(ctx, l.read); err != nil {
		return err
	}
	if err := addVerified(ctx, l.read, l.write); err != nil {
		return err
	}
	return l.look()
}

// check checks every page and every row.
func check(ctx context.Context, db *sqlite.Reader) error {
	// In one transaction, to see a consistent state.
	tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var id, v int
	if err := tx.QueryRowContext(ctx, `SELECT application_id, user_version FROM pragma_application_id, pragma_user_version`).Scan(&id, &v); err != nil {
		return err
	}
	if id == applicationID && v == version {
		// Checking a page of another schema might evaluate what it says.
		if err := checkSchema(ctx, tx); err != nil {
			return err
		}
	}
	var found string
	if err := tx.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&found); err != nil {
		return err
	}
	switch {
	case found != "ok":
		return damaged("%s", found)
	case id != applicationID:
		return damaged("it is the database of another program")
	case v != version:
		return fmt.Errorf("it was written by another version of carload (format %d, not %d): use that version", v, version)
	}
	for _, t := range tables {
		if t == verifiedTable && !hasVerified(ctx, tx) {
			continue
		}
		if err := each(ctx, tx, t, "", nil, t.soundOrDamaged, nil); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) soundOrDamaged(r row) error {
	if err := t.sound(r); err != nil {
		return damaged("%s: %w", t.name, err)
	}
	return nil
}

// checkSchema returns an error unless the database has the tables that carload
// makes, and nothing else: views and triggers would do what someone else wrote.
func checkSchema(ctx context.Context, q querier) (err error) {
	missing := map[string]string{}
	for _, t := range tables {
		missing[t.name] = t.schema
	}
	rows, err := q.QueryContext(ctx, `SELECT type, substr(name, 1, 64), CASE WHEN octet_length(sql) < 4096 THEN sql END FROM sqlite_schema`)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var kind, name string
		var made sql.NullString
		if err := rows.Scan(&kind, &name, &made); err != nil {
			return damaged("its schema: %w", err)
		}
		switch want, known := missing[name]; {
		case !known:
			return damaged("it has the %s %q, which this version of carload does not know", kind, name)
		case made.String != want:
			return damaged("its %s %q is not the table that carload makes", kind, name)
		}
		delete(missing, name)
	}
	delete(missing, verifiedTable.name)
	for name := range missing {
		err = damaged("it has no table %q", name)
	}
	return errors.Join(err, rows.Err())
}

func isDamage(err error) bool {
	code := sqlite.Code(err)
	return errors.Is(err, uploader.ErrLedgerDamaged) || code&0xff == sqlite.Corrupt || code&0xff == sqlite.NotADB || code == sqlite.ShortRead
}

// explain says what an error of SQLite means here, and what to do.
func explain(path string, err error) error {
	switch code := sqlite.Code(err) & 0xff; {
	case err == nil:
		return nil
	case code == sqlite.Busy:
		err = fmt.Errorf("%w: %w", uploader.ErrLedgerLocked, err)
	case isDamage(err) && !errors.Is(err, uploader.ErrLedgerDamaged):
		err = damaged("%w", err)
	case code == sqlite.CantOpen, code == sqlite.ReadOnly, code == sqlite.IOError:
		err = errors.Join(err, reason(path)) // SQLite does not give the reason
	}
	switch {
	case errors.Is(err, uploader.ErrLedgerLocked):
		return fmt.Errorf("%w: wait for the other process to end, or use another ledger", err)
	case errors.Is(err, uploader.ErrLedgerDamaged):
		return fmt.Errorf("%w; `carload ledger repair` keeps what can be read", err)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return fmt.Errorf("it can't be written to: %w", err)
	}
	return err
}

// reason finds the cause of an error by doing what SQLite did: it opens a few
// files.
func reason(path string) error {
	for range 3 {
		f, err := os.OpenFile(path+lockSuffix, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
	}
	return writable(path)
}

// Close closes the file.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.disconnect()
	for _, f := range []**os.File{&l.lock, &l.claim} {
		if *f != nil {
			err = errors.Join(err, (*f).Close())
			*f = nil
		}
	}
	return err
}

func (l *Ledger) disconnect() error {
	var errs []error
	if l.read != nil {
		errs = append(errs, l.read.Close())
	}
	if l.write != nil {
		errs = append(errs, l.write.Close())
	}
	l.read, l.write = nil, nil
	return errors.Join(errs...)
}

// Path is the path of the file.
func (l *Ledger) Path() string { return l.path }

// look detects a file that others have truncated, replaced or removed.
func (l *Ledger) look() error {
	l.brokenMu.Lock()
	defer l.brokenMu.Unlock()
	if l.broken != nil {
		return l.broken
	}
	info, err := os.Stat(l.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		l.broken = damaged("another program removed it while it was open")
	case err != nil:
		return err
	case l.file != nil && !os.SameFile(info, l.file):
		l.broken = damaged("another program replaced it while it was open")
	case l.file != nil && info.Size() < l.file.Size():
		l.broken = damaged("another program truncated it from %d to %d bytes while it was open", l.file.Size(), info.Size())
	default:
		l.file = info
	}
	return l.broken
}

// after explains the error of a call, and remembers damage.
func (l *Ledger) after(err error) error {
	if err == nil {
		return nil
	}
	err = explain(l.path, err)
	if errors.Is(err, uploader.ErrLedgerDamaged) {
		l.brokenMu.Lock()
		if l.broken == nil {
			l.broken = err
		}
		l.brokenMu.Unlock()
	}
	return fmt.Errorf("%q: %w", l.path, err)
}

// each visits rows of a table.
func (l *Ledger) each(ctx context.Context, t *table, rest string, args []any, visit func(row) error) error {
	err := l.look()
	if err == nil {
		if db := l.read; db != nil {
			err = each(ctx, db, t, rest, args, visit, nil)
		} else {
			err = os.ErrClosed
		}
	}
	return l.after(err)
}

// find is each for the few rows of one key. It does not watch the context
// meanwhile, which would cost more than the query.
func (l *Ledger) find(ctx context.Context, t *table, rest string, args []any, visit func(row) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.each(context.WithoutCancel(ctx), t, rest, args, visit)
}

// change is something to do in a transaction.
type change struct {
	f    func(context.Context, *sqlite.Writer) error
	done bool // done and err are guarded by Ledger.mu
	err  error
}

// change runs f in a transaction, which may be shared with concurrent calls:
// while one transaction is synced, the next changes gather. If one of them
// fails, each is run again by itself. Cancelling ctx does not interrupt it.
func (l *Ledger) change(ctx context.Context, f func(context.Context, *sqlite.Writer) error) error {
	c := &change{f: f}
	l.queueMu.Lock()
	l.queue = append(l.queue, c)
	l.queueMu.Unlock()

	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.done {
		runtime.Gosched() // those who can run may have changes too, and a commit costs more than they do
		l.queueMu.Lock()
		batch := l.queue
		l.queue = nil
		l.queueMu.Unlock()
		l.commit(context.WithoutCancel(ctx), batch)
	}
	return l.after(c.err)
}

// commit runs changes, and sets their outcomes. The caller holds mu.
func (l *Ledger) commit(ctx context.Context, batch []*change) {
	err := l.update(ctx, batch)
	for _, c := range batch {
		if c.err = err; err != nil && len(batch) > 1 {
			c.err = l.update(ctx, []*change{c})
		}
		c.done = true
	}
}

func (l *Ledger) update(ctx context.Context, batch []*change) error {
	if l.write == nil {
		return os.ErrClosed
	}
	if err := l.look(); err != nil {
		return err
	}
	return l.write.Update(ctx, func(tx *sqlite.Writer) error {
		for _, c := range batch {
			if err := c.f(ctx, tx); err != nil {
				return err
			}
		}
		return nil
	})
}

// Receipts implements [uploader.Ledger].
func (l *Ledger) Receipts(ctx context.Context, u uploader.UploadKey) (map[int]cid.Cid, error) {
	receipts := map[int]cid.Cid{}
	err := l.find(ctx, receiptsTable, `WHERE upload = ?`, []any{uploadID(u)}, func(r row) error {
		archive, err := cidOf(r[2])
		receipts[int(r[1].(int64))] = archive
		return err
	})
	return receipts, err
}

// Record implements [uploader.Ledger]. Concurrent calls may share a
// transaction.
func (l *Ledger) Record(ctx context.Context, u uploader.UploadKey, index int, archive cid.Cid) error {
	if err := checkShard(index, archive); err != nil {
		return err
	}
	return l.change(ctx, func(ctx context.Context, tx *sqlite.Writer) error {
		id := uploadID(u)
		var known bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM uploads WHERE id = ?)`, id).Scan(&known); err != nil {
			return err
		}
		if !known {
			begun := Upload{UploadKey: u, Begun: time.Now()}
			if err := begun.put(ctx, tx); err != nil {
				return err
			}
		}
		return receiptsTable.put(ctx, tx, id, int64(index), archive.Bytes())
	})
}

func checkShard(index int, archive cid.Cid) error {
	if !isShard(int64(index), archive) {
		return fmt.Errorf("record shard %d as %s: not a shard", index, archive)
	}
	return nil
}

// isFinished reports whether everything that Finish would write is there.
func (l *Ledger) isFinished(ctx context.Context, u uploader.UploadKey, f uploader.Finished) (bool, error) {
	there, suspects := false, false
	err := l.find(ctx, uploadsTable, `WHERE id = ?`, []any{uploadID(u)}, func(r row) error {
		known, err := uploadOf(r)
		there = !known.Finished.IsZero()
		return err
	})
	if err == nil && there && f.Source != "" {
		known := receipts.Source{UploadKey: u, Finished: uploader.Finished{Source: f.Source}}
		if known.UploadKey, err = l.Last(ctx, u.Target, f.Source); err == nil && known.UploadKey == u {
			err = l.verified(ctx, &known)
		}
		there = known.UploadKey == u && known.Finished == f
	}
	if err == nil && there {
		err = l.find(ctx, suspectsTable, `WHERE id = ?`, []any{rootID(u)}, func(row) error {
			suspects = true
			return nil
		})
	}
	return there && !suspects, err
}

// Finish implements [uploader.Ledger]. What is already recorded keeps its time.
func (l *Ledger) Finish(ctx context.Context, u uploader.UploadKey, archives map[int]cid.Cid, f uploader.Finished) error {
	for i, c := range archives {
		if err := checkShard(i, c); err != nil {
			return err
		}
	}
	if len(archives) == 0 {
		if known, err := l.isFinished(ctx, u, f); known || err != nil {
			return err
		}
	}
	return l.change(ctx, func(ctx context.Context, tx *sqlite.Writer) error {
		id := uploadID(u)
		var upload Upload // no root: not known
		err := each(ctx, tx, uploadsTable, `WHERE id = ?`, []any{id}, func(r row) (err error) {
			upload, err = uploadOf(r)
			return err
		}, nil)
		if len(archives) > 0 && !upload.Root.Defined() {
			upload = Upload{UploadKey: u, Begun: time.Now()}
		}
		for i, c := range archives {
			err = errors.Join(err, receiptsTable.put(ctx, tx, id, int64(i), c.Bytes()))
		}
		if upload.Root.Defined() {
			upload.Finished = time.Now()
			err = errors.Join(err, upload.put(ctx, tx))
		}
		if f.Source != "" {
			err = errors.Join(err, putSource(ctx, tx, receipts.Source{UploadKey: u, Finished: f, At: time.Now()}))
		}
		if err != nil {
			return err
		}
		return suspectsTable.remove(ctx, tx, rootID(u))
	})
}

// Last implements [uploader.Ledger].
func (l *Ledger) Last(ctx context.Context, target, source string) (u uploader.UploadKey, err error) {
	err = l.find(ctx, sourcesTable, `WHERE id = ?`, []any{sourceID(target, source)}, func(r row) (err error) {
		u, err = keyOf(r[1], r[3], r[4], r[5])
		return err
	})
	return u, err
}

// Sources implements [uploader.Ledger].
func (l *Ledger) Sources(ctx context.Context, target string, root cid.Cid) (list []string, err error) {
	err = l.each(ctx, sourcesTable, `WHERE target = ? AND root = ? ORDER BY finished DESC`, []any{target, root.Bytes()}, func(r row) error {
		list = append(list, r[2].(string))
		return nil
	})
	return list, err
}

// Forget implements [uploader.Ledger].
func (l *Ledger) Forget(ctx context.Context, u uploader.UploadKey) error {
	return l.change(ctx, func(ctx context.Context, tx *sqlite.Writer) error { return forget(ctx, tx, u) })
}

func forget(ctx context.Context, tx *sqlite.Writer, u uploader.UploadKey) error {
	id := uploadID(u)
	if _, err := tx.ExecContext(ctx, `DELETE FROM receipts WHERE upload = ?`, id); err != nil {
		return err
	}
	return uploadsTable.remove(ctx, tx, id)
}

// Suspects implements [uploader.Ledger].
func (l *Ledger) Suspects(ctx context.Context, u uploader.UploadKey) (blocks []cid.Cid, err error) {
	err = l.find(ctx, suspectsTable, `WHERE id = ?`, []any{rootID(u)}, func(r row) (err error) {
		blocks, err = decodeCIDs(r[3].([]byte))
		return err
	})
	return blocks, err
}

// Suspect implements [uploader.Ledger].
func (l *Ledger) Suspect(ctx context.Context, u uploader.UploadKey, blocks []cid.Cid) error {
	return l.change(ctx, func(ctx context.Context, tx *sqlite.Writer) error { return suspect(ctx, tx, u, blocks) })
}

func suspect(ctx context.Context, tx *sqlite.Writer, u uploader.UploadKey, blocks []cid.Cid) error {
	if len(blocks) == 0 {
		return suspectsTable.remove(ctx, tx, rootID(u))
	}
	list := encodeCIDs(blocks)
	if len(list) > maxValueBytes {
		return fmt.Errorf("%d blocks of %s are missing or wrong, more than a ledger records: make it forget the upload, and send all of it again", len(blocks), u.Root)
	}
	return suspectsTable.put(ctx, tx, rootID(u), u.Target, u.Root.Bytes(), list)
}

// Description implements [uploader.Ledger].
func (l *Ledger) Description(ctx context.Context, key string) (description []byte, err error) {
	err = l.find(ctx, descriptionsTable, `WHERE id = ?`, []any{descriptionID(key)}, func(r row) error {
		description = r[2].([]byte)
		return nil
	})
	return description, err
}

// SaveDescription implements [uploader.Ledger]. It does not keep a description
// that is larger than the limit for all descriptions, or than 64 MiB.
func (l *Ledger) SaveDescription(ctx context.Context, key string, description []byte) error {
	if int64(len(description)) > min(l.opts.MaxDescriptionBytes, maxValueBytes) {
		return nil
	}
	return l.change(ctx, func(ctx context.Context, tx *sqlite.Writer) error {
		return saveDescription(ctx, tx, descriptionID(key), description, l.opts.MaxDescriptionBytes)
	})
}

// saveDescription appends a description to the queue, and removes old ones from
// its head until the limit holds.
func saveDescription(ctx context.Context, tx *sqlite.Writer, id, description []byte, limit int64) error {
	if len(description) == 0 {
		return descriptionsTable.remove(ctx, tx, id)
	}
	var last int64
	if err := tx.QueryRowContext(ctx, `SELECT ifnull(max(seq), 0) FROM plans`).Scan(&last); err != nil {
		return err
	}
	if err := descriptionsTable.put(ctx, tx, id, last+1, description); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM plans WHERE id IN (SELECT id FROM
		(SELECT id, sum(length(plan)) OVER (ORDER BY seq DESC ROWS UNBOUNDED PRECEDING) AS total FROM plans) WHERE total > ?)`, limit)
	return err
}

// Uploads returns the uploads that have receipts.
func (l *Ledger) Uploads(ctx context.Context) ([]Upload, error) {
	var list []Upload
	err := l.each(ctx, uploadsTable, "", nil, func(r row) error {
		u, err := uploadOf(r)
		list = append(list, u)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range list {
		u := &list[i]
		blocks, err := l.Suspects(ctx, u.UploadKey)
		if err != nil {
			return nil, err
		}
		u.Suspects = len(blocks)
		if err := l.read.QueryRowContext(ctx, `SELECT count(*) FROM receipts WHERE upload = ?`, uploadID(u.UploadKey)).Scan(&u.Receipts); err != nil {
			return nil, l.after(err)
		}
	}
	return list, nil
}

// ForgetRoot drops all uploads of a root to all targets, including suspects,
// and returns how many there were.
func (l *Ledger) ForgetRoot(ctx context.Context, root cid.Cid) (int, error) {
	uploads, err := l.Uploads(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for _, u := range uploads {
		if !u.Root.Equals(root) {
			continue
		}
		n++
		if err := l.change(ctx, func(ctx context.Context, tx *sqlite.Writer) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM sources WHERE target = ? AND root = ?`, u.Target, u.Root.Bytes())
			return errors.Join(err, forget(ctx, tx, u.UploadKey), suspect(ctx, tx, u.UploadKey, nil))
		}); err != nil {
			return n, err
		}
	}
	return n, nil
}
