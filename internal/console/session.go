package console

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/carload/carload/internal/store"
)

const (
	// proofHeader carries the proof that only a page of the session's origin
	// knows. Forms can't send the header, and for scripts of other origins the
	// browser asks us first (CORS preflight).
	proofHeader = "X-Carload-Console"

	codeLife    = time.Minute
	sessionIdle = 24 * time.Hour
	sessionLife = 30 * 24 * time.Hour

	// More than this many at a time would be an attack or a mistake.
	maxCodes    = 100
	maxSessions = 1000
)

// session is a person who signed in. Each request checks the key again, so the
// session ends when the key is revoked.
type session struct {
	token  string
	proof  [sha256.Size]byte
	host   string // where the session began
	who    *store.Caller
	began  time.Time
	seen   time.Time
	secret [sha256.Size]byte
}

// sessions are kept in memory and end with the service. Only digests of codes,
// secrets and proofs are kept, so the time of a lookup tells nothing about a
// guess.
type sessions struct {
	now func() time.Time

	mu    sync.Mutex
	codes map[[sha256.Size]byte]code
	all   map[[sha256.Size]byte]*session
}

type code struct {
	token   string
	expires time.Time
}

func newSessions(now func() time.Time) *sessions {
	return &sessions{now: now, codes: make(map[[sha256.Size]byte]code), all: make(map[[sha256.Size]byte]*session)}
}

// code makes a code that can be traded for a token once.
func (s *sessions) code(token string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, c := range s.codes {
		if s.now().After(c.expires) {
			delete(s.codes, k)
		}
	}
	if len(s.codes) >= maxCodes {
		return "", false
	}
	text := rand.Text()
	s.codes[sha256.Sum256([]byte(text))] = code{token, s.now().Add(codeLife)}
	return text, true
}

// trade returns the token for a code.
func (s *sessions) trade(text string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := sha256.Sum256([]byte(text))
	c, ok := s.codes[k]
	delete(s.codes, k)
	return c.token, ok && s.now().Before(c.expires)
}

// begin makes a session. It returns a secret for the cookie and a proof for the
// page.
func (s *sessions) begin(token, host string) (secret, proof string) {
	secret, proof = rand.Text(), rand.Text()
	now := s.now()
	n := &session{
		token: token, proof: sha256.Sum256([]byte(proof)), secret: sha256.Sum256([]byte(secret)), host: host, began: now, seen: now,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *session
	for k, o := range s.all {
		if s.over(o) {
			delete(s.all, k)
		} else if oldest == nil || o.seen.Before(oldest.seen) {
			oldest = o
		}
	}
	if len(s.all) >= maxSessions {
		delete(s.all, oldest.secret)
	}
	s.all[n.secret] = n
	return secret, proof
}

func (s *sessions) over(o *session) bool {
	now := s.now()
	return now.Sub(o.seen) > sessionIdle || now.Sub(o.began) > sessionLife
}

// find returns a copy of the session that a request belongs to, or nil.
func (s *sessions) find(secret, proof, host string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.all[sha256.Sum256([]byte(secret))]
	given := sha256.Sum256([]byte(proof))
	if o == nil || s.over(o) || o.host != host || subtle.ConstantTimeCompare(o.proof[:], given[:]) != 1 {
		return nil
	}
	o.seen = s.now()
	found := *o
	return &found
}

func (s *sessions) end(o *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, o.secret)
}

// cookieName includes the port, because browsers send a host's cookies to all
// its ports.
func cookieName(r *http.Request) string {
	_, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		port = "0"
	}
	return "carload-console-" + port
}

func setCookie(w http.ResponseWriter, r *http.Request, value string, life time.Duration) {
	cookie := &http.Cookie{
		Name: cookieName(r), Value: value, Path: prefix, MaxAge: int(life / time.Second),
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
	if life == 0 {
		cookie.MaxAge = -1
	}
	http.SetCookie(w, cookie)
}

// sameOrigin reports whether a request may come from a page of the console. It
// checks what the browser says about the origin, if it says anything.
func sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return false
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	// A proxy may handle TLS for a service that does not.
	return err == nil && strings.EqualFold(u.Host, r.Host) && (u.Scheme == "https" || u.Scheme == "http" && r.TLS == nil)
}

// session returns the session of a request. If there is none, it answers the
// request and returns nil.
func (c *Console) session(w http.ResponseWriter, r *http.Request) *session {
	if !sameOrigin(r) {
		fail(w, http.StatusForbidden, "Other websites can't use the console.")
		return nil
	}
	cookie, err := r.Cookie(cookieName(r))
	var s *session
	if err == nil {
		s = c.sessions.find(cookie.Value, r.Header.Get(proofHeader), r.Host)
	}
	if s != nil {
		if s.who, err = c.st.Authenticate(r.Context(), s.token); err != nil {
			c.sessions.end(s)
			s = nil
		}
	}
	if s == nil {
		fail(w, http.StatusUnauthorized, "Sign in first.")
	}
	return s
}

// makeCode answers a client that has a key with a sign-in code. It is for
// carload console.
func (c *Console) makeCode(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if _, err := c.st.Authenticate(r.Context(), token); !ok || err != nil {
		fail(w, http.StatusUnauthorized, "This needs a key.")
		return
	}
	text, ok := c.sessions.code(token)
	if !ok {
		fail(w, http.StatusTooManyRequests, "Too many sign-in codes; wait a minute.")
		return
	}
	reply(w, http.StatusOK, struct {
		Code    string `json:"code"`
		Seconds int    `json:"seconds"`
	}{text, int(codeLife / time.Second)})
}

// signIn begins a session in exchange for a code or a key.
func (c *Console) signIn(w http.ResponseWriter, r *http.Request) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if !sameOrigin(r) || r.Header.Get(proofHeader) == "" || kind != "application/json" {
		fail(w, http.StatusForbidden, "Other websites can't use the console.")
		return
	}
	var in struct{ Code, Key string }
	if err := json.NewDecoder(io.LimitReader(r.Body, 16<<10)).Decode(&in); err != nil {
		fail(w, http.StatusBadRequest, "That is not a key.")
		return
	}
	token, ok := strings.TrimSpace(in.Key), true
	if in.Code != "" {
		token, ok = c.sessions.trade(in.Code)
	}
	if !ok {
		fail(w, http.StatusUnauthorized, "This link has been used, or is older than a minute. Run carload console again.")
		return
	}
	if _, err := c.st.Authenticate(r.Context(), token); err != nil {
		fail(w, http.StatusUnauthorized, "This service does not know that key.")
		return
	}
	secret, proof := c.sessions.begin(token, r.Host)
	setCookie(w, r, secret, sessionLife)
	reply(w, http.StatusOK, struct {
		Proof string `json:"proof"`
	}{proof})
}

func (c *Console) signOut(w http.ResponseWriter, r *http.Request, s *session) {
	c.sessions.end(s)
	setCookie(w, r, "", 0)
	w.WriteHeader(http.StatusNoContent)
}

func (c *Console) whoAmI(w http.ResponseWriter, _ *http.Request, s *session) {
	reply(w, http.StatusOK, struct {
		User        string `json:"user"`
		Key         string `json:"key"`
		KeyID       int64  `json:"keyId"`
		RateLimited bool   `json:"rateLimited"`
		QuotaBytes  int64  `json:"quotaBytes"`
	}{s.who.UserName, s.who.KeyName, s.who.KeyID, s.who.RateLimited, s.who.QuotaBytes})
}
