package nftstorage

import (
	"bytes"
	"context"
	"encoding/json"
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

// pageSize keeps a page of uploads with hundreds of parts each below what is
// read of a reply.
const pageSize = 50

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

// List implements [uploader.Lister]: the account's uploads, the newest first.
func (t *Target) List(ctx context.Context) iter.Seq2[uploader.Held, error] {
	return func(yield func(uploader.Held, error) bool) {
		before := ""
		seen := map[string]bool{} // of the time that the next page begins with: it does so inclusively
		for {
			query := url.Values{"limit": {strconv.Itoa(pageSize)}}
			if before != "" {
				query.Set("before", before)
			}
			var page []listed
			if err := t.get(ctx, "/?"+query.Encode(), &page); err != nil {
				yield(uploader.Held{}, err)
				return
			}
			fresh := 0
			for _, l := range page {
				if at := l.Created.UTC().Format(time.RFC3339Nano); at != before {
					before = at
					clear(seen)
				}
				if seen[l.CID] {
					continue
				}
				seen[l.CID] = true
				fresh++
				u, err := l.upload()
				if !yield(u, err) || err != nil {
					return
				}
			}
			if len(page) < pageSize {
				return
			}
			if fresh == 0 {
				yield(uploader.Held{}, t.stuck("uploads", before))
				return
			}
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

// Delete implements [uploader.Deleter]: it takes an upload from the account. The error matches
// [uploader.ErrNotFound] if there is no such upload.
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

// Pin is a request to hold a DAG, by the pinning service API.
type Pin struct {
	ID      string
	Cid     cid.Cid
	Name    string // as the service has it
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

// AddPin asks the service to hold a DAG, and to fetch what it lacks.
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

// RemovePin withdraws a pin by its ID.
func (t *Target) RemovePin(ctx context.Context, id string) error {
	return t.pins(ctx, http.MethodDelete, "/pins/"+url.PathEscape(id), nil, nil)
}

// Pins yields the account's pins in any state, the newest first. An error is
// the last thing it yields.
func (t *Target) Pins(ctx context.Context) iter.Seq2[Pin, error] {
	return func(yield func(Pin, error) bool) {
		before := ""
		seen := map[string]bool{}
		for {
			query := url.Values{"limit": {strconv.Itoa(pageSize)}, "status": {"queued,pinning,pinned,failed"}}
			if before != "" {
				query.Set("before", before)
			}
			var page struct {
				Results []pinStatus `json:"results"`
			}
			if err := t.pins(ctx, http.MethodGet, "/pins?"+query.Encode(), nil, &page); err != nil {
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
			if len(page.Results) < pageSize {
				return
			}
			if fresh == 0 {
				yield(Pin{}, t.stuck("pins", before))
				return
			}
		}
	}
}

// stuck says that a list may go on, but can't be asked for: the pages of the
// API begin with a time, and this one has more than a page.
func (t *Target) stuck(what, at string) error {
	return bulk.Permanent(fmt.Errorf("%s can't list all %s: it has %d or more of %s, which fill a page", t, what, pageSize, at))
}

// pins makes a request of the pinning API, whose replies have no envelope.
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

// exchange sends a small request and returns the body of a good reply.
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
