package service

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// ErrLocked is returned by [Open] when another process has the store open.
var ErrLocked = errors.New("the store is in use by another process")

// ErrIndexMissing is returned by [Open] when there are shards but no index:
// [Rebuild] makes a new one from them.
var ErrIndexMissing = errors.New("the store has shards but its index is missing; rebuild it from the shards")

// ErrRebuilding is returned by [Open] when a [Rebuild] was interrupted: the
// index lacks what it had not come to. Another Rebuild makes it whole.
var ErrRebuilding = errors.New("rebuilding the store's index was interrupted; rebuild it again from the shards")

// ErrDiscards is returned by [Open] and [Rebuild] when the store was filled
// with [Options].Discard: it lacks the payloads.
var ErrDiscards = errors.New("the store was made to discard payloads, and can be used for nothing else")

// ErrKeeps is returned by [Open] with [Options].Discard when the store has
// shards whose payloads are kept.
var ErrKeeps = errors.New("the store keeps payloads, which discarding would destroy")

// apiError is an error as clients see it.
type apiError struct {
	status  int
	code    string
	message string
}

func (e *apiError) Error() string { return fmt.Sprintf("%d %s: %s", e.status, e.code, e.message) }

func failure(status int, code, format string, args ...any) *apiError {
	message := format
	if len(args) > 0 {
		message = fmt.Sprintf(format, args...)
	}
	return &apiError{status: status, code: code, message: message}
}

// The original maps a thrown JavaScript error without a status to 500 and its
// class name. Clients decide on retries by that, so it is kept.
func thrown(format string, args ...any) *apiError {
	return failure(http.StatusInternalServerError, "Error", format, args...)
}

func badRequest(format string, args ...any) *apiError {
	return failure(http.StatusBadRequest, "HTTP_ERROR", format, args...)
}

func invalidCAR(format string, args ...any) *apiError {
	return failure(http.StatusBadRequest, "ERROR_INVALID_CAR", "Invalid CAR file received: "+format, args...)
}

func invalidCID(s string) *apiError {
	return failure(http.StatusBadRequest, "ERROR_INVALID_CID", "Invalid CID: %s", s)
}

func notFound() *apiError { return failure(http.StatusNotFound, "HTTP_ERROR", "NFT not found") }

func tooLarge() *apiError {
	return failure(http.StatusRequestEntityTooLarge, "", "the request body is too large")
}

func diskFull() *apiError {
	return failure(http.StatusInsufficientStorage, "ERROR_INSUFFICIENT_STORAGE",
		"The service's disk is full; nothing was stored.")
}

// bodyError is a request body that could not be read to its end.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "read request body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// asAPIError decides what a client is told about err. It reports false for
// what the client should not have caused.
func asAPIError(err error) (*apiError, bool) {
	var api *apiError
	var body *bodyError
	var db *sqlite.Error
	switch {
	case errors.As(err, &api):
		return api, true
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return diskFull(), false
	case errors.As(err, &body):
		return failure(http.StatusBadRequest, "HTTP_ERROR", "the request body ended early or came too slowly"), true
	case errors.As(err, &db):
		if db.Code()&0xff == sqlite3.SQLITE_FULL {
			return diskFull(), false
		}
		return failure(http.StatusInternalServerError, "ERROR_DB", "Database error"), false
	case errors.Is(err, sql.ErrTxDone), errors.Is(err, sql.ErrConnDone):
		return failure(http.StatusInternalServerError, "ERROR_DB", "Database error"), false
	}
	return thrown("Internal error"), false
}

const jsonType = "application/json;charset=UTF-8"

// encodeJSON writes v as JavaScript would: compact, with nothing escaped that
// need not be.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode reply: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	b, err := encodeJSON(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", jsonType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, err = w.Write(b)
	return clientGone(err)
}

// clientGone drops an error of writing a reply: the client hung up, and there
// is no one left to tell.
func clientGone(error) error { return nil }

// okReply is the envelope of success.
type okReply struct {
	OK    bool `json:"ok"`
	Value any  `json:"value,omitempty"`
}

type errorReply struct {
	OK    bool `json:"ok"`
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

func (e *apiError) write(w http.ResponseWriter) error {
	if e.status == http.StatusRequestEntityTooLarge {
		return writeTooLarge(w)
	}
	var r errorReply
	r.Error.Code, r.Error.Message = e.code, e.message
	return writeJSON(w, e.status, r)
}

// writeTooLarge is the page of the proxy that stood before the original, which
// had no limit of its own. Clients have to cope with HTML here.
func writeTooLarge(w http.ResponseWriter) error {
	const page = "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n" +
		"<body>\r\n<center><h1>413 Request Entity Too Large</h1></center>\r\n<hr>\r\n</body>\r\n</html>\r\n"
	w.Header().Set("Content-Type", "text/html")
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Length", strconv.Itoa(len(page)))
	w.WriteHeader(http.StatusRequestEntityTooLarge)
	_, err := strings.NewReader(page).WriteTo(w)
	return clientGone(err)
}
