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

	"github.com/carload/carload/uploader"
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
const schema = `
CREATE TABLE uploads (
	id              BLOB PRIMARY KEY,
	target          TEXT NOT NULL,
	root            BLOB NOT NULL,
	max_shard_bytes INTEGER NOT NULL,
	base            BLOB NOT NULL,
	begun           INTEGER NOT NULL,
	finished        INTEGER NOT NULL,
	sum             INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE receipts (
	upload  BLOB NOT NULL,
	shard   INTEGER NOT NULL,
	archive BLOB NOT NULL,
	sum     INTEGER NOT NULL,
	PRIMARY KEY (upload, shard)
) WITHOUT ROWID;

-- blocks is CIDs one after the other, each after its length.
CREATE TABLE suspects (
	id     BLOB PRIMARY KEY,
	target TEXT NOT NULL,
	root   BLOB NOT NULL,
	blocks BLOB NOT NULL,
	sum    INTEGER NOT NULL
) WITHOUT ROWID;

-- The last upload of a source that was finished.
CREATE TABLE sources (
	id              BLOB PRIMARY KEY,
	target          TEXT NOT NULL,
	source          TEXT NOT NULL,
	root            BLOB NOT NULL,
	max_shard_bytes INTEGER NOT NULL,
	base            BLOB NOT NULL,
	finished        INTEGER NOT NULL,
	sum             INTEGER NOT NULL
) WITHOUT ROWID;

-- Descriptions, under the name that they had first. seq is in the order in which
-- they were saved.
CREATE TABLE plans (
	id   BLOB PRIMARY KEY,
	seq  INTEGER NOT NULL,
	plan BLOB NOT NULL,
	sum  INTEGER NOT NULL
) WITHOUT ROWID;
` + verifiedSchema

// More about the last upload of a source, under the same id. Ledgers of earlier
// versions do not have this table; it is added when they are opened.
const verifiedSchema = `
CREATE TABLE verified (
	id    BLOB PRIMARY KEY,
	bytes INTEGER NOT NULL,
	level TEXT NOT NULL,
	sum   INTEGER NOT NULL
) WITHOUT ROWID;
`

const (
	tableUploads      = "uploads"
	tableReceipts     = "receipts"
	tableSuspects     = "suspects"
	tableSources      = "sources"
	tableVerified     = "verified"
	tableDescriptions = "plans"
)

var tables = [...]string{tableUploads, tableReceipts, tableSuspects, tableSources, tableDescriptions, tableVerified}

// row is the columns of a table except the sum: int64, string or []byte.
type row []any

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum computes the checksum of a row.
func sum(table string, r row) int64 {
	h := crc32.Checksum([]byte(table), castagnoli)
	add := func(kind byte, p []byte) {
		h = crc32.Update(h, castagnoli, append([]byte{kind}, binary.BigEndian.AppendUint64(nil, uint64(len(p)))...))
		h = crc32.Update(h, castagnoli, p)
	}
	for _, v := range r {
		switch v := v.(type) {
		case int64:
			add('i', binary.BigEndian.AppendUint64(nil, uint64(v)))
		case string:
			add('t', []byte(v))
		case []byte:
			add('b', v)
		default:
			add('?', nil)
		}
	}
	return int64(h)
}

// querier is a database or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// errSum reports one damaged row. Others may be intact.
var errSum = errors.New("a row does not match its checksum")

// each visits rows of a table. rest is the end of the query. A damaged row is
// not visited, but is an error that matches errSum; lost, if not nil, may
// ignore it.
func each(ctx context.Context, q querier, table, rest string, args []any, visit func(row) error, lost func(error) error) (err error) {
	rows, err := q.QueryContext(ctx, `SELECT * FROM `+table+` `+rest, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	values, into := make(row, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	last := len(columns) - 1
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		if values[last] != any(sum(table, values[:last])) {
			err = damaged("%s: %w", table, errSum)
			if lost != nil {
				err = lost(err)
			}
		} else {
			err = visit(values[:last])
		}
		if err != nil {
			return err
		}
	}
	return rows.Err()
}

// put adds a row, or replaces the one with the same key.
func put(ctx context.Context, tx *sql.Tx, table string, values ...any) error {
	args := append(values[:len(values):len(values)], sum(table, values))
	for i, v := range args {
		if p, ok := v.([]byte); ok && len(p) == 0 {
			args[i] = []byte{} // nil would be NULL
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO `+table+` VALUES (?`+strings.Repeat(`,?`, len(values))+`)`, args...)
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

func (u *Upload) put(ctx context.Context, tx *sql.Tx) error {
	return put(ctx, tx, tableUploads, uploadID(u.UploadKey), u.Target, u.Root.Bytes(), u.MaxShardBytes, u.Base.Bytes(), micro(u.Begun), micro(u.Finished))
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
