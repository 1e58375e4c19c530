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

const uploadColumns = `u.id, u.source_cid, u.inserted, u.type, u.mime, k.name, u.files, u.name,
	c.mh, c.codec, c.size, c.created, f.state
	FROM uploads u JOIN contents c ON c.cid = u.content_cid
	LEFT JOIN keys k ON k.id = u.key_id LEFT JOIN fetches f ON f.content_cid = u.content_cid`

// scanNFT reads a row of uploadColumns. The parts and the pin's status are
// looked up after.
func scanNFT(scan scanRow) (n nft, id int64, root nodeKey, fetch string, err error) {
	var inserted, created int64
	var kind, mime, files string
	var scope, name, state sql.NullString
	var mh []byte
	var size sql.NullInt64
	err = scan(&id, &n.CID, &inserted, &kind, &mime, &scope, &files, &name, &mh, &root.codec, &size, &created, &state)
	if err != nil {
		return n, 0, root, "", err
	}
	root.mh = string(mh)
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
	n.Pin = pin{CID: n.CID, Created: timestamp(created), Size: &n.Size}
	return n, id, root, state.String, nil
}

// complete fills in what scanNFT left.
func (s *Service) complete(ctx context.Context, n *nft, id int64, root nodeKey, fetch string) error {
	n.Parts = []string{}
	err := eachRow(ctx, s.st.read,
		`SELECT s.cid FROM upload_shards us JOIN shards s ON s.id = us.shard_id WHERE us.upload_id = ? ORDER BY us.seq`, []any{id},
		func(scan scanRow) error {
			var raw []byte
			if err := scan(&raw); err != nil {
				return err
			}
			c, err := cid.Cast(raw)
			n.Parts = append(n.Parts, c.String())
			return err
		})
	if err != nil {
		return fmt.Errorf("list parts: %w", err)
	}
	n.Pin.Status, err = s.pinStatus(ctx, root, fetch)
	return err
}

// pinStatus says pinned when all is held, and otherwise how a fetch is going.
func (s *Service) pinStatus(ctx context.Context, root nodeKey, fetch string) (string, error) {
	done, err := complete(ctx, s.st.read, root)
	switch {
	case err != nil:
		return "", err
	case done:
		return "pinned", nil
	case fetch == "queued", fetch == "failed":
		return fetch, nil
	}
	return "pinning", nil
}

// lookup finds a user's upload by the CID that it was uploaded under.
func (s *Service) lookup(ctx context.Context, userID int64, source string) (*nft, error) {
	row := s.st.read.QueryRowContext(ctx,
		`SELECT `+uploadColumns+` WHERE u.user_id = ? AND u.source_cid = ? AND u.deleted IS NULL`, userID, source)
	n, id, root, fetch, err := scanNFT(row.Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, notFound()
	}
	if err != nil {
		return nil, fmt.Errorf("look up upload: %w", err)
	}
	if err := s.complete(ctx, &n, id, root, fetch); err != nil {
		return nil, err
	}
	return &n, nil
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
	n, err := s.lookup(c.ctx, c.who.userID, root.String())
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
	k := keyOf(root)
	var size sql.NullInt64
	var created int64
	var fetch sql.NullString
	err = s.st.read.QueryRowContext(c.ctx,
		`SELECT c.size, c.created, f.state FROM contents c LEFT JOIN fetches f ON f.content_cid = c.cid WHERE c.cid = ?`,
		k.cid().String()).Scan(&size, &created, &fetch)
	if errors.Is(err, sql.ErrNoRows) {
		return notFound()
	}
	if err != nil {
		return fmt.Errorf("look up content: %w", err)
	}
	p := pin{CID: root.String(), Created: timestamp(created)}
	if size.Valid {
		p.Size = &size.Int64
	}
	if p.Status, err = s.pinStatus(c.ctx, k, fetch.String); err != nil {
		return err
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
	err = s.st.read.QueryRowContext(c.ctx,
		`SELECT count(*) FROM uploads WHERE user_id = ? AND deleted IS NULL AND inserted <= ?`, c.who.userID, before).Scan(&count)
	if err != nil {
		return fmt.Errorf("count uploads: %w", err)
	}
	type row struct {
		n     nft
		id    int64
		root  nodeKey
		fetch string
	}
	var rows []row
	err = eachRow(c.ctx, s.st.read, `SELECT `+uploadColumns+
		` WHERE u.user_id = ? AND u.deleted IS NULL AND u.inserted <= ? ORDER BY u.inserted DESC LIMIT ?`,
		[]any{c.who.userID, before, limit}, func(scan scanRow) error {
			var r row
			var err error
			r.n, r.id, r.root, r.fetch, err = scanNFT(scan)
			rows = append(rows, r)
			return err
		})
	if err != nil {
		return fmt.Errorf("list uploads: %w", err)
	}
	out := make([]nft, len(rows))
	for i := range rows {
		r := &rows[i]
		if err := s.complete(c.ctx, &r.n, r.id, r.root, r.fetch); err != nil {
			return err
		}
		out[i] = r.n
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
	gone, err := s.forget(c.ctx, c.who.userID, root.String())
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
