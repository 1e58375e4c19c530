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
	param string // what stood in the path for :param
	who   *store.Caller
	body  *body
	pins  bool // it is for the pinning API, which has error bodies of its own
}

func (c *call) reply(status int, value any) error {
	return writeJSON(c.w, status, okReply{OK: true, Value: value})
}

// maxJSONBytes bounds the bodies that are JSON, which are held in memory.
const maxJSONBytes = 1 << 20

// readJSON decodes the body. What is not JSON gets the answer that JavaScript's
// parser got.
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
