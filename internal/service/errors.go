package service

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/carload/carload/internal/store"
)

// apiError is an error in the form that clients see.
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

// The original answered a JavaScript error without a status with 500 and the
// name of the error's class. Clients use that to decide whether to retry, so we
// do the same.
func thrown(format string, args ...any) *apiError {
	return failure(http.StatusInternalServerError, "Error", format, args...)
}

func badRequest(format string, args ...any) *apiError {
	return failure(http.StatusBadRequest, "HTTP_ERROR", format, args...)
}

func invalidCID(s string) *apiError {
	return failure(http.StatusBadRequest, "ERROR_INVALID_CID", "Invalid CID: %s", s)
}

func tooLarge() *apiError {
	return failure(http.StatusRequestEntityTooLarge, "", "the request body is too large")
}

func diskFull() *apiError {
	return failure(http.StatusInsufficientStorage, "ERROR_INSUFFICIENT_STORAGE",
		"The service's disk is full; nothing was stored.")
}

// bodyError is an error from reading a request body.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "read request body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// asAPIError decides what to tell the client about err. It returns false if the
// client did not cause the error.
func asAPIError(err error) (*apiError, bool) {
	var api *apiError
	var body *bodyError
	var car *store.CARError
	var quota *store.QuotaError
	switch {
	case errors.As(err, &api):
		return api, true
	case errors.As(err, &car):
		return carFailure(car), true
	case errors.As(err, &quota) && quota.Uncollected > 0:
		return failure(http.StatusForbidden, "ERROR_QUOTA_EXCEEDED",
			"The quota of this API Key is %d bytes, and %d bytes that were deleted are not collected yet; try again in a few minutes.", quota.Quota, quota.Uncollected), true
	case errors.As(err, &quota):
		return failure(http.StatusForbidden, "ERROR_QUOTA_EXCEEDED",
			"The quota of this API Key is %d bytes, of which %d are used.", quota.Quota, quota.Used), true
	case errors.Is(err, store.ErrBlockTooLarge):
		return badRequest("this makes a block of more than %d bytes; send a CAR instead", store.MaxBlockBytes), true
	case errors.Is(err, store.ErrNotFound):
		return failure(http.StatusNotFound, "HTTP_ERROR", "NFT not found"), true
	case errors.Is(err, store.ErrClosed):
		return failure(http.StatusServiceUnavailable, "ERROR_MAINTENANCE", "The service is shutting down."), true
	case store.IsFull(err):
		return diskFull(), false
	case errors.As(err, &body):
		return failure(http.StatusBadRequest, "HTTP_ERROR", "the request body ended early or came too slowly"), true
	case store.IsIndexFailure(err):
		return failure(http.StatusInternalServerError, "ERROR_DB", "Database error"), false
	}
	return thrown("Internal error"), false
}

// carFailure describes what is wrong with a CAR in the words of the JavaScript
// libraries that the original used.
func carFailure(e *store.CARError) *apiError {
	switch e.Fault {
	case store.FaultManyLinks, store.FaultManyBlocks: // the original had no such limits
		return badRequest("the CAR is refused: "+string(e.Fault), e.Args...)
	}
	if format, ok := hashWords[e.Fault]; ok {
		return failure(http.StatusBadRequest, "ERROR_INVALID_CAR", "Invalid CAR file received: failed hash verification: "+format, e.Args...)
	}
	return thrown(carWords[e.Fault], e.Args...)
}

var (
	hashWords = map[store.Fault]string{
		store.FaultBlockCID:  "%s: %v",
		store.FaultBlockHash: "%s: multihash code %d is not supported",
		store.FaultBlock:     "%s: CID hash does not match bytes",
	}
	carWords = map[store.Fault]string{
		store.FaultCut:          "Unexpected end of data",
		store.FaultNoHeader:     "Invalid CAR header (zero length)",
		store.FaultLongHeader:   "Invalid CAR header (%d bytes is too long)",
		store.FaultHeader:       "Invalid CAR header format: %v",
		store.FaultVersion:      "Invalid CAR version: %d",
		store.FaultVersion2:     "Invalid CAR version 2 header",
		store.FaultNoRoots:      "missing roots",
		store.FaultManyRoots:    "too many roots",
		store.FaultEmptySection: "Invalid CAR section (zero length)",
		store.FaultSection:      "Invalid CAR section (%v)",
		store.FaultLongCID:      "Invalid CAR section (a CID of %d bytes)",
		store.FaultBigBlock:     "block too big: %d > %d",
		store.FaultEmpty:        "empty CAR",
		store.FaultNoRoot:       "missing root block",
		store.FaultRootAlone:    "CAR must contain at least one non-root block",
		store.FaultRoot:         "%v",
	}
)

type errorReply struct {
	OK    bool `json:"ok"`
	Error struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Reason  string `json:"reason,omitempty"`  // clients of the pinning API
		Details string `json:"details,omitempty"` // read these two
	} `json:"error"`
}

// write answers with the error. Pins says that the request was for the pinning
// API.
func (e *apiError) write(w http.ResponseWriter, pins bool) error {
	if e.status == http.StatusRequestEntityTooLarge {
		return writeTooLarge(w)
	}
	var r errorReply
	r.Error.Code, r.Error.Message = e.code, e.message
	if pins {
		r.Error.Reason, r.Error.Details = cmp.Or(e.code, "ERROR"), e.message
	}
	return writeJSON(w, e.status, r)
}

// writeTooLarge answers with the HTML page of the proxy in front of the
// original, which had no limit of its own. Clients must cope with HTML here.
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
