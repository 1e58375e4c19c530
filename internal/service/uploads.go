package service

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
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

// statuses are the names by which clients know the states of contents.
var statuses = map[store.State]string{
	store.StateIncomplete: "pinning", store.StateComplete: "pinned", store.StateQueued: "queued", store.StateFailed: "failed",
}

// asNFT converts an upload to the form that clients see.
func asNFT(u store.Upload) *nft {
	n := &nft{
		CID: u.SourceCID, Created: timestamp(u.Inserted), Type: u.Mime, Scope: "session",
		Files: json.RawMessage(u.Files), Name: u.Name, Deals: []struct{}{},
		Pin: pin{CID: u.SourceCID, Created: timestamp(u.Content.Created), Size: new(int64), Status: statuses[u.Content.State]},
	}
	switch u.Kind {
	case store.KindNFT:
		n.Type = "nft"
	case store.KindDirectory:
		n.Type = "directory"
	case store.KindPin:
		n.Type = "remote"
	}
	if u.KeyName != nil {
		n.Scope = *u.KeyName
	}
	if u.Content.Size != nil {
		n.Pin.Size = u.Content.Size
	}
	n.Size = *n.Pin.Size
	n.Parts = partsOf(u, "")
	return n
}

// partsOf lists the CIDs of an upload's shards, each with a prefix.
func partsOf(u store.Upload, prefix string) []string {
	out := make([]string, len(u.Parts))
	for i, c := range u.Parts {
		out[i] = prefix + c.String()
	}
	return out
}

// parseCID parses a CID in base58 or base32, as the original did.
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
	u, err := s.st.Upload(c.r.Context(), c.who.UserID, root.String())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, asNFT(u))
}

// check answers anyone, about anyone's content.
func (s *Service) check(c *call) error {
	root, err := parseCID(c.param)
	if err != nil {
		return err
	}
	content, err := s.st.Content(c.r.Context(), root)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, struct {
		CID   string     `json:"cid"`
		Pin   pin        `json:"pin"`
		Deals []struct{} `json:"deals"`
	}{root.String(), pin{root.String(), timestamp(content.Created), content.Size, statuses[content.State]}, []struct{}{}})
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
	if !before.IsZero() {
		before = before.Add(time.Microsecond) // the original includes the time itself
	}
	uploads, count, err := s.st.Uploads(c.r.Context(), store.Filter{UserID: c.who.UserID, Before: before, Limit: limit, MaxBytes: maxPageBytes})
	if err != nil {
		return err
	}
	out := make([]*nft, len(uploads))
	for i, u := range uploads {
		out[i] = asNFT(u)
	}
	c.w.Header().Set("Count", strconv.Itoa(count))
	c.w.Header().Set("Access-Control-Expose-Headers", "Count")
	return c.reply(http.StatusOK, out)
}

const (
	defaultPage = 10
	maxPage     = 1000

	// maxPageBytes limits the lists of files and the metadata in a page. If it
	// is reached, the page is shorter; the count shows that there is more.
	maxPageBytes = 4 << 20
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

// queryTime parses a time in a query. The default is the zero time.
func queryTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	return time.Parse(time.RFC3339Nano, s)
}

// remove deletes an upload. Its shards stay until they are collected.
func (s *Service) remove(c *call) error {
	root, err := parseCID(c.param)
	if err != nil {
		return err
	}
	if err := s.st.Forget(c.r.Context(), c.who.UserID, root.String()); err != nil {
		return err
	}
	return c.reply(http.StatusAccepted, nil)
}

// uploadRow is an upload as the original's database had it.
type uploadRow struct {
	ID         int64           `json:"id"`
	UserID     int64           `json:"user_id"`
	KeyID      *int64          `json:"key_id"`
	ContentCID string          `json:"content_cid"`
	SourceCID  string          `json:"source_cid"`
	MimeType   string          `json:"mime_type"`
	Type       store.Kind      `json:"type"`
	Name       *string         `json:"name"`
	Files      json.RawMessage `json:"files"`
	Origins    json.RawMessage `json:"origins"`
	Meta       json.RawMessage `json:"meta"`
	BackupURLs []string        `json:"backup_urls"`
	Inserted   string          `json:"inserted_at"`
	Updated    string          `json:"updated_at"`
	Deleted    *string         `json:"deleted_at"`
}

// rename answers PATCH /upload/:cid. As in the original, it reports failures
// with an HTTP status of success.
func (s *Service) rename(c *call) error {
	var in struct {
		Name *string `json:"name"`
	}
	err := c.readJSON(&in)
	if err == nil {
		err = s.st.Rename(c.r.Context(), c.who.UserID, c.param, in.Name)
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
	u, err := s.st.Upload(c.r.Context(), c.who.UserID, c.param)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, uploadRow{
		ID: u.ID, UserID: u.UserID, KeyID: u.KeyID, ContentCID: u.Content.CID, SourceCID: u.SourceCID, MimeType: u.Mime, Type: u.Kind,
		Name: u.Name, Files: json.RawMessage(u.Files), Origins: rawOrNull(u.Origins), Meta: rawOrNull(u.Meta), BackupURLs: partsOf(u, "/ipfs/"),
		Inserted: timestamp(u.Inserted), Updated: timestamp(u.Updated),
	})
}
