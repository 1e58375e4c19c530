package bulk

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// text is a body in memory.
type text struct{ *bytes.Reader }

func (text) Close() error { return nil }

// TestSetBody: only a large body waits for the go-ahead.
func TestSetBody(t *testing.T) {
	t.Parallel()
	var got http.Header
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r.Header
		if n, err := io.Copy(io.Discard, r.Body); err != nil || n != r.ContentLength {
			t.Errorf("%d bytes of %d, %v", n, r.ContentLength, err)
		}
	}))
	defer srv.Close()
	c := NewClient(NewTransport(), Secret{}, "test")
	defer c.Close()
	for length, expect := range map[int]string{1: "", askBytes - 1: "", askBytes: "100-continue", 4 * askBytes: "100-continue"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		SetBody(req, int64(length), func() Body { return text{bytes.NewReader(make([]byte, length))} })
		resp, err := c.Send(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if _, sent := got["Idempotency-Key"]; got.Get("Expect") != expect || sent {
			t.Errorf("%d bytes: headers %v", length, got)
		}
	}
}

// TestSmallBodyOverClosedConnection: a small body is sent again if the server
// has closed the connection meanwhile.
func TestSmallBodyOverClosedConnection(t *testing.T) {
	t.Parallel()
	requests := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests++; requests == 2 {
			panic(http.ErrAbortHandler) // as if the connection had been closed before
		}
		_, _ = io.Copy(w, r.Body)
	}))
	defer srv.Close()
	c := NewClient(NewTransport(), Secret{}, "test")
	defer c.Close()
	for _, said := range []string{"first", "second"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		SetBody(req, int64(len(said)), func() Body { return text{bytes.NewReader([]byte(said))} })
		resp, err := c.Send(req)
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(resp.Body)
		if err != nil || string(p) != said {
			t.Errorf("%q, %v", p, err)
		}
		_ = resp.Body.Close()
	}
	if requests != 3 {
		t.Errorf("%d requests", requests)
	}
}
