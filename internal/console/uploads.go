package console

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/store"
)

// upload is an upload as pages get it. Times are milliseconds since 1970,
// except Order: it is in microseconds, and pages ask for the uploads before it.
type upload struct {
	CID     string `json:"cid"`
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Type    string `json:"type"`
	Size    *int64 `json:"size"` // of the DAG, as its root claims; null if unknown
	Created int64  `json:"created"`
	Order   int64  `json:"order"`
	State   string `json:"state"`
	Reason  string `json:"reason,omitempty"`
	Key     string `json:"key"`
}

var states = map[store.State]string{
	store.StateIncomplete: "incomplete", store.StateComplete: "complete", store.StateQueued: "queued", store.StateFailed: "failed",
}

func newUpload(u store.Upload) upload {
	out := upload{
		CID: u.SourceCID, Kind: string(u.Kind), Type: u.Mime, Size: u.Content.Size, Created: u.Inserted.UnixMilli(), Order: u.Inserted.UnixMicro(),
		State: states[u.Content.State], Reason: u.Content.Reason,
	}
	if u.Name != nil {
		out.Name = *u.Name
	}
	if u.KeyName != nil {
		out.Key = *u.KeyName
	}
	return out
}

const (
	maxPage = 500
	// maxPageBytes limits the memory for reading a page of uploads.
	maxPageBytes = 4 << 20
	// maxShards is how many shards of an upload the reply lists.
	maxShards = 5000
)

// listUploads answers with a page of uploads, newest first. The parameter
// before skips those that are newer; a page may repeat the last uploads of the
// one before it.
func (c *Console) listUploads(w http.ResponseWriter, r *http.Request, s *session) {
	q := r.URL.Query()
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 1 || limit > maxPage {
		limit = 100
	}
	f := store.Filter{UserID: s.who.UserID, Limit: limit, MaxBytes: maxPageBytes}
	if before, err := strconv.ParseInt(q.Get("before"), 10, 64); err == nil && before > 0 {
		f.Before = time.UnixMicro(before + 1)
	}
	if search := strings.TrimSpace(q.Get("search")); search != "" {
		if _, err := cid.Decode(search); err == nil {
			f.Sources = []string{search}
		} else {
			f.Name, f.NamePart, f.NameFold = search, true, true
		}
	}
	if want := q.Get("state"); want != "" {
		f.States = []store.State{}
		for state, name := range states {
			if name == want || want == "incomplete" && state == store.StateQueued {
				f.States = append(f.States, state)
			}
		}
		slices.Sort(f.States)
		if len(f.States) == 0 {
			fail(w, http.StatusBadRequest, "There is no such state.")
			return
		}
	}
	found, count, err := c.st.Uploads(r.Context(), f)
	if err != nil {
		c.failed(w, r, err)
		return
	}
	out := struct {
		Uploads []upload `json:"uploads"`
		Count   int      `json:"count"` // of this page and all after it
	}{make([]upload, len(found)), count}
	for i, u := range found {
		out.Uploads[i] = newUpload(u)
	}
	reply(w, http.StatusOK, out)
}

type shard struct {
	CID     string `json:"cid"`
	Size    int64  `json:"size"`
	Created int64  `json:"created"`
	Damaged bool   `json:"damaged"`
	Key     string `json:"key"`
}

// showUpload answers with everything about an upload.
func (c *Console) showUpload(w http.ResponseWriter, r *http.Request, s *session) {
	u, err := c.st.Upload(r.Context(), s.who.UserID, r.PathValue("cid"))
	if err != nil {
		c.failed(w, r, err)
		return
	}
	shards, count, bytes, err := c.st.UploadShards(r.Context(), u.ID, maxShards)
	if err != nil {
		c.failed(w, r, err)
		return
	}
	out := struct {
		upload
		Shards     []shard `json:"shards"` // the first of them
		ShardCount int     `json:"shardCount"`
		ShardBytes int64   `json:"shardBytes"`
	}{newUpload(u), make([]shard, len(shards)), count, bytes}
	for i, p := range shards {
		out.Shards[i] = shard{p.CID.String(), p.Size, p.Created.UnixMilli(), p.Damaged, p.Key}
	}
	reply(w, http.StatusOK, out)
}
