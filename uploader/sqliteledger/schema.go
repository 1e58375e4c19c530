package sqliteledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/sqlite"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/receipts"
)

// The database header says that this is a ledger, and of which version.
const (
	applicationID = 0x63617264
	version       = 1
)

// Ids have a fixed length, so that targets and files with any name can be keys.
// CIDs are in binary form, empty for none. Times are microseconds since 1970, 0
// for never. The last column of each table is a checksum of the others; see
// sum. There are no separate indexes, which might contradict their tables.
const (
	uploadsSchema = `CREATE TABLE uploads (
	id              BLOB PRIMARY KEY,
	target          TEXT NOT NULL,
	root            BLOB NOT NULL,
	max_shard_bytes INTEGER NOT NULL,
	base            BLOB NOT NULL,
	begun           INTEGER NOT NULL,
	finished        INTEGER NOT NULL,
	sum             INTEGER NOT NULL
) WITHOUT ROWID`

	receiptsSchema = `CREATE TABLE receipts (
	upload  BLOB NOT NULL,
	shard   INTEGER NOT NULL,
	archive BLOB NOT NULL,
	sum     INTEGER NOT NULL,
	PRIMARY KEY (upload, shard)
) WITHOUT ROWID`

	// blocks is CIDs one after the other, each after its length.
	suspectsSchema = `CREATE TABLE suspects (
	id     BLOB PRIMARY KEY,
	target TEXT NOT NULL,
	root   BLOB NOT NULL,
	blocks BLOB NOT NULL,
	sum    INTEGER NOT NULL
) WITHOUT ROWID`

	// The last upload of a source that was finished.
	sourcesSchema = `CREATE TABLE sources (
	id              BLOB PRIMARY KEY,
	target          TEXT NOT NULL,
	source          TEXT NOT NULL,
	root            BLOB NOT NULL,
	max_shard_bytes INTEGER NOT NULL,
	base            BLOB NOT NULL,
	finished        INTEGER NOT NULL,
	sum             INTEGER NOT NULL
) WITHOUT ROWID`

	// Descriptions, under the name that they had first. seq is in the order in
	// which they were saved.
	plansSchema = `CREATE TABLE plans (
	id   BLOB PRIMARY KEY,
	seq  INTEGER NOT NULL,
	plan BLOB NOT NULL,
	sum  INTEGER NOT NULL
) WITHOUT ROWID`

	// More about the last upload of a source, under the same id. Ledgers of
	// earlier versions do not have this table; it is added when they are opened.
	verifiedSchema = `CREATE TABLE verified (
	id    BLOB PRIMARY KEY,
	bytes INTEGER NOT NULL,
	level TEXT NOT NULL,
	sum   INTEGER NOT NULL
) WITHOUT ROWID`
)

// table is a table as carload makes it.
type table struct {
	name    string
	schema  string
	columns []column        // except the sum
	valid   func(row) error // reports values that carload does not write; may be nil

	selected string // the beginning of a query for whole rows
	inserted string // adds a row, or replaces the one with the same key
	removed  string // removes the row with this id
}

// maxValueBytes limits a value, which is in memory several times while it is
// read.
const maxValueBytes = 64 << 20

func newTable(name, schema string, valid func(row) error, columns ...column) *table {
	var b strings.Builder
	b.WriteString("SELECT ")
	for _, c := range columns {
		// A value that is too large is NULL instead: SQLite knows its size
		// without reading it.
		fmt.Fprintf(&b, "CASE WHEN octet_length(%[1]s) <= %[2]d THEN %[1]s END, ", c.name, maxValueBytes)
	}
	return &table{
		name: name, schema: schema, columns: columns, valid: valid,
		selected: b.String() + "sum FROM " + name + " ",
		inserted: `INSERT OR REPLACE INTO ` + name + ` VALUES (?` + strings.Repeat(`,?`, len(columns)) + `)`,
		removed:  `DELETE FROM ` + name + ` WHERE id = ?`,
	}
}

// column is a column, and the type of its values.
type column struct {
	name string
	kind kindOfValue
}

type kindOfValue int

const (
	blobValue kindOfValue = iota
	textValue
	integerValue
)

func (k kindOfValue) fits(v any) (ok bool) {
	switch k {
	case blobValue:
		_, ok = v.([]byte)
	case textValue:
		_, ok = v.(string)
	case integerValue:
		_, ok = v.(int64)
	}
	return ok
}

var (
	uploadsTable = newTable("uploads", uploadsSchema, validUpload,
		column{"id", blobValue}, column{"target", textValue}, column{"root", blobValue}, column{"max_shard_bytes", integerValue},
		column{"base", blobValue}, column{"begun", integerValue}, column{"finished", integerValue})
	receiptsTable = newTable("receipts", receiptsSchema, validReceipt,
		column{"upload", blobValue}, column{"shard", integerValue}, column{"archive", blobValue})
	suspectsTable = newTable("suspects", suspectsSchema, validSuspects,
		column{"id", blobValue}, column{"target", textValue}, column{"root", blobValue}, column{"blocks", blobValue})
	sourcesTable = newTable("sources", sourcesSchema, validSource,
		column{"id", blobValue}, column{"target", textValue}, column{"source", textValue}, column{"root", blobValue},
		column{"max_shard_bytes", integerValue}, column{"base", blobValue}, column{"finished", integerValue})
	descriptionsTable = newTable("plans", plansSchema, nil,
		column{"id", blobValue}, column{"seq", integerValue}, column{"plan", blobValue})
	verifiedTable = newTable("verified", verifiedSchema, func(r row) error { return addVerification(new(receipts.Source), r) },
		column{"id", blobValue}, column{"bytes", integerValue}, column{"level", textValue})

	tables = [...]*table{uploadsTable, receiptsTable, suspectsTable, sourcesTable, descriptionsTable, verifiedTable}
)

// whole returns an error if the values of a row are not what belongs into its
// columns, or do not match its checksum.
func (t *table) whole(r row, s any) error {
	for i, c := range t.columns {
		if !c.kind.fits(r[i]) {
			return fmt.Errorf("%w: %s", errValue, c.name)
		}
	}
	if s != any(t.sum(r)) {
		return errSum
	}
	return nil
}

// sound returns an error if a row can't have come from carload. Anyone who can
// write the file can make the checksum match.
func (t *table) sound(r row) error {
	if t.valid == nil {
		return nil
	}
	if err := t.valid(r); err != nil {
		return fmt.Errorf("%w: %w", errValue, err)
	}
	return nil
}

func validUpload(r row) error {
	u, err := uploadOf(r)
	if err != nil {
		return err
	}
	return errors.Join(soundKey(u.UploadKey), soundTime(u.Begun), soundTime(u.Finished))
}

func validReceipt(r row) error {
	archive, err := cidOf(r[2])
	if err == nil && !isShard(r[1].(int64), archive) {
		err = fmt.Errorf("shard %d with the CID %s", r[1], archive)
	}
	return err
}

func validSuspects(r row) error {
	_, err := decodeCIDs(r[3].([]byte))
	return err
}

func validSource(r row) error {
	s, err := sourceOf(r)
	if err != nil {
		return err
	}
	return errors.Join(soundKey(s.UploadKey), soundTime(s.At))
}

func soundKey(u uploader.UploadKey) error {
	if !u.Root.Defined() || u.MaxShardBytes < 0 {
		return errors.New("not an upload")
	}
	return nil
}

// soundTime refuses a time that JSON can't express.
func soundTime(t time.Time) error {
	if y := t.Year(); y < 0 || y > 9999 {
		return fmt.Errorf("the year %d", y)
	}
	return nil
}

func isShard(index int64, archive cid.Cid) bool {
	return 0 <= index && index <= 1<<31-1 && archive.Defined()
}

// row is the columns of a table except the sum: int64, string or []byte.
type row []any

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum computes the checksum of a row.
func (t *table) sum(r row) int64 {
	h := crc32.Checksum([]byte(t.name), castagnoli)
	var head [9]byte // the kind of a value, and its length
	var number [8]byte
	for _, v := range r {
		var p []byte
		switch v := v.(type) {
		case int64:
			head[0], p = 'i', number[:]
			binary.BigEndian.PutUint64(p, uint64(v))
		case string:
			head[0], p = 't', []byte(v)
		case []byte:
			head[0], p = 'b', v
		default:
			head[0] = '?'
		}
		binary.BigEndian.PutUint64(head[1:], uint64(len(p)))
		h = crc32.Update(h, castagnoli, head[:])
		h = crc32.Update(h, castagnoli, p)
	}
	return int64(h)
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Errors of one damaged row. Others may be intact.
var (
	errSum   = errors.New("a row does not match its checksum")
	errValue = errors.New("a row has a value that carload does not write")
)

// each visits rows of a table. rest is the end of the query. A damaged row is
// not visited, but is an error; lost, if not nil, may ignore it.
func each(ctx context.Context, q querier, t *table, rest string, args []any, visit func(row) error, lost func(error) error) (err error) {
	rows, err := q.QueryContext(ctx, t.selected+rest, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	last := len(t.columns)
	values, into := make(row, last+1), make([]any, last+1)
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if err = t.whole(values[:last], values[last]); err == nil {
			err = visit(values[:last])
		} else if err = damaged("%s: %w", t.name, err); lost != nil {
			err = lost(err)
		}
		if err != nil {
			return err
		}
	}
	return rows.Err()
}

// put adds a row, or replaces the one with the same key.
func (t *table) put(ctx context.Context, tx *sqlite.Writer, values ...any) error {
	args := append(values[:len(values):len(values)], t.sum(values))
	for i, v := range args {
		if p, ok := v.([]byte); ok && len(p) == 0 {
			args[i] = []byte{} // nil would be NULL
		}
	}
	_, err := tx.ExecContext(ctx, t.inserted, args...)
	return err
}

// remove removes a row, if it is there.
func (t *table) remove(ctx context.Context, tx *sqlite.Writer, id []byte) error {
	_, err := tx.ExecContext(ctx, t.removed, id)
	return err
}

const idSize = 16

// id makes a key from parts of any length.
func id(kind string, parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range append([][]byte{[]byte(kind)}, parts...) {
		_, _ = h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(p))))
		_, _ = h.Write(p)
	}
	return h.Sum(nil)[:idSize]
}

func uploadID(u uploader.UploadKey) []byte {
	parts := [][]byte{[]byte(u.Target), u.Root.Bytes(), binary.BigEndian.AppendUint64(nil, uint64(u.MaxShardBytes))}
	if u.Base.Defined() {
		parts = append(parts, u.Base.Bytes())
	}
	return id("upload", parts...)
}

func sourceID(target, source string) []byte { return id("source", []byte(target), []byte(source)) }

// rootID is the key for all uploads of a root to a target.
func rootID(u uploader.UploadKey) []byte { return id("root", []byte(u.Target), u.Root.Bytes()) }

func descriptionID(key string) []byte { return id("plan", []byte(key)) }

// Upload is what a ledger knows of an upload.
type Upload struct {
	uploader.UploadKey
	Receipts int
	Suspects int       // number of blocks that verification found missing or wrong
	Begun    time.Time // time of the first receipt
	Finished time.Time // time of verification; zero if not verified
}

func (u *Upload) put(ctx context.Context, tx *sqlite.Writer) error {
	return uploadsTable.put(ctx, tx, uploadID(u.UploadKey), u.Target, u.Root.Bytes(), u.MaxShardBytes, u.Base.Bytes(), micro(u.Begun), micro(u.Finished))
}

func uploadOf(r row) (u Upload, err error) {
	u.UploadKey, err = keyOf(r[1], r[2], r[3], r[4])
	u.Begun, u.Finished = moment(r[5]), moment(r[6])
	return u, err
}

// keyOf returns the key in some columns of a row whose checksum is right.
func keyOf(target, root, limit, base any) (u uploader.UploadKey, err error) {
	u.Target, u.MaxShardBytes = target.(string), limit.(int64)
	if u.Root, err = cidOf(root); err != nil {
		return u, err
	}
	u.Base, err = cidOf(base)
	return u, err
}

// cidOf returns the CID in a column of a row whose checksum is right.
func cidOf(v any) (cid.Cid, error) {
	p := v.([]byte)
	if len(p) == 0 {
		return cid.Undef, nil
	}
	c, err := cid.Cast(p)
	if err != nil {
		return cid.Undef, damaged("%x is not a CID: %v", p, err)
	}
	return c, nil
}

func micro(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func moment(v any) time.Time {
	if n := v.(int64); n != 0 {
		return time.UnixMicro(n).UTC()
	}
	return time.Time{}
}

func encodeCIDs(list []cid.Cid) []byte {
	p := []byte{}
	for _, c := range list {
		p = append(binary.AppendUvarint(p, uint64(c.ByteLen())), c.Bytes()...)
	}
	return p
}

func decodeCIDs(p []byte) ([]cid.Cid, error) {
	var list []cid.Cid
	for len(p) > 0 {
		n, used := binary.Uvarint(p)
		if used <= 0 || n > uint64(len(p)-used) {
			return nil, damaged("a list of CIDs is truncated")
		}
		c, err := cid.Cast(p[used : used+int(n)])
		if err != nil {
			return nil, damaged("a list of CIDs: %v", err)
		}
		list = append(list, c)
		p = p[used+int(n):]
	}
	return list, nil
}

func damaged(f string, args ...any) error {
	return fmt.Errorf("%w: %w", uploader.ErrLedgerDamaged, fmt.Errorf(f, args...))
}
