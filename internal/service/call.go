package service

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/carload/carload/internal/store"
)

// call is one request on its way through a handler.
type call struct {
	w     http.ResponseWriter
	r     *http.Request
	param string // the path segment that matched :param
	who   *store.Caller
	body  *body
	pins  bool // it is for the pinning API, whose errors have their own format
}

func (c *call) reply(status int, value any) error {
	return writeJSON(c.w, status, okReply{OK: true, Value: value})
}

// maxJSONBytes limits bodies that are JSON, since they are held in memory.
const maxJSONBytes = 1 << 20

// readJSON decodes the body. For invalid JSON, the error is the one from
// JavaScript's parser that clients of the original got.
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
