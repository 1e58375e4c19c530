package service

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
)

// nft is an upload as clients see it.
type nft struct {
	CID     string          `json:"cid"`
	Created string          `json:"created"`
	Type    string          `json:"type"`
	Scope   string          `json:"scope"`
	Files   json.RawMessage `json:"files"`
	Size    int64           `json:"size"`
	Name    *string         `json:"name,omitempty"`
	Parts   []string        `json:"parts"`
	Pin     pin             `json:"pin"`
	Deals   []struct{}      `json:"deals"`
}

type pin struct {
	CID     string `json:"cid"`
	Created string `json:"created"`
	Size    *int64 `json:"size"`
	Status  string `json:"status"`
}

// statusColumn is the status of a content c and its fetch f. Whether it is
// pinned is always worked out, so it cannot be out of date.
const statusColumn = `CASE
	WHEN CASE WHEN c.codec IN (112, 113, 297)
		THEN EXISTS (SELECT 1 FROM nodes n WHERE n.mh = c.mh AND n.codec = c.codec AND n.pending = -1)
		ELSE EXISTS (SELECT 1 FROM blocks b WHERE b.mh = c.mh) END THEN 'pinned'
	WHEN f.state IN ('queued', 'failed') THEN f.state
	ELSE 'pinning' END`

const uploadColumns = `u.id, u.source_cid, u.inserted, u.type, u.mime, k.name, u.files, u.name,
	c.size, c.created, ` + statusColumn + `
	FROM uploads u JOIN contents c ON c.cid = u.content_cid
	LEFT JOIN keys k ON k.id = u.key_id LEFT JOIN fetches f ON f.content_cid = u.content_cid`

// scanNFT reads a row of uploadColumns. The parts are looked up after.
func scanNFT(scan scanRow) (n nft, id int64, err error) {
	var inserted, created int64
	var kind, mime, files string
	var scope, name sql.NullString
	var size sql.NullInt64
	err = scan(&id, &n.CID, &inserted, &kind, &mime, &scope, &files, &name, &size, &created, &n.Pin.Status)
	if err != nil {
		return n, 0, err
	}
	n.Created = timestamp(inserted)
	n.Type = map[string]string{typeNFT: "nft", typeMultipart: "directory", typeRemote: "remote"}[kind]
	if n.Type == "" {
		n.Type = mime
	}
	if n.Scope = scope.String; !scope.Valid {
		n.Scope = "session"
	}
	n.Files = json.RawMessage(files)
	n.Size = size.Int64
	if name.Valid {
		n.Name = &name.String
	}
	n.Deals = []struct{}{}
	n.Pin.CID, n.Pin.Created, n.Pin.Size = n.CID, timestamp(created), &size.Int64
	return n, id, nil
}

// parts lists the CIDs of the shards of an upload, in the order in which they
// came.
func (s *Service) parts(ctx context.Context, uploadID int64) ([]string, error) {
	out := []string{}
	err := eachRow(ctx, s.st.read,
		`SELECT s.cid FROM upload_shards us JOIN shards s ON s.id = us.shard_id WHERE us.upload_id = ? ORDER BY us.seq`, []any{uploadID},
		func(scan scanRow) error {
			var raw []byte
			if err := scan(&raw); err != nil {
				return err
			}
			c, err := cid.Cast(raw)
			out = append(out, c.String())
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("list parts: %w", err)
	}
	return out, nil
}

// lookup finds a user's upload by the CID that it was uploaded under.
func (s *Service) lookup(ctx context.Context, userID int64, source string) (*nft, error) {
	row := s.st.read.QueryRowContext(ctx,
		`SELECT `+uploadColumns+` WHERE u.user_id = ? AND u.source_cid = ? AND u.deleted IS NULL`, userID, source)
	n, id, err := scanNFT(row.Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, notFound()
	}
	if err != nil {
		return nil, fmt.Errorf("look up upload: %w", err)
	}
	n.Parts, err = s.parts(ctx, id)
	return &n, err
}

// parseCID parses a CID as the original does, which knows base58 and base32.
func parseCID(s string) (cid.Cid, error) {
	if s == "" || !strings.HasPrefix(s, "Qm") && s[0] != 'z' && s[0] != 'b' {
		return cid.Undef, invalidCID(s)
	}
	c, err := cid.Decode(s)
	if err != nil {
		return cid.Undef, invalidCID(s)
	}
	return c, nil
}

func (s *Service) get(c *call) error {
	root, err := parseCID(c.param)
	if err != nil {
		return err
	}
	n, err := s.lookup(c.r.Context(), c.who.userID, root.String())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, n)
}

// check answers for anyone, about content of anyone.
func (s *Service) check(c *call) error {
	root, err := parseCID(c.param)
	if err != nil {
		return err
	}
	var size sql.NullInt64
	var created int64
	p := pin{CID: root.String()}
	err = s.st.read.QueryRowContext(c.r.Context(), `SELECT c.size, c.created, `+statusColumn+
		` FROM contents c LEFT JOIN fetches f ON f.content_cid = c.cid WHERE c.cid = ?`,
		keyOf(root).cid().String()).Scan(&size, &created, &p.Status)
	if errors.Is(err, sql.ErrNoRows) {
		return notFound()
	}
	if err != nil {
		return fmt.Errorf("look up content: %w", err)
	}
	p.Created = timestamp(created)
	if size.Valid {
		p.Size = &size.Int64
	}
	return c.reply(http.StatusOK, struct {
		CID   string     `json:"cid"`
		Pin   pin        `json:"pin"`
		Deals []struct{} `json:"deals"`
	}{root.String(), p, []struct{}{}})
}

func (s *Service) list(c *call) error {
	query := c.r.URL.Query()
	limit, err := pageLimit(query.Get("limit"))
	if err != nil {
		return badRequest("invalid params")
	}
	before, err := queryTime(query.Get("before"))
	if err != nil {
		return badRequest("invalid params")
	}
	var count int
	err = s.st.read.QueryRowContext(c.r.Context(),
		`SELECT count(*) FROM uploads WHERE user_id = ? AND deleted IS NULL AND inserted <= ?`, c.who.userID, before).Scan(&count)
	if err != nil {
		return fmt.Errorf("count uploads: %w", err)
	}
	out := []nft{}
	var ids []int64
	err = eachRow(c.r.Context(), s.st.read, `SELECT `+uploadColumns+
		` WHERE u.user_id = ? AND u.deleted IS NULL AND u.inserted <= ? ORDER BY u.inserted DESC LIMIT ?`,
		[]any{c.who.userID, before, limit}, func(scan scanRow) error {
			n, id, err := scanNFT(scan)
			out, ids = append(out, n), append(ids, id)
			return err
		})
	if err != nil {
		return fmt.Errorf("list uploads: %w", err)
	}
	for i, id := range ids {
		if out[i].Parts, err = s.parts(c.r.Context(), id); err != nil {
			return err
		}
	}
	c.w.Header().Set("Count", strconv.Itoa(count))
	c.w.Header().Set("Access-Control-Expose-Headers", "Count")
	return c.reply(http.StatusOK, out)
}

const (
	defaultPage = 10
	maxPage     = 1000
)

func pageLimit(s string) (int, error) {
	if s == "" {
		return defaultPage, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxPage {
		return 0, errors.New("limit out of range")
	}
	return n, nil
}

// queryTime parses a time of a query in microseconds; the default is the end
// of time.
func queryTime(s string) (int64, error) {
	if s == "" {
		return 1 << 62, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return 0, err
	}
	return t.UnixMicro(), nil
}

// remove forgets an upload. Its shards stay until they are collected.
func (s *Service) remove(c *call) error {
	root, err := parseCID(c.param)
	if err != nil {
		return err
	}
	gone, err := s.forget(c.r.Context(), c.who.userID, root.String())
	if err != nil {
		return err
	}
	if !gone {
		return notFound()
	}
	return c.reply(http.StatusAccepted, nil)
}

func (s *Service) forget(ctx context.Context, userID int64, source string) (bool, error) {
	now := s.st.now()
	res, err := s.st.write.ExecContext(ctx,
		`UPDATE uploads SET deleted = ?, updated = ? WHERE user_id = ? AND source_cid = ? AND deleted IS NULL`,
		now, now, userID, source)
	if err != nil {
		return false, fmt.Errorf("delete upload: %w", err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}
