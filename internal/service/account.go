package service

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"

	"github.com/carload/carload/internal/store"
)

// tokenRow is a key in the form of the original's API. It includes the secret
// only when the key is created: the store keeps no copy of it.
type tokenRow struct {
	ID      int64   `json:"id"`
	Name    string  `json:"name"`
	Secret  string  `json:"secret,omitempty"`
	UserID  int64   `json:"user_id"`
	Created string  `json:"inserted_at"`
	Deleted *string `json:"deleted_at"`
}

func (s *Service) listTokens(c *call) error {
	keys, err := s.st.Keys(c.r.Context(), c.who.UserID)
	if err != nil {
		return err
	}
	out := make([]tokenRow, len(keys))
	for i, k := range keys {
		out[i] = tokenRow{ID: k.ID, Name: k.Name, UserID: c.who.UserID, Created: timestamp(k.Created)}
	}
	return c.reply(http.StatusOK, out)
}

// createToken makes a key for the caller's user with the caller's limits, since
// a key cannot grant more than it has.
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
	k, token, err := s.st.CreateKey(c.r.Context(), store.KeyOptions{
		Name: in.Name, User: c.who.UserName, RateLimited: c.who.RateLimited, QuotaBytes: c.who.QuotaBytes,
	})
	if errors.Is(err, store.ErrKeyExists) {
		return thrown("A token of this name exists already.")
	}
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, tokenRow{
		ID: k.ID, Name: k.Name, Secret: token, UserID: c.who.UserID, Created: timestamp(k.Created),
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
	keys, err := s.st.Keys(c.r.Context(), c.who.UserID)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(keys, func(k store.Key) bool { return k.ID == id }) {
		return thrown("Token not found.")
	}
	if err := s.st.RevokeKey(c.r.Context(), id); err != nil && !errors.Is(err, store.ErrKeyNotFound) {
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
	}{c.who.Restricted, c.who.Pinning, c.who.DeleteRestricted, false, quotaText(c.who.QuotaBytes)})
}

func quotaText(quota int64) string {
	if quota == 0 {
		return ""
	}
	return strconv.FormatInt(quota, 10)
}
