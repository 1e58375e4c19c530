package uploadertest

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"

	"github.com/carload/carload/car"
)

// Fault serves a request instead of next, or with its help.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Pass serves a request without a fault.
func Pass(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) }

// Repeat returns a fault n times.
func Repeat(n int, f Fault) []Fault {
	fs := make([]Fault, n)
	for i := range fs {
		fs[i] = f
	}
	return fs
}

// Status replies with an HTTP status and a text, as a proxy does.
func Status(status int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		http.Error(w, http.StatusText(status), status)
	}
}

// Refuse replies with an error of the API.
func Refuse(status int, code, message string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { refuse(w, status, code, message) }
}

// Maintenance is the API's reply when it accepts no uploads.
var Maintenance = Refuse(http.StatusServiceUnavailable, "ERROR_MAINTENANCE", "API undergoing maintenance")

// OriginTimeout is the reply to a timeout behind the API: status 500, with the
// edge's 524 in the message.
var OriginTimeout = Refuse(http.StatusInternalServerError, "Error", "unexpected status 524: <html>A timeout occurred</html>")

// RateLimited replies with status 429 and this Retry-After header, or without
// one if it is empty.
func RateLimited(retryAfter string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		if retryAfter != "" {
			w.Header().Set("Retry-After", retryAfter)
		}
		w.Header().Set("Connection", "close")
		refuse(w, http.StatusTooManyRequests, "ERROR_RATE_LIMITED", "You are being rate limited")
	}
}

// Page replies with a web page, as a captive portal (200) or the edge of a
// service (413) does. It does not read the body.
func Page(status int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Connection", "close")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "<html><head><title>"+http.StatusText(status)+"</title></head></html>")
	}
}

// Redirect redirects the client.
func Redirect(status int, url string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Location", url)
		w.WriteHeader(status)
	}
}

// Drop reads n bytes of the body and resets the connection.
func Drop(n int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.CopyN(io.Discard, r.Body, n)
		Reset(w)
	}
}

// Flip serves the request with one bit of the body changed, in the byte at.
func Flip(at int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Body = &flipped{r.Body, at}
		next.ServeHTTP(w, r)
	}
}

type flipped struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if f.left >= 0 && f.left < int64(n) {
		p[f.left] ^= 1
	}
	f.left -= int64(n)
	return n, err
}

// Swallow reads the whole body, stores nothing, and closes the connection.
func Swallow(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	_, _ = io.Copy(io.Discard, r.Body)
	Reset(w)
}

// LoseReply serves the request, but resets the connection instead of replying.
func LoseReply(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(httptest.NewRecorder(), r)
	Reset(w)
}

// Stall reads n bytes of the body, and then does nothing until the client gives
// up.
func Stall(n int64) Fault {
	return func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.CopyN(io.Discard, r.Body, n)
		<-r.Context().Done()
	}
}

// StallReply serves the request, sends the first n bytes of the reply, and then
// nothing until the client gives up.
func StallReply(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		reply := record(r, next)
		reply.copyHeader(w)
		_, _ = w.Write(reply.Body.Bytes()[:min(n, reply.Body.Len())])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
}

// Truncate serves the request, but sends only n bytes of the reply, as if they
// were all of it.
func Truncate(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		reply := record(r, next)
		reply.Header().Del("Content-Length")
		reply.copyHeader(w)
		_, _ = w.Write(reply.Body.Bytes()[:min(n, reply.Body.Len())])
	}
}

// Break serves the request and resets the connection after n bytes of the reply.
func Break(n int) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		reply := record(r, next)
		reply.Header().Set("Content-Length", strconv.Itoa(reply.Body.Len()))
		reply.copyHeader(w)
		_, _ = w.Write(reply.Body.Bytes()[:min(n, reply.Body.Len())])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// Huge serves the request and replies with n bytes of JSON.
func Huge(n int64) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		record(r, next).copyHeader(w)
		_, _ = io.WriteString(w, `{"ok":true,"value":{"name":"`)
		p := make([]byte, 64<<10)
		for i := range p {
			p[i] = 'x'
		}
		for left := n; left > 0; left -= int64(len(p)) {
			if _, err := w.Write(p); err != nil {
				return
			}
		}
		_, _ = io.WriteString(w, `"}}`)
	}
}

// Rewrite serves the request and changes the value of the reply.
func Rewrite(change func(value map[string]any)) Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		reply := record(r, next)
		var env map[string]any
		if err := json.Unmarshal(reply.Body.Bytes(), &env); err != nil {
			http.Error(w, fmt.Sprintf("uploadertest: rewrite what is not JSON: %v", err), http.StatusNotImplemented)
			return
		}
		if value, ok := env["value"].(map[string]any); ok {
			change(value)
		}
		writeJSON(w, reply.Code, env)
	}
}

// NamesRoot makes a reply name a different root.
func NamesRoot(root string) Fault { return Rewrite(func(v map[string]any) { v["cid"] = root }) }

// NamesNoRoot makes a reply name no root.
var NamesNoRoot = Rewrite(func(v map[string]any) { delete(v, "cid") })

// MissingPart makes a reply omit the archive that the request sent.
func MissingPart(w http.ResponseWriter, r *http.Request, next http.Handler) {
	h := sha256.New()
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.TeeReader(r.Body, h), r.Body}
	Rewrite(func(v map[string]any) {
		sent := car.CID([sha256.Size]byte(h.Sum(nil))).String()
		if parts, ok := v["parts"].([]any); ok {
			v["parts"] = slices.DeleteFunc(parts, func(p any) bool { return p == sent })
		}
	})(w, r, next)
}

// Reports makes a reply report this pin status.
func Reports(status string) Fault {
	return Rewrite(func(v map[string]any) {
		if pin, ok := v["pin"].(map[string]any); ok {
			pin["status"] = status
		}
	})
}

type recorded struct{ *httptest.ResponseRecorder }

func record(r *http.Request, next http.Handler) recorded {
	rec := recorded{httptest.NewRecorder()}
	next.ServeHTTP(rec, r)
	return rec
}

// copyHeader sends the status and the header.
func (r recorded) copyHeader(w http.ResponseWriter) {
	for k, v := range r.Header() {
		w.Header()[k] = v
	}
	w.WriteHeader(r.Code)
}

// Reset closes the client's connection abruptly.
func Reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
