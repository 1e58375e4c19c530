package service

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/ipfs/go-cid"
)

// pinStatus is a pin as the pinning API has it. A pin is an upload, and its
// request id is the CID, so there is one for each CID and user.
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

// pinError is an error in the words of the pinning API, which has another
// envelope than the rest.
type pinError struct {
	status  int
	reason  string
	details any
	bare    bool // without the envelope, as lists had it
}

func (e *pinError) Error() string { return fmt.Sprintf("%d %s: %v", e.status, e.reason, e.details) }

func (e *pinError) write(w http.ResponseWriter) error {
	type body struct {
		Reason  string `json:"reason"`
		Details any    `json:"details,omitempty"`
	}
	if e.bare {
		return writeJSON(w, e.status, body{e.reason, e.details})
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

const pinColumns = `u.source_cid, u.inserted, u.meta, u.name, u.origins, ` + statusColumn + `, COALESCE(f.reason, '')
	FROM uploads u JOIN contents c ON c.cid = u.content_cid LEFT JOIN fetches f ON f.content_cid = u.content_cid`

func scanPin(scan scanRow) (pinStatus, error) {
	p := pinStatus{Delegates: []string{}}
	var created int64
	var meta, name, origins sql.NullString
	var reason string
	if err := scan(&p.RequestID, &created, &meta, &name, &origins, &p.Status, &reason); err != nil {
		return p, err
	}
	p.Created = timestamp(created)
	p.Pin = pinRequest{CID: p.RequestID, Meta: rawOrNull(meta), Origins: rawOrNull(origins)}
	if name.Valid {
		p.Pin.Name = &name.String
	}
	if p.Status == "failed" && reason != "" {
		p.Info = &pinInfo{reason}
	}
	return p, nil
}

func (s *Service) lookupPin(ctx context.Context, userID int64, source string) (pinStatus, error) {
	row := s.st.read.QueryRowContext(ctx,
		`SELECT `+pinColumns+` WHERE u.user_id = ? AND u.source_cid = ? AND u.deleted IS NULL`, userID, source)
	p, err := scanPin(row.Scan)
	if errors.Is(err, sql.ErrNoRows) {
		return p, pinNotFound()
	}
	if err != nil {
		return p, fmt.Errorf("look up pin: %w", err)
	}
	return p, nil
}

// newPin is a checked request to pin.
type newPin struct {
	root    cid.Cid
	name    *string
	meta    *string // JSON
	origins *string // JSON
}

// readPin checks the body of a request to pin, in the original's order.
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
	if _, inline := keyOf(root).identity(); inline {
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
	return p, nil
}

// truthy tells what JavaScript takes for true.
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
	if _, err := s.lookupPin(c.r.Context(), c.who.userID, c.param); err != nil {
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

// pin registers a pin in place of another, if one is named, and has its content
// fetched if it is not held.
func (s *Service) pin(c *call, p newPin, instead string) error {
	ctx := context.WithoutCancel(c.r.Context())
	err := s.st.update(ctx, func(tx *sql.Tx) error {
		now := s.st.now()
		id, err := recordUpload(ctx, tx, &submission{
			userID: c.who.userID, key: c.who, root: p.root, kind: typeRemote, size: -1,
		}, now)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE uploads SET name = ?, meta = ?, origins = ? WHERE id = ?`,
			p.name, p.meta, p.origins, id); err != nil {
			return err
		}
		if instead != "" {
			if _, err := tx.ExecContext(ctx, `UPDATE uploads SET deleted = ?, updated = ? WHERE user_id = ? AND source_cid = ?`,
				now, now, c.who.userID, instead); err != nil {
				return err
			}
		}
		if err := newIndexer(ctx, s.st, tx).demandRoot(keyOf(p.root)); err != nil {
			return err
		}
		return s.requestFetch(ctx, tx, keyOf(p.root))
	})
	if err != nil {
		return fmt.Errorf("pin %s: %w", p.root, err)
	}
	s.fetcher.poke()
	out, err := s.lookupPin(c.r.Context(), c.who.userID, p.root.String())
	if err != nil {
		return err
	}
	return writeJSON(c.w, http.StatusOK, out)
}

// pathPin parses the request id in the path.
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
	p, err := s.lookupPin(c.r.Context(), c.who.userID, id)
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
	gone, err := s.forget(c.r.Context(), c.who.userID, id)
	if err != nil {
		return err
	}
	if !gone {
		return &pinError{status: http.StatusNotFound, reason: "The specified resource was not found"}
	}
	c.w.Header().Set("Content-Type", jsonType)
	c.w.WriteHeader(http.StatusAccepted)
	return nil
}

// pinFilter is the query of a list of pins as SQL.
type pinFilter struct {
	where string
	args  []any
	limit int
}

func (f *pinFilter) and(cond string, args ...any) {
	f.where += " AND " + cond
	f.args = append(f.args, args...)
}

// parsePinFilter reads the query. Unlike in the original, status and times are
// filtered before a page is cut, and both times are exclusive, as the API's
// specification has it: only so can a client go through all pages.
func parsePinFilter(c *call) (*pinFilter, error) {
	query := c.r.URL.Query()
	invalid := func(reason string, details any) error {
		return &pinError{status: http.StatusBadRequest, reason: reason, details: details, bare: true}
	}
	f := &pinFilter{where: "u.user_id = ? AND u.deleted IS NULL AND u.type = '" + typeRemote + "'", args: []any{c.who.userID}}
	if list := query.Get("cid"); list != "" {
		var ids []any
		for _, text := range strings.Split(list, ",") {
			root, err := parseCID(text)
			if err != nil {
				return nil, invalid("INVALID_CID", "Invalid cid "+text)
			}
			ids = append(ids, root.String())
		}
		f.and("u.source_cid IN (?"+strings.Repeat(",?", len(ids)-1)+")", ids...)
	}
	if err := f.byName(query.Get("name"), query.Get("match")); err != nil {
		return nil, invalid("VALIDATION_ERROR", []string{err.Error()})
	}
	states := []string{"pinned"}
	if list := query.Get("status"); list != "" {
		states = strings.Split(list, ",")
	}
	args := make([]any, len(states))
	for i, state := range states {
		if !slices.Contains([]string{"queued", "pinning", "pinned", "failed"}, state) {
			return nil, invalid("VALIDATION_ERROR", []string{"unknown status " + state})
		}
		args[i] = state
	}
	f.and("("+statusColumn+") IN (?"+strings.Repeat(",?", len(args)-1)+")", args...)
	for _, bound := range []struct{ param, cond string }{{"before", "u.inserted < ?"}, {"after", "u.inserted > ?"}} {
		if text := query.Get(bound.param); text != "" {
			t, err := queryTime(text)
			if err != nil {
				return nil, invalid("VALIDATION_ERROR", []string{bound.param + " is not a date-time"})
			}
			f.and(bound.cond, t)
		}
	}
	var err error
	if f.limit, err = pageLimit(query.Get("limit")); err != nil {
		return nil, invalid("VALIDATION_ERROR", []string{"limit is not an integer from 1 to 1000"})
	}
	if meta := query.Get("meta"); meta != "" && !json.Valid([]byte(meta)) {
		return nil, invalid("INVALID_META", `Invalid json in the "meta" query parameter.`)
	}
	return f, nil
}

func (f *pinFilter) byName(name, match string) error {
	escape := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace
	switch match {
	case "", "exact":
		if name != "" {
			f.and("u.name = ?", name)
		}
	case "iexact":
		if name != "" {
			f.and(`u.name LIKE ? ESCAPE '\'`, escape(name))
		}
	case "partial":
		if name != "" {
			f.and("instr(u.name, ?) > 0", name)
		}
	case "ipartial":
		if name != "" {
			f.and(`u.name LIKE ? ESCAPE '\'`, "%"+escape(name)+"%")
		}
	default:
		return fmt.Errorf("unknown match %s", match)
	}
	return nil
}

// listPins answers GET /pins.
func (s *Service) listPins(c *call) error {
	f, err := parsePinFilter(c)
	if err != nil {
		return err
	}
	var count int
	err = s.st.read.QueryRowContext(c.r.Context(), `SELECT count(*) FROM uploads u JOIN contents c ON c.cid = u.content_cid
		LEFT JOIN fetches f ON f.content_cid = u.content_cid WHERE `+f.where, f.args...).Scan(&count)
	if err != nil {
		return fmt.Errorf("count pins: %w", err)
	}
	results := []pinStatus{}
	err = eachRow(c.r.Context(), s.st.read, `SELECT `+pinColumns+` WHERE `+f.where+` ORDER BY u.inserted DESC LIMIT ?`,
		append(f.args, f.limit), func(scan scanRow) error {
			p, err := scanPin(scan)
			results = append(results, p)
			return err
		})
	if err != nil {
		return fmt.Errorf("list pins: %w", err)
	}
	return writeJSON(c.w, http.StatusOK, struct {
		Count   int         `json:"count"`
		Results []pinStatus `json:"results"`
	}{count, results})
}
