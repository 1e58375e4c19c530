package nftstorage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// Pages are as large as the API allows, unless uploads have so many parts that
// a page exceeds the limit for replies.
const (
	maxPageSize   = 1000
	leastPageSize = 10
)

// page requests a page of a list. get is called with the number of entries to
// ask for. If the reply is too large, for us or for the service, this page and
// all later ones are requested in a smaller size.
func (t *Target) page(get func(limit int) error) (limit int, err error) {
	for {
		size := t.pageSize.Load()
		err := get(int(size))
		var refused *APIError
		tooLarge := errors.Is(err, errTooLong) || errors.As(err, &refused) && refused.Status == http.StatusBadRequest
		if !tooLarge || size <= leastPageSize {
			return int(size), err
		}
		t.pageSize.CompareAndSwap(size, max(size/4, leastPageSize))
	}
}

type listed struct {
	nft
	Size    int64     `json:"size"`
	Created time.Time `json:"created"`
	Pin     struct {
		Status string `json:"status"`
		Name   string `json:"name"`
	} `json:"pin"`
	Name string `json:"name"`
}

// Page implements [uploader.Pager]. It returns the account's uploads, newest
// first. The cursor is the time with which a page begins.
func (t *Target) Page(ctx context.Context, cursor string) (held []uploader.Held, next string, err error) {
	var page []listed
	var header http.Header
	limit, err := t.page(func(limit int) (err error) {
		query := url.Values{"limit": {strconv.Itoa(limit)}}
		if cursor != "" {
			query.Set("before", cursor)
		}
		page = nil
		header, err = t.get(ctx, "/?"+query.Encode(), &page)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	for i := range page {
		u, err := page[i].upload()
		if err != nil {
			return held, "", err
		}
		held = append(held, u)
	}
	count, err := strconv.Atoi(header.Get("Count"))
	if more := err == nil && count > len(page) || err != nil && len(page) >= limit; !more || len(page) == 0 {
		return held, "", nil
	}
	next = page[len(page)-1].Created.UTC().Format(time.RFC3339Nano)
	if next == cursor {
		return held, "", t.stuck("uploads", len(page), cursor)
	}
	return held, next, nil
}

// List implements [uploader.Lister]. It yields the account's uploads, newest
// first.
func (t *Target) List(ctx context.Context) iter.Seq2[uploader.Held, error] {
	return func(yield func(uploader.Held, error) bool) {
		seen := map[string]bool{} // roots with the time at which the next page begins, since that time is inclusive
		at := ""
		for cursor := ""; ; {
			page, next, err := t.Page(ctx, cursor)
			for _, h := range page {
				if created := h.Created.UTC().Format(time.RFC3339Nano); created != at {
					at = created
					clear(seen)
				}
				key := h.Root.KeyString()
				if seen[key] {
					continue
				}
				seen[key] = true
				if !yield(h, nil) {
					return
				}
			}
			if err != nil {
				yield(uploader.Held{}, err)
				return
			}
			if next == "" {
				return
			}
			cursor = next
		}
	}
}

func (l *listed) upload() (uploader.Held, error) {
	parts, err := l.parts()
	if err == nil && !l.root().Defined() {
		err = bulk.WrongReply(fmt.Errorf("the reply lists %s as an upload, which is not a CID", bulk.Quote(l.CID)))
	}
	u := uploader.Held{Root: l.root(), Name: l.Name, Bytes: l.Size, Created: l.Created, State: uploader.State(l.Pin.Status), Parts: parts}
	if u.Name == "" {
		u.Name = l.Pin.Name
	}
	return u, err
}

// Delete implements [uploader.Deleter]. It removes an upload from the account.
// If there is no such upload, the error matches [uploader.ErrNotFound].
func (t *Target) Delete(ctx context.Context, root cid.Cid) error {
	resp, err := t.exchange(ctx, http.MethodDelete, "/"+root.String(), nil)
	if err != nil {
		return err
	}
	var env envelope
	if err := json.Unmarshal(resp, &env); err != nil || !env.OK {
		return bulk.WrongReply(fmt.Errorf("the reply of %s does not say that %s was deleted", t, root))
	}
	return nil
}

// Pin is a request to hold a DAG, as in the pinning service API.
type Pin struct {
	ID      string
	Cid     cid.Cid
	Name    string // as stored by the service
	State   uploader.State
	Created time.Time
}

type pinStatus struct {
	RequestID string    `json:"requestid"`
	Status    string    `json:"status"`
	Created   time.Time `json:"created"`
	Pin       struct {
		Cid  string `json:"cid"`
		Name string `json:"name,omitempty"`
	} `json:"pin"`
}

func (p *pinStatus) pin() (Pin, error) {
	c, err := cid.Decode(p.Pin.Cid)
	if err != nil {
		return Pin{}, bulk.WrongReply(fmt.Errorf("the reply lists %s as pinned, which is not a CID", bulk.Quote(p.Pin.Cid)))
	}
	return Pin{ID: p.RequestID, Cid: c, Name: p.Pin.Name, State: uploader.State(p.Status), Created: p.Created}, nil
}

// AddPin asks the service to hold a DAG, and to fetch the blocks that it lacks.
func (t *Target) AddPin(ctx context.Context, c cid.Cid, name string) (Pin, error) {
	var p pinStatus
	p.Pin.Cid, p.Pin.Name = c.String(), name
	body, err := json.Marshal(p.Pin)
	if err != nil {
		return Pin{}, err
	}
	if err := t.pins(ctx, http.MethodPost, "/pins", body, &p); err != nil {
		return Pin{}, err
	}
	return p.pin()
}

// RemovePin removes a pin by its ID.
func (t *Target) RemovePin(ctx context.Context, id string) error {
	return t.pins(ctx, http.MethodDelete, "/pins/"+url.PathEscape(id), nil, nil)
}

// Pins yields the account's pins in any state, newest first. If it yields an
// error, that is the last thing.
func (t *Target) Pins(ctx context.Context) iter.Seq2[Pin, error] {
	return func(yield func(Pin, error) bool) {
		before := ""
		seen := map[string]bool{}
		for {
			var page struct {
				Count   int         `json:"count"`
				Results []pinStatus `json:"results"`
			}
			_, err := t.page(func(limit int) error {
				query := url.Values{"limit": {strconv.Itoa(limit)}, "status": {"queued,pinning,pinned,failed"}}
				if before != "" {
					query.Set("before", before)
				}
				page.Count, page.Results = 0, nil
				return t.pins(ctx, http.MethodGet, "/pins?"+query.Encode(), nil, &page)
			})
			if err != nil {
				yield(Pin{}, err)
				return
			}
			fresh := 0
			for _, r := range page.Results {
				before = r.Created.UTC().Format(time.RFC3339Nano)
				if seen[r.RequestID] {
					continue
				}
				seen[r.RequestID] = true
				fresh++
				p, err := r.pin()
				if !yield(p, err) || err != nil {
					return
				}
			}
			if page.Count <= len(page.Results) {
				return
			}
			if fresh == 0 {
				yield(Pin{}, t.stuck("pins", len(page.Results), before))
				return
			}
		}
	}
}

// stuck reports a list that cannot be completed: the API's pages begin with a
// time, and more entries than fit on a page have this time.
func (t *Target) stuck(what string, size int, at string) error {
	return bulk.Permanent(fmt.Errorf("%s can't list all %s: it has %d or more of %s, which fill a page", t, what, size, at))
}

// pins makes a request to the pinning API, whose replies have no envelope.
func (t *Target) pins(ctx context.Context, method, path string, body []byte, v any) error {
	p, err := t.exchange(ctx, method, path, body)
	if err != nil || v == nil {
		return err
	}
	if err := json.Unmarshal(p, v); err != nil {
		return bulk.BrokenReply(fmt.Errorf("the reply of %s is not the API's JSON: %w", t, err))
	}
	return nil
}

// exchange sends a small request and returns the body of a successful reply.
func (t *Target) exchange(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	if err := t.turn(ctx); err != nil {
		return nil, err
	}
	ctx, dog, stop := bulk.Watch(ctx, t.opts.Stall)
	defer stop()
	var r io.Reader
	if body != nil {
		r = bytes.NewReader(body)
	}
	req, err := t.request(ctx, method, t.base, path, r)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	_, p, err := t.reply(req, dog) //nolint:bodyclose // it is closed there
	return p, err
}
