package service

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

// maxJSONBytes bounds the bodies that are JSON, which are held in memory.
const maxJSONBytes = 1 << 20

// readJSON decodes the body. What is not JSON gets the answer that JavaScript's
// parser got.
func (c *call) readJSON(v any) error {
	raw, err := io.ReadAll(io.LimitReader(c.body, maxJSONBytes+1))
	if err != nil {
		return err
	}
	if len(raw) > maxJSONBytes {
		return tooLarge()
	}
	if err := json.Unmarshal(raw, v); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) && kind.Field != "" {
			return badRequest("%s is not a %s", kind.Field, kind.Type)
		}
		return failure(http.StatusInternalServerError, "SyntaxError", "the body is not JSON: %v", err)
	}
	return nil
}

// uploadRow is an upload as the original's database had it.
type uploadRow struct {
	ID         int64           `json:"id"`
	UserID     int64           `json:"user_id"`
	KeyID      *int64          `json:"key_id"`
	ContentCID string          `json:"content_cid"`
	SourceCID  string          `json:"source_cid"`
	MimeType   string          `json:"mime_type"`
	Type       string          `json:"type"`
	Name       *string         `json:"name"`
	Files      json.RawMessage `json:"files"`
	Origins    json.RawMessage `json:"origins"`
	Meta       json.RawMessage `json:"meta"`
	BackupURLs []string        `json:"backup_urls"`
	Inserted   string          `json:"inserted_at"`
	Updated    string          `json:"updated_at"`
	Deleted    *string         `json:"deleted_at"`
}

// rename answers PATCH /upload/:cid. Its failures are successes to HTTP, as
// they were in the original.
func (s *Service) rename(c *call) error {
	var in struct {
		Name *string `json:"name"`
	}
	row := uploadRow{BackupURLs: []string{}}
	err := c.readJSON(&in)
	if err == nil {
		err = s.st.update(c.r.Context(), func(tx *sql.Tx) error {
			var inserted, updated int64
			var files string
			var origins, meta sql.NullString
			err := tx.QueryRowContext(c.r.Context(), `UPDATE uploads SET name = ?, updated = ?
				WHERE user_id = ? AND source_cid = ? AND deleted IS NULL
				RETURNING id, user_id, key_id, content_cid, source_cid, mime, type, name, files, origins, meta, inserted, updated`,
				in.Name, s.st.now(), c.who.userID, c.param).
				Scan(&row.ID, &row.UserID, &row.KeyID, &row.ContentCID, &row.SourceCID, &row.MimeType, &row.Type, &row.Name,
					&files, &origins, &meta, &inserted, &updated)
			if errors.Is(err, sql.ErrNoRows) {
				return notFound()
			}
			row.Files, row.Origins, row.Meta = json.RawMessage(files), rawOrNull(origins), rawOrNull(meta)
			row.Inserted, row.Updated = timestamp(inserted), timestamp(updated)
			return err
		})
	}
	if api, expected := asAPIError(err); err != nil && expected {
		return writeJSON(c.w, http.StatusOK, struct {
			OK    bool   `json:"ok"`
			Value string `json:"value"`
		}{false, api.message})
	}
	if err != nil {
		return err
	}
	parts, err := s.parts(c.r.Context(), row.ID)
	if err != nil {
		return err
	}
	for _, p := range parts {
		row.BackupURLs = append(row.BackupURLs, "/ipfs/"+p)
	}
	return c.reply(http.StatusOK, row)
}

func rawOrNull(s sql.NullString) json.RawMessage {
	if !s.Valid {
		return json.RawMessage("null")
	}
	return json.RawMessage(s.String)
}

// tokenRow is a key as the original's API had it. The secret is there only
// when the key is new: after that nobody knows it.
type tokenRow struct {
	ID      int64   `json:"id"`
	Name    string  `json:"name"`
	Secret  string  `json:"secret,omitempty"`
	UserID  int64   `json:"user_id"`
	Created string  `json:"inserted_at"`
	Deleted *string `json:"deleted_at"`
}

func (s *Service) listTokens(c *call) error {
	keys, err := s.keys(c.r.Context(), `k.user_id = ?`, c.who.userID)
	if err != nil {
		return err
	}
	out := make([]tokenRow, len(keys))
	for i, k := range keys {
		out[i] = tokenRow{ID: k.ID, Name: k.Name, UserID: c.who.userID, Created: timestamp(k.Created.UnixMicro())}
	}
	return c.reply(http.StatusOK, out)
}

// createToken makes a key for the caller's user, with the caller's limits: a
// key cannot give away more than it has.
func (s *Service) createToken(c *call) error {
	var in struct {
		Name string `json:"name"`
	}
	if err := c.readJSON(&in); err != nil {
		return err
	}
	if in.Name == "" {
		return thrown("Token name is required.")
	}
	var user string
	if err := s.st.read.QueryRowContext(c.r.Context(), `SELECT name FROM users WHERE id = ?`, c.who.userID).Scan(&user); err != nil {
		return fmt.Errorf("look up user: %w", err)
	}
	k, token, err := s.CreateKeyWith(c.r.Context(), KeyOptions{
		Name: in.Name, User: user, RateLimited: c.who.rateLimited, QuotaBytes: c.who.quota,
	})
	if errors.Is(err, ErrKeyExists) {
		return thrown("A token of this name exists already.")
	}
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, tokenRow{
		ID: k.ID, Name: k.Name, Secret: token, UserID: c.who.userID, Created: timestamp(k.Created.UnixMicro()),
	})
}

func (s *Service) deleteToken(c *call) error {
	var in struct {
		ID json.RawMessage `json:"id"`
	}
	if err := c.readJSON(&in); err != nil {
		return err
	}
	text, err := strconv.Unquote(string(in.ID))
	if err != nil {
		text = string(in.ID)
	}
	if text == "" || text == "null" {
		return thrown("Token id is required.")
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return thrown("Token not found.")
	}
	keys, err := s.keys(c.r.Context(), `k.user_id = ? AND k.id = ?`, c.who.userID, id)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return thrown("Token not found.")
	}
	if err := s.RevokeKey(c.r.Context(), id); err != nil && !errors.Is(err, ErrKeyNotFound) {
		return err
	}
	return c.reply(http.StatusOK, nil)
}

func (s *Service) tags(c *call) error {
	return c.reply(http.StatusOK, struct {
		HasAccountRestriction bool
		HasPsaAccess          bool
		HasDeleteRestriction  bool
		HasSuperHotAccess     bool
		StorageLimitBytes     string
	}{c.who.restricted, c.who.pinning, c.who.deleteRestricted, false, quotaText(c.who.quota)})
}

func quotaText(quota int64) string {
	if quota == 0 {
		return ""
	}
	return strconv.FormatInt(quota, 10)
}
