package sqliteledger

import (
	"context"
	"database/sql"
	"errors"
	"iter"
	"time"

	"github.com/carload/carload/internal/sqlite"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/receipts"
)

// hasVerified distinguishes ledgers of this version from earlier ones.
func hasVerified(ctx context.Context, q interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
},
) bool {
	var there bool
	err := q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?)`, verifiedTable.name).Scan(&there)
	return err == nil && there
}

// addVerified adds the table to a ledger of an earlier version.
func addVerified(ctx context.Context, read *sqlite.Reader, write *sqlite.Writer) error {
	if hasVerified(ctx, read) {
		return nil
	}
	return write.Update(ctx, func(tx *sqlite.Writer) error {
		if hasVerified(ctx, tx) { // another process was faster
			return nil
		}
		_, err := tx.ExecContext(ctx, verifiedSchema)
		if code := sqlite.Code(err); code == 1 { // it exists, but is damaged or not what it was
			err = damaged("%w", err)
		}
		return err
	})
}

func putSource(ctx context.Context, tx *sqlite.Writer, s receipts.Source) error {
	id := sourceID(s.Target, s.Source)
	return errors.Join(
		sourcesTable.put(ctx, tx, id, s.Target, s.Source, s.Root.Bytes(), s.MaxShardBytes, s.Base.Bytes(), micro(s.At)),
		verifiedTable.put(ctx, tx, id, s.Bytes, s.Level.String()),
	)
}

// exportBatch is how many rows are read at a time. No transaction is open while
// they are written, which may take long.
const exportBatch = 1000

// Export yields what the ledger knows: each upload with its receipts, and the
// last upload of each source. Suspects and descriptions only make sense on this
// host, and are left out. Concurrent changes may be included or not.
func (l *Ledger) Export(ctx context.Context) iter.Seq2[receipts.Record, error] {
	return func(yield func(receipts.Record, error) bool) {
		for u, err := range l.exportedUploads(ctx) {
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(receipts.Upload{UploadKey: u.UploadKey, Begun: u.Begun, Verified: u.Finished}, nil) {
				return
			}
			for r, err := range l.exportedReceipts(ctx, u.UploadKey) {
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
		for s, err := range l.exportedSources(ctx) {
			if !yield(s, err) || err != nil {
				return
			}
		}
	}
}

// batches yields what next returns, until it returns less than a batch.
func batches[T any](next func() ([]T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for {
			list, err := next()
			for _, v := range list {
				if !yield(v, nil) {
					return
				}
			}
			if err != nil {
				var none T
				yield(none, err)
			}
			if err != nil || len(list) < exportBatch {
				return
			}
		}
	}
}

func (l *Ledger) exportedUploads(ctx context.Context) iter.Seq2[Upload, error] {
	last := []byte{}
	return batches(func() (list []Upload, err error) {
		err = l.each(ctx, uploadsTable, `WHERE id > ? ORDER BY id LIMIT ?`, []any{last, exportBatch}, func(r row) error {
			u, err := uploadOf(r)
			list, last = append(list, u), r[0].([]byte)
			return err
		})
		return list, err
	})
}

func (l *Ledger) exportedReceipts(ctx context.Context, u uploader.UploadKey) iter.Seq2[receipts.Receipt, error] {
	last := -1
	return batches(func() (list []receipts.Receipt, err error) {
		err = l.each(ctx, receiptsTable, `WHERE upload = ? AND shard > ? ORDER BY shard LIMIT ?`, []any{uploadID(u), last, exportBatch}, func(r row) error {
			archive, err := cidOf(r[2])
			last = int(r[1].(int64))
			list = append(list, receipts.Receipt{UploadKey: u, Index: last, CID: archive})
			return err
		})
		return list, err
	})
}

func (l *Ledger) exportedSources(ctx context.Context) iter.Seq2[receipts.Source, error] {
	last := []byte{}
	return batches(func() (list []receipts.Source, err error) {
		first, at := last, map[string]int{}
		err = l.each(ctx, sourcesTable, `WHERE id > ? ORDER BY id LIMIT ?`, []any{first, exportBatch}, func(r row) error {
			s, err := sourceOf(r)
			last = r[0].([]byte)
			at[string(last)] = len(list)
			list = append(list, s)
			return err
		})
		if err != nil || len(list) == 0 {
			return list, err
		}
		return list, l.each(ctx, verifiedTable, `WHERE id > ? AND id <= ?`, []any{first, last}, func(r row) error {
			if i, ok := at[string(r[0].([]byte))]; ok {
				return addVerification(&list[i], r)
			}
			return nil
		})
	})
}

func sourceOf(r row) (s receipts.Source, err error) {
	s.Source, s.At = r[2].(string), moment(r[6])
	s.UploadKey, err = keyOf(r[1], r[3], r[4], r[5])
	return s, err
}

// errEnough ends a query when no more rows are wanted.
var errEnough = errors.New("enough")

// LastSources yields the last upload of each source to each target, ordered by
// path and then target.
func (l *Ledger) LastSources(ctx context.Context) iter.Seq2[receipts.Source, error] {
	return func(yield func(receipts.Source, error) bool) {
		err := l.each(ctx, sourcesTable, `ORDER BY source, target`, nil, func(r row) error {
			s, err := sourceOf(r)
			if err == nil {
				err = l.verified(ctx, &s)
			}
			if err == nil && !yield(s, nil) {
				err = errEnough
			}
			return err
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(receipts.Source{}, err)
		}
	}
}

// verified adds what else is known of a source.
func (l *Ledger) verified(ctx context.Context, s *receipts.Source) error {
	return l.find(ctx, verifiedTable, `WHERE id = ?`, []any{sourceID(s.Target, s.Source)}, func(r row) error {
		return addVerification(s, r)
	})
}

func addVerification(s *receipts.Source, r row) error {
	s.Bytes, s.Known = r[1].(int64), true
	return s.Level.UnmarshalText([]byte(r[2].(string)))
}

// Import adds records of another ledger and returns how many. What this ledger
// has stays: if both have a receipt, this ledger's counts; of the last uploads
// of a source, the later one counts. If records yields an error, Import ends,
// and keeps what came before.
func (l *Ledger) Import(ctx context.Context, records iter.Seq2[receipts.Record, error]) (n int, err error) {
	next, stop := iter.Pull2(records)
	defer stop()
	for more := true; more; {
		batch := make([]receipts.Record, 0, exportBatch)
		for len(batch) < exportBatch {
			r, err, ok := next()
			if err != nil {
				return n, err
			}
			if more = ok; !ok {
				break
			}
			batch = append(batch, r)
		}
		if err := context.Cause(ctx); err != nil {
			return n, err
		}
		err := l.change(ctx, func(ctx context.Context, tx *sqlite.Writer) error {
			for _, r := range batch {
				if err := take(ctx, tx, r); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return n, err
		}
		n += len(batch)
	}
	return n, nil
}

// take merges a record.
func take(ctx context.Context, tx *sqlite.Writer, r receipts.Record) error {
	switch r := r.(type) {
	case receipts.Upload:
		return takeUpload(ctx, tx, Upload{UploadKey: r.UploadKey, Begun: r.Begun, Finished: r.Verified})
	case receipts.Receipt:
		id := uploadID(r.UploadKey)
		var known bool
		if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM receipts WHERE upload = ? AND shard = ?)`, id, r.Index).Scan(&known); err != nil || known {
			return err
		}
		if err := takeUpload(ctx, tx, Upload{UploadKey: r.UploadKey, Begun: time.Now()}); err != nil {
			return err
		}
		return receiptsTable.put(ctx, tx, id, int64(r.Index), r.CID.Bytes())
	case receipts.Source:
		var at int64
		err := tx.QueryRowContext(ctx, `SELECT finished FROM sources WHERE id = ?`, sourceID(r.Target, r.Source)).Scan(&at)
		if err == nil && at >= micro(r.At) {
			return nil
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if r.Known {
			return putSource(ctx, tx, r)
		}
		if err := putSource(ctx, tx, r); err != nil {
			return err
		}
		return verifiedTable.remove(ctx, tx, sourceID(r.Target, r.Source))
	}
	return nil
}

// takeUpload adds an upload, or what is new in it.
func takeUpload(ctx context.Context, tx *sqlite.Writer, u Upload) error {
	known := false
	err := each(ctx, tx, uploadsTable, `WHERE id = ?`, []any{uploadID(u.UploadKey)}, func(r row) error {
		here, err := uploadOf(r)
		known = true
		if here.Begun.Before(u.Begun) || u.Begun.IsZero() {
			u.Begun = here.Begun
		}
		if here.Finished.After(u.Finished) {
			u.Finished = here.Finished
		}
		return err
	}, nil)
	if err != nil {
		return err
	}
	if !known && u.Begun.IsZero() {
		u.Begun = time.Now()
	}
	return u.put(ctx, tx)
}

// Unfinished yields uploads that have receipts but were never verified.
func (l *Ledger) Unfinished(ctx context.Context) iter.Seq2[Upload, error] {
	return func(yield func(Upload, error) bool) {
		for u, err := range l.exportedUploads(ctx) {
			if (err != nil || u.Finished.IsZero()) && !yield(u, err) {
				return
			}
		}
	}
}
