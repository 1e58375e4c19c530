package service

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/internal/links"
	"github.com/carload/carload/internal/store"
)

// pinStatus is a pin in the form of the pinning API. A pin is an upload and its
// request ID is the CID, so each user has at most one pin for each CID.
type pinStatus struct {
	RequestID string     `json:"requestid"`
	Status    string     `json:"status"`
	Created   string     `json:"created"`
	Pin       pinRequest `json:"pin"`
	Delegates []string   `json:"delegates"`
	Info      *pinInfo   `json:"info,omitempty"`
}

type pinInfo struct {
	Details string `json:"status_details"`
}

type pinRequest struct {
	CID     string          `json:"cid"`
	Meta    json.RawMessage `json:"meta"`
	Name    *string         `json:"name"`
	Origins json.RawMessage `json:"origins"`
}

// pinError is an error of the pinning API, which has another format than the
// rest.
type pinError struct {
	status  int
	reason  string
	details any
}

func (e *pinError) Error() string { return fmt.Sprintf("%d %s: %v", e.status, e.reason, e.details) }

func (e *pinError) write(w http.ResponseWriter) error {
	type body struct {
		Reason  string `json:"reason"`
		Details any    `json:"details,omitempty"`
	}
	return writeJSON(w, e.status, struct {
		Error body `json:"error"`
	}{body{e.reason, e.details}})
}

func invalidPin(details string) *pinError {
	return &pinError{status: http.StatusBadRequest, reason: "INVALID_PIN_DATA", details: details}
}

func pinNotFound() *pinError {
	return &pinError{status: http.StatusNotFound, reason: "NOT_FOUND", details: "pin not found"}
}

func asPin(u store.Upload) pinStatus {
	p := pinStatus{
		RequestID: u.SourceCID, Status: statuses[u.Content.State], Created: timestamp(u.Inserted), Delegates: []string{},
		Pin: pinRequest{CID: u.SourceCID, Meta: rawOrNull(u.Meta), Name: u.Name, Origins: rawOrNull(u.Origins)},
	}
	if u.Content.State == store.StateFailed && u.Content.Reason != "" {
		p.Info = &pinInfo{u.Content.Reason}
	}
	return p
}

func (s *Service) lookupPin(ctx context.Context, userID int64, source string) (pinStatus, error) {
	u, err := s.st.Upload(ctx, userID, source)
	if errors.Is(err, store.ErrNotFound) {
		return pinStatus{}, pinNotFound()
	}
	return asPin(u), err
}

// newPin is a validated request to pin.
type newPin struct {
	root    cid.Cid
	name    *string
	meta    *string // JSON
	origins *string // JSON
}

// readPin validates the body of a request to pin, in the order of the original.
func (c *call) readPin() (newPin, error) {
	var in struct {
		CID     json.RawMessage `json:"cid"`
		Name    json.RawMessage `json:"name"`
		Meta    json.RawMessage `json:"meta"`
		Origins json.RawMessage `json:"origins"`
	}
	var p newPin
	if err := c.readJSON(&in); err != nil {
		return p, err
	}
	var text string
	if err := json.Unmarshal(in.CID, &text); err != nil {
		text = "undefined"
	}
	root, err := parseCID(text)
	if err != nil {
		return p, invalidPin("Invalid request id: " + text)
	}
	if _, inline := links.Identity(root); inline {
		return p, invalidPin("Invalid request id: " + text + " carries its content within itself")
	}
	p.root = root
	if truthy(in.Name) {
		if err := json.Unmarshal(in.Name, &p.name); err != nil {
			return p, invalidPin("invalid name")
		}
	}
	if truthy(in.Meta) {
		meta := make(map[string]any)
		if err := json.Unmarshal(in.Meta, &meta); err != nil {
			return p, invalidPin("invalid metadata")
		}
		for k, v := range meta {
			if _, ok := v.(string); !ok {
				delete(meta, k)
			}
		}
		if p.meta, err = jsonText(meta); err != nil {
			return p, err
		}
	}
	if truthy(in.Origins) {
		origins := string(in.Origins)
		p.origins = &origins
	}
	return p, p.check()
}

// Limits on a pin, since every list of pins includes it.
const (
	maxPinName  = 4 << 10
	maxPinBytes = 64 << 10 // of the metadata, and of the origins
	maxMetaKeys = 64       // in a query
)

// check refuses a pin that would make lists too large.
func (p newPin) check() error {
	for _, part := range []struct {
		what string
		text *string
		most int
	}{{"name", p.name, maxPinName}, {"meta", p.meta, maxPinBytes}, {"origins", p.origins, maxPinBytes}} {
		if part.text != nil && len(*part.text) > part.most {
			return invalidPin(fmt.Sprintf("%s has %d bytes, the limit is %d", part.what, len(*part.text), part.most))
		}
	}
	return nil
}

// truthy reports whether JavaScript would take a value for true.
func truthy(raw json.RawMessage) bool {
	switch string(raw) {
	case "", "null", "false", `""`, "0", "-0":
		return false
	}
	return true
}

func jsonText(v any) (*string, error) {
	b, err := encodeJSON(v)
	text := string(b)
	return &text, err
}

// addPin answers POST /pins.
func (s *Service) addPin(c *call) error {
	p, err := c.readPin()
	if err != nil {
		return err
	}
	return s.pin(c, p, "")
}

// replacePin answers POST /pins/:requestid.
func (s *Service) replacePin(c *call) error {
	if _, err := s.lookupPin(c.r.Context(), c.who.UserID, c.param); err != nil {
		return err
	}
	p, err := c.readPin()
	if err != nil {
		return err
	}
	if p.root.String() == c.param {
		return invalidPin("exiting and replacement CID are the same")
	}
	return s.pin(c, p, c.param)
}

// pin adds a pin, and replaces another one if instead names it. If the content
// is not held, it will be fetched.
func (s *Service) pin(c *call, p newPin, instead string) error {
	obstacle := ""
	if len(s.fetcher.from) == 0 {
		obstacle = "the content is not held, and the service has no gateway to fetch it from"
	}
	err := s.st.Pin(context.WithoutCancel(c.r.Context()), p.root,
		&store.NewUpload{Caller: c.who, Kind: store.KindPin, Name: p.name, Meta: p.meta, Origins: p.origins}, instead, obstacle)
	if err != nil {
		return err
	}
	s.fetcher.poke()
	out, err := s.lookupPin(c.r.Context(), c.who.UserID, p.root.String())
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, out)
}

// pathPin parses the request ID in the path.
func (c *call) pathPin() (string, error) {
	root, err := parseCID(c.param)
	if err != nil {
		return "", &pinError{
			status: http.StatusBadRequest, reason: "ERROR_INVALID_REQUEST_ID", details: "Invalid request id: " + c.param,
		}
	}
	return root.String(), nil
}

func (s *Service) getPin(c *call) error {
	id, err := c.pathPin()
	if err != nil {
		return err
	}
	p, err := s.lookupPin(c.r.Context(), c.who.UserID, id)
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, p)
}

func (s *Service) deletePin(c *call) error {
	id, err := c.pathPin()
	if err != nil {
		return err
	}
	err = s.st.Forget(c.r.Context(), c.who.UserID, id)
	if errors.Is(err, store.ErrNotFound) {
		return &pinError{status: http.StatusNotFound, reason: "The specified resource was not found"}
	}
	if err != nil {
		return err
	}
	c.w.Header().Set("Content-Type", jsonType)
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}

// pinFilter parses the query of a list of pins. Unlike the original, it filters
// by status and times before the page is cut, and excludes both times, as the
// API's specification says. Otherwise clients could not page through the list.
func (c *call) pinFilter() (f store.Filter, err error) {
	query := c.r.URL.Query()
	invalid := func(reason string, details any) error {
		return &pinError{status: http.StatusBadRequest, reason: reason, details: details}
	}
	f = store.Filter{UserID: c.who.UserID, Kind: store.KindPin, Name: query.Get("name"), MaxBytes: maxPageBytes}
	if list := query.Get("cid"); list != "" {
		for _, text := range strings.Split(list, ",") {
			root, err := parseCID(text)
			if err != nil {
				return f, invalid("INVALID_CID", "Invalid cid "+text)
			}
			f.Sources = append(f.Sources, root.String())
		}
	}
	match := query.Get("match")
	f.NameFold, f.NamePart = strings.HasPrefix(match, "i"), strings.HasSuffix(match, "partial")
	if !slices.Contains([]string{"", "exact", "iexact", "partial", "ipartial"}, match) {
		return f, invalid("VALIDATION_ERROR", []string{"unknown match " + match})
	}
	states := cmp.Or(query.Get("status"), "pinned")
	for _, text := range strings.Split(states, ",") {
		state, ok := stateOf(text)
		if !ok {
			return f, invalid("VALIDATION_ERROR", []string{"unknown status " + text})
		}
		f.States = append(f.States, state)
	}
	for _, bound := range []struct {
		param string
		time  *time.Time
	}{{"before", &f.Before}, {"after", &f.After}} {
		if *bound.time, err = queryTime(query.Get(bound.param)); err != nil {
			return f, invalid("VALIDATION_ERROR", []string{bound.param + " is not a date-time"})
		}
	}
	if f.Limit, err = pageLimit(query.Get("limit")); err != nil {
		return f, invalid("VALIDATION_ERROR", []string{"limit is not an integer from 1 to 1000"})
	}
	if meta := query.Get("meta"); meta != "" {
		if err := json.Unmarshal([]byte(meta), &f.Meta); err != nil {
			return f, invalid("INVALID_META", `Invalid json in the "meta" query parameter.`)
		}
		if len(f.Meta) > maxMetaKeys {
			return f, invalid("INVALID_META", fmt.Sprintf(`The "meta" query parameter has more than %d keys.`, maxMetaKeys))
		}
	}
	return f, nil
}

// stateOf finds the state for a name that clients use.
func stateOf(text string) (store.State, bool) {
	for state, name := range statuses {
		if name == text {
			return state, true
		}
	}
	return 0, false
}

// listPins answers GET /pins.
func (s *Service) listPins(c *call) error {
	f, err := c.pinFilter()
	if err != nil {
		return err
	}
	pins, count, err := s.st.Uploads(c.r.Context(), f)
	if err != nil {
		return err
	}
	results := make([]pinStatus, len(pins))
	for i, u := range pins {
		results[i] = asPin(u)
	}
	return writeJSON(c.w, http.StatusOK, struct {
		Count   int         `json:"count"`
		Results []pinStatus `json:"results"`
	}{count, results})
}
