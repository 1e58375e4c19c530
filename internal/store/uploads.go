package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
)

// Kind says what an upload was made from.
type Kind string

// The kinds of uploads, as the index records them.
const (
	KindCAR       Kind = "Car"
	KindFile      Kind = "Blob"
	KindDirectory Kind = "Multipart"
	KindNFT       Kind = "Nft"
	KindPin       Kind = "Remote" // a pin: only a root, without blocks
)

// NewUpload is what the store records about an upload, besides its shards.
type NewUpload struct {
	Caller  *Caller
	Kind    Kind
	Mime    string
	Name    *string
	Files   string // JSON; empty means an empty list
	Meta    *string
	Origins *string
}

// Upload is a root that a user has uploaded, identified by the CID that it was
// uploaded under.
type Upload struct {
	ID        int64
	UserID    int64
	KeyID     *int64
	KeyName   *string
	SourceCID string
	Kind      Kind
	Mime      string
	Name      *string
	Files     string  // JSON
	Meta      *string // JSON
	Origins   *string // JSON
	Inserted  time.Time
	Updated   time.Time
	Content   Content
	Parts     []cid.Cid // the shards in the order of their arrival, without those that are known to be damaged
}

// Content is what is known about a root, whoever uploaded it.
type Content struct {
	CID     string
	Size    *int64 // nil if unknown
	Created time.Time
	State   State
	Reason  string // why fetching it failed
}

// State says whether everything below a root is held, and if not, what happens
// next. It is computed by each query, so it is always up to date.
type State int

// The states of a content.
const (
	StateIncomplete State = iota
	StateComplete
	StateQueued // will be fetched
	StateFailed // could not be fetched
)

// stateColumn computes the state of a content c with its fetch f.
// contentColumns are all the columns of a content.
var (
	stateColumn = fmt.Sprintf(`CASE
		WHEN CASE WHEN c.codec IN %s
			THEN EXISTS (SELECT 1 FROM nodes n WHERE n.mh = c.mh AND n.codec = c.codec AND n.pending = -1)
			ELSE EXISTS (SELECT 1 FROM blocks b WHERE b.mh = c.mh) END THEN %d
		WHEN f.state = 'queued' THEN %d
		WHEN f.state = 'failed' THEN %d
		ELSE %d END`, innerCodecs, StateComplete, StateQueued, StateFailed, StateIncomplete)
	contentColumns = `c.cid, c.size, c.created, COALESCE(f.reason, ''), ` + stateColumn
)

func (c *Content) fields(created *int64) []any {
	return []any{&c.CID, &c.Size, created, &c.Reason, &c.State}
}

// Content looks up a root, whoever uploaded it. If nobody did, the error
// matches [ErrNotFound].
func (st *Store) Content(ctx context.Context, root cid.Cid) (Content, error) {
	var c Content
	var created int64
	err := st.db.read.QueryRowContext(ctx, `SELECT `+contentColumns+
		` FROM contents c LEFT JOIN fetches f ON f.content_cid = c.cid WHERE c.cid = ?`, contentCID(root)).
		Scan(c.fields(&created)...)
	if errors.Is(err, sql.ErrNoRows) {
		return c, ErrNotFound
	}
	if err != nil {
		return c, fmt.Errorf("look up content: %w", err)
	}
	c.Created = time.UnixMicro(created)
	return c, nil
}

// contentCID returns the normal form of a root's CID.
func contentCID(root cid.Cid) string { return keyOf(root).cid().String() }

var uploadColumns = `u.id, u.user_id, u.key_id, k.name, u.source_cid, u.type, u.mime, u.name, u.files, u.meta, u.origins,
	u.inserted, u.updated, ` + contentColumns

const uploadTables = ` uploads u JOIN contents c ON c.cid = u.content_cid
	LEFT JOIN fetches f ON f.content_cid = c.cid LEFT JOIN keys k ON k.id = u.key_id`

func scanUpload(scan scanRow) (u Upload, err error) {
	var inserted, updated, created int64
	err = scan(append([]any{
		&u.ID, &u.UserID, &u.KeyID, &u.KeyName, &u.SourceCID, &u.Kind, &u.Mime, &u.Name, &u.Files, &u.Meta, &u.Origins,
		&inserted, &updated,
	}, u.Content.fields(&created)...)...)
	u.Inserted, u.Updated, u.Content.Created = time.UnixMicro(inserted), time.UnixMicro(updated), time.UnixMicro(created)
	return u, err
}

// Upload finds a user's upload by the CID that it was uploaded under. If there
// is none, the error matches [ErrNotFound].
func (st *Store) Upload(ctx context.Context, userID int64, source string) (Upload, error) {
	return findUpload(ctx, st.db.read, userID, source)
}

var uploadQuery = `SELECT ` + uploadColumns + ` FROM` + uploadTables + ` WHERE u.user_id = ? AND u.source_cid = ? AND u.deleted IS NULL`

func findUpload(ctx context.Context, q querier, userID int64, source string) (Upload, error) {
	u, err := scanUpload(q.QueryRowContext(ctx, uploadQuery, userID, source).Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return u, ErrNotFound
	}
	if err != nil {
		return u, fmt.Errorf("look up upload: %w", err)
	}
	page := []Upload{u}
	err = findParts(ctx, q, page)
	return page[0], err
}

// findParts looks up the parts of uploads.
func findParts(ctx context.Context, q querier, page []Upload) error {
	at, ids := make(map[int64]int, len(page)), make([]any, len(page))
	for i := range page {
		at[page[i].ID], ids[i] = i, page[i].ID
	}
	err := sized(`SELECT us.upload_id, s.cid FROM upload_shards us JOIN shards s ON s.id = us.shard_id
		WHERE us.upload_id IN (%s) AND NOT EXISTS (SELECT 1 FROM damage d WHERE d.shard = s.id) ORDER BY us.seq`, `?`, len(ids), ids,
		func(query string, args []any) error {
			return eachRow(ctx, q, query, args, func(scan scanRow) error {
				var id int64
				var part cid.Cid
				err := scan(&id, (*cidColumn)(&part))
				u := &page[at[id]]
				u.Parts = append(u.Parts, part)
				return err
			})
		})
	if err != nil {
		return fmt.Errorf("list parts: %w", err)
	}
	return nil
}

// Filter says which of a user's uploads to list.
type Filter struct {
	UserID  int64
	Kind    Kind     // empty for all
	Sources []string // nil for all
	States  []State  // nil for all
	Before  time.Time
	After   time.Time // Before and After exclude the time itself; zero means no bound
	Limit   int
	// MaxBytes ends the page after the upload with which the lists of files,
	// metadata and origins exceed it; 0 means no limit.
	MaxBytes int

	Name     string // empty for all
	NamePart bool   // match names that contain Name
	NameFold bool   // ignore case

	Meta map[string]string // entries that the metadata must have
}

// Uploads lists uploads, newest first, and returns the number of all that
// match.
func (st *Store) Uploads(ctx context.Context, f Filter) (page []Upload, count int, err error) {
	where, args := f.where()
	tables := ` uploads u`
	if f.States != nil {
		tables = uploadTables
	}
	if err := st.db.read.QueryRowContext(ctx, `SELECT count(*) FROM`+tables+where, args...).Scan(&count); err != nil {
		return nil, 0, fmt.Errorf("count uploads: %w", err)
	}
	bytes := 0
	full := errors.New("the page is full")
	err = eachRow(ctx, st.db.read, `SELECT `+uploadColumns+` FROM`+uploadTables+where+` ORDER BY u.inserted DESC LIMIT ?`, append(args, f.Limit),
		func(scan scanRow) error {
			u, err := scanUpload(scan)
			if err != nil {
				return err
			}
			page = append(page, u)
			bytes += len(u.Files) + length(u.Meta) + length(u.Origins)
			if f.MaxBytes > 0 && bytes > f.MaxBytes {
				return full
			}
			return nil
		})
	if err != nil && !errors.Is(err, full) {
		return nil, 0, fmt.Errorf("list uploads: %w", err)
	}
	return page, count, findParts(ctx, st.db.read, page)
}

func length(s *string) int {
	if s == nil {
		return 0
	}
	return len(*s)
}

// where returns the filter as an SQL condition.
func (f Filter) where() (string, []any) {
	cond, args := ` WHERE u.user_id = ? AND u.deleted IS NULL`, []any{f.UserID}
	and := func(c string, a ...any) { cond, args = cond+` AND `+c, append(args, a...) }
	if f.Kind != "" {
		and(`u.type = ?`, f.Kind)
	}
	if f.Sources != nil {
		and(`u.source_cid IN (`+marks(len(f.Sources))+`)`, anys(f.Sources)...)
	}
	if f.States != nil {
		and(stateColumn+` IN (`+marks(len(f.States))+`)`, anys(f.States)...)
	}
	if !f.Before.IsZero() {
		and(`u.inserted < ?`, f.Before.UnixMicro())
	}
	if !f.After.IsZero() {
		and(`u.inserted > ?`, f.After.UnixMicro())
	}
	for _, key := range slices.Sorted(maps.Keys(f.Meta)) {
		and(`EXISTS (SELECT 1 FROM json_each(u.meta) m WHERE m.key = ? AND m.value = ?)`, key, f.Meta[key])
	}
	escape := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace
	switch {
	case f.Name == "":
	case f.NameFold && f.NamePart:
		and(`u.name LIKE ? ESCAPE '\'`, "%"+escape(f.Name)+"%")
	case f.NameFold:
		and(`u.name LIKE ? ESCAPE '\'`, escape(f.Name))
	case f.NamePart:
		and(`instr(u.name, ?) > 0`, f.Name)
	default:
		and(`u.name = ?`, f.Name)
	}
	return cond, args
}

func marks(n int) string { return "?" + strings.Repeat(",?", n-1) }

func anys[T any](list []T) []any {
	out := make([]any, len(list))
	for i, v := range list {
		out[i] = v
	}
	return out
}

// Rename gives a user's upload another name. If there is none, the error
// matches [ErrNotFound].
func (st *Store) Rename(ctx context.Context, userID int64, source string, name *string) error {
	res, err := st.db.exec(ctx, `UPDATE uploads SET name = ?, updated = ?
		WHERE user_id = ? AND source_cid = ? AND deleted IS NULL`, name, st.now(), userID, source)
	return changed(res, err, "rename upload")
}

// Forget deletes a user's upload. Its shards stay until they are collected. If
// there is no such upload, the error matches [ErrNotFound].
func (st *Store) Forget(ctx context.Context, userID int64, source string) error {
	now := st.now()
	res, err := st.db.exec(ctx, `UPDATE uploads SET deleted = ?, updated = ?
		WHERE user_id = ? AND source_cid = ? AND deleted IS NULL`, now, now, userID, source)
	return changed(res, err, "delete upload")
}

func changed(res sql.Result, err error, doing string) error {
	var n int64
	if err == nil {
		n, err = res.RowsAffected()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	if n == 0 {
		return ErrNotFound
	}
	return nil
}

// recordUpload inserts an upload. If it exists, it overwrites what each shard
// of an upload overwrites.
func recordUpload(ctx context.Context, tx execer, root cid.Cid, size int64, up *NewUpload, now int64) (id int64, err error) {
	content, err := recordContent(ctx, tx, root, size, now)
	if err != nil {
		return 0, err
	}
	files := up.Files
	if files == "" {
		files = "[]"
	}
	err = tx.QueryRowContext(ctx,
		`INSERT INTO uploads (user_id, key_id, source_cid, content_cid, type, mime, name, files, meta, origins, inserted, updated)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (user_id, source_cid) DO UPDATE SET name = excluded.name, meta = excluded.meta, origins = excluded.origins,
			mime = excluded.mime, type = excluded.type, updated = excluded.updated, deleted = NULL
		RETURNING id`,
		up.Caller.UserID, keyOrNull(up.Caller.KeyID), root.String(), content, up.Kind, up.Mime, up.Name, files, up.Meta, up.Origins, now, now).
		Scan(&id)
	return id, err
}

func keyOrNull(id int64) sql.NullInt64 { return sql.NullInt64{Int64: id, Valid: id != 0} }

// recordContent records a root under its CIDv1, and returns that CID. It keeps
// the first size that is known.
func recordContent(ctx context.Context, tx execer, root cid.Cid, size, now int64) (string, error) {
	k := keyOf(root)
	content := contentCID(root)
	_, err := tx.ExecContext(ctx, `INSERT INTO contents (cid, mh, codec, size, created) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (cid) DO UPDATE SET size = excluded.size WHERE size IS NULL AND excluded.size IS NOT NULL`,
		content, []byte(k.mh), k.codec, sql.NullInt64{Int64: size, Valid: size >= 0}, now)
	return content, err
}
