package service

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

const jsonType = "application/json;charset=UTF-8"

// encodeJSON encodes v as JavaScript would: compact, and escaping only what
// must be escaped.
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

// clientGone drops an error from writing a reply: the client hung up, so there
// is nobody to tell.
func clientGone(error) error { return nil }

// okReply is the format of successful replies.
type okReply struct {
	OK    bool `json:"ok"`
	Value any  `json:"value,omitempty"`
}

// writePlain is http.Error with a Content-Length. A client that has not sent
// its body yet can tell that the reply is complete, and we need not wait for
// the body.
func writePlain(w http.ResponseWriter, status int, text string) error {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, err := io.WriteString(w, text)
	return err
}

// timestamp formats a time as the original's database did.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000+00:00") }

func rawOrNull(s *string) json.RawMessage {
	if s == nil {
		return json.RawMessage("null")
	}
	return json.RawMessage(*s)
}
