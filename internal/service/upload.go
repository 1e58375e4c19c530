package service

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ipfs/go-cid"
)

// What an upload is, as the original's database has it.
const (
	typeCAR       = "Car"
	typeBlob      = "Blob"
	typeMultipart = "Multipart"
	typeNFT       = "Nft"
	typeRemote    = "Remote"
	typeFetched   = "" // not an upload: blocks for those that pin the root
)

// submission is a shard that was received, and the upload that it is part of.
type submission struct {
	userID int64
	key    *caller // nil if no key had part in it
	root   cid.Cid
	kind   string
	mime   string
	name   string
	files  []fileEntry
	file   *incoming
	shard  shard
	bytes  int64 // of the file
	size   int64 // of the DAG; -1 if unknown
}

func (sub *submission) keyID() sql.NullInt64 {
	if sub.key == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: sub.key.keyID, Valid: true}
}

// fileEntry is a part of a multipart upload.
type fileEntry struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// upload answers POST /upload. What the body is, the content type decides.
func (s *Service) upload(c *call) error {
	mime := c.r.Header.Get("Content-Type")
	if err := s.checkQuota(c.r.Context(), s.st.read, c.who, max(c.r.ContentLength, 0), cid.Undef); err != nil {
		return err
	}
	switch {
	case strings.Contains(mime, "multipart/form-data"):
		return s.uploadMultipart(c)
	case strings.Contains(mime, "application/car"):
		return s.uploadCAR(c, mime)
	}
	return s.uploadBlob(c, mime)
}

func (s *Service) uploadCAR(c *call, mime string) (err error) {
	file, res, err := s.st.receive(c.r.Context(), c.body, c.r.ContentLength)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.remove()) }()
	return s.finish(c, &submission{
		root: res.root, kind: typeCAR, mime: mime, file: file,
		shard: shard{cid: res.cid, payload: res.payload, end: res.payloadEnd},
		bytes: res.size, size: res.facts.size,
	})
}

// uploadBlob takes any other body as a file, and imports it as the original
// did: unwrapped.
func (s *Service) uploadBlob(c *call, mime string) (err error) {
	in := bufio.NewReaderSize(c.body, 64<<10)
	if _, err := in.Peek(1); errors.Is(err, io.EOF) {
		return badRequest("empty payload")
	} else if err != nil {
		return err
	}
	b, err := s.st.newBuilder()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.file.remove()) }()
	root, err := b.addFile(in)
	if err != nil {
		return err
	}
	sub, err := b.finishNode(c.r.Context(), root)
	if err != nil {
		return err
	}
	sub.kind, sub.mime = typeBlob, mime
	return s.finish(c, sub)
}

// finish stores a submission and answers with the upload.
func (s *Service) finish(c *call, sub *submission) error {
	name, err := uploadName(c.r)
	if err != nil {
		return err
	}
	sub.userID, sub.key, sub.name = c.who.userID, c.who, name
	if err := s.accept(c.r.Context(), sub); err != nil {
		return err
	}
	// As in accept: what is stored is answered, even to a client that seems to
	// have hung up, for it may have closed only its own side.
	n, err := s.lookup(context.WithoutCancel(c.r.Context()), c.who.userID, sub.root.String())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, n)
}

// uploadName is the decoded X-Name, or what the original made up.
func uploadName(r *http.Request) (string, error) {
	raw := r.Header.Get("X-Name")
	if raw == "" {
		return "Upload at " + time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), nil
	}
	name, err := url.PathUnescape(raw)
	if err != nil || !utf8.ValidString(name) {
		return "", failure(http.StatusInternalServerError, "URIError", "URI malformed")
	}
	return name, nil
}

// accept makes a received shard part of the store. When it returns without an
// error, the shard is durable and counted.
func (s *Service) accept(ctx context.Context, sub *submission) error {
	if err := sub.file.sync(sub.bytes); err != nil {
		return err
	}
	// From here on a client that hangs up changes nothing.
	ctx = context.WithoutCancel(ctx)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return failure(http.StatusServiceUnavailable, "ERROR_MAINTENANCE", "The service is shutting down.")
	}
	start := time.Now()
	s.st.commit.Lock()
	defer s.st.commit.Unlock()
	err := sub.file.publish(sub.shard.cid)
	if err == nil {
		err = s.st.update(ctx, func(tx *sql.Tx) error {
			if err := s.checkQuota(ctx, tx, sub.key, sub.bytes, sub.shard.cid); err != nil {
				return err
			}
			return s.st.record(ctx, tx, sub)
		})
	}
	if err != nil && sub.file.done {
		// A commit that failed may have taken place: the index says.
		if known, kerr := s.st.knows(ctx, sub.shard.cid); kerr != nil {
			err = errors.Join(err, kerr) // the next start decides
		} else if !known {
			err = errors.Join(err, s.st.removeShard(sub.shard.cid))
		}
	}
	if err != nil {
		return fmt.Errorf("store shard %s: %w", sub.shard.cid, err)
	}
	s.metrics.shards.Inc()
	s.metrics.bytes.Add(float64(sub.bytes))
	s.metrics.index.Observe(time.Since(start).Seconds())
	return nil
}

func (st *store) knows(ctx context.Context, shardCID cid.Cid) (bool, error) {
	var is bool
	err := st.read.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM shards WHERE cid = ?)`, shardCID.Bytes()).Scan(&is)
	if err != nil {
		return false, fmt.Errorf("look up shard: %w", err)
	}
	return is, nil
}

// record writes what a submission adds to the database.
func (st *store) record(ctx context.Context, tx *sql.Tx, sub *submission) error {
	now := st.now()
	id, fresh, err := st.recordShard(ctx, tx, sub.shard, sub.bytes, now)
	if err != nil {
		return err
	}
	x := newIndexer(ctx, st, tx)
	if fresh {
		sub.shard.id = id
		if err := x.add(sub.shard); err != nil {
			return err
		}
	} else if err := x.settle(); err != nil { // a shard sent again mends what was damaged
		return err
	}
	if err := x.demandRoot(keyOf(sub.root)); err != nil {
		return err
	}
	if sub.kind == typeFetched {
		return recordFetched(ctx, tx, sub, id, now)
	}
	uploadID, err := recordUpload(ctx, tx, sub, now)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO upload_shards (upload_id, shard_id, key_id) VALUES (?, ?, ?)
		ON CONFLICT (upload_id, shard_id) DO UPDATE SET key_id = excluded.key_id`, uploadID, id, sub.keyID())
	return err
}

// recordFetched gives a shard to all pins of its root.
func recordFetched(ctx context.Context, tx *sql.Tx, sub *submission, shardID, now int64) error {
	content, err := recordContent(ctx, tx, sub.root, -1, now)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT OR IGNORE INTO upload_shards (upload_id, shard_id, key_id)
		SELECT id, ?, key_id FROM uploads WHERE content_cid = ? AND deleted IS NULL`, shardID, content)
	return err
}

func (st *store) recordShard(ctx context.Context, tx *sql.Tx, sh shard, size, now int64) (id int64, fresh bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id FROM shards WHERE cid = ?`, sh.cid.Bytes()).Scan(&id)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, false, err
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO shards (cid, size, payload, payload_end, created) VALUES (?, ?, ?, ?, ?)`,
		sh.cid.Bytes(), size, sh.payload, sh.end, now)
	if err != nil {
		return 0, false, err
	}
	id, err = res.LastInsertId()
	return id, true, err
}

// recordUpload inserts an upload, or updates what every shard of an upload
// overwrites.
func recordUpload(ctx context.Context, tx *sql.Tx, sub *submission, now int64) (id int64, err error) {
	content, err := recordContent(ctx, tx, sub.root, sub.size, now)
	if err != nil {
		return 0, err
	}
	if sub.files == nil {
		sub.files = []fileEntry{}
	}
	files, err := encodeJSON(sub.files)
	if err != nil {
		return 0, err
	}
	err = tx.QueryRowContext(ctx,
		`INSERT INTO uploads (user_id, key_id, source_cid, content_cid, type, mime, name, files, inserted, updated)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (user_id, source_cid) DO UPDATE SET name = excluded.name, meta = excluded.meta, origins = excluded.origins,
			mime = excluded.mime, type = excluded.type, updated = excluded.updated, deleted = NULL
		RETURNING id`,
		sub.userID, sub.keyID(), sub.root.String(), content, sub.kind, sub.mime, sub.name, string(files), now, now).Scan(&id)
	return id, err
}

// recordContent makes sure that what a root stands for is known, under its
// CIDv1, and returns that. The first to tell its size is believed.
func recordContent(ctx context.Context, tx *sql.Tx, root cid.Cid, size, now int64) (string, error) {
	k := keyOf(root)
	content := k.cid().String()
	_, err := tx.ExecContext(ctx, `INSERT OR IGNORE INTO contents (cid, mh, codec, size, created) VALUES (?, ?, ?, ?, ?)`,
		content, []byte(k.mh), k.codec, sql.NullInt64{Int64: size, Valid: size >= 0}, now)
	return content, err
}

// checkQuota reports an error if a key has no room for a shard of this size. One
// that counts already needs no room; as long as its CID is not known, the shard
// may be one that counts if it has the size of one.
func (s *Service) checkQuota(ctx context.Context, q querier, who *caller, size int64, shardCID cid.Cid) error {
	if who == nil || who.quota == 0 {
		return nil
	}
	same, this := `size = ?`, any(size)
	if shardCID.Defined() {
		same, this = `cid = ?`, shardCID.Bytes()
	}
	var used int64
	var counts bool
	err := q.QueryRowContext(ctx, `SELECT COALESCE(sum(size), 0), COALESCE(max(`+same+`), 0) FROM shards WHERE id IN
		(SELECT us.shard_id FROM upload_shards us JOIN uploads u ON u.id = us.upload_id WHERE us.key_id = ? AND u.deleted IS NULL)`,
		this, who.keyID).Scan(&used, &counts)
	if err != nil {
		return fmt.Errorf("add up quota: %w", err)
	}
	if !counts && used+size > who.quota {
		return failure(http.StatusForbidden, "ERROR_QUOTA_EXCEEDED",
			"The quota of this API Key is %d bytes, of which %d are used.", who.quota, used)
	}
	return nil
}
