package service

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// DefaultUser owns the keys that are made for nobody in particular.
const DefaultUser = "local"

// KeyOptions describe a new key.
type KeyOptions struct {
	Name string
	User string // keys of one user share its uploads; empty means DefaultUser

	// RateLimited asks for the original's limit of requests.
	RateLimited bool
	// QuotaBytes bounds the shards of the uploads made with the key; 0 means
	// no bound.
	QuotaBytes int64
}

// Key is what is known of a key. The token itself is not kept.
type Key struct {
	ID          int64
	Name        string
	User        string
	Created     time.Time
	RateLimited bool
	QuotaBytes  int64
}

var (
	// ErrKeyExists is returned when the user has a key of that name.
	ErrKeyExists = errors.New("there is a key of this name already")
	// ErrKeyNotFound is returned when there is no such key.
	ErrKeyNotFound = errors.New("there is no such key")
)

// CreateKey makes a key for [DefaultUser] and returns its token. The token is
// not kept and cannot be shown again.
func (s *Service) CreateKey(ctx context.Context, name string) (token string, err error) {
	_, token, err = s.CreateKeyWith(ctx, KeyOptions{Name: name})
	return token, err
}

// CreateKeyWith makes a key and returns it with its token, which is not kept
// and cannot be shown again. The error matches [ErrKeyExists] if the name is
// taken.
func (s *Service) CreateKeyWith(ctx context.Context, opts KeyOptions) (Key, string, error) {
	if opts.Name == "" {
		return Key{}, "", errors.New("create key: no name given")
	}
	if opts.User == "" {
		opts.User = DefaultUser
	}
	now := s.st.now()
	key := Key{
		Name: opts.Name, User: opts.User, Created: time.UnixMicro(now),
		RateLimited: opts.RateLimited, QuotaBytes: opts.QuotaBytes,
	}
	var token string
	err := s.st.update(ctx, func(tx *sql.Tx) error {
		userID, issuer, err := ensureUser(ctx, tx, opts.User, now)
		if err != nil {
			return err
		}
		var taken bool
		if err := tx.QueryRowContext(ctx,
			`SELECT EXISTS (SELECT 1 FROM keys WHERE user_id = ? AND name = ? AND deleted IS NULL)`, userID, opts.Name).
			Scan(&taken); err != nil {
			return err
		}
		if taken {
			return ErrKeyExists
		}
		if token, err = mintToken(s.st.salt, issuer, opts.Name, now/1000); err != nil {
			return err
		}
		hash := sha256.Sum256([]byte(token))
		res, err := tx.ExecContext(ctx,
			`INSERT INTO keys (user_id, name, hash, created, rate_limited, quota) VALUES (?, ?, ?, ?, ?, ?)`,
			userID, opts.Name, hash[:], now, opts.RateLimited, opts.QuotaBytes)
		if err != nil {
			return err
		}
		key.ID, err = res.LastInsertId()
		return err
	})
	if err != nil {
		return Key{}, "", fmt.Errorf("create key %q: %w", opts.Name, err)
	}
	return key, token, nil
}

// ensureUser finds or makes a user. Its issuer is what tokens name it by.
func ensureUser(ctx context.Context, tx *sql.Tx, name string, now int64) (id int64, issuer string, err error) {
	err = tx.QueryRowContext(ctx, `SELECT id, issuer FROM users WHERE name = ?`, name).Scan(&id, &issuer)
	if !errors.Is(err, sql.ErrNoRows) {
		return id, issuer, err
	}
	issuer = "did:carload:" + rand.Text()
	res, err := tx.ExecContext(ctx, `INSERT INTO users (issuer, name, created) VALUES (?, ?, ?)`, issuer, name, now)
	if err != nil {
		return 0, "", err
	}
	id, err = res.LastInsertId()
	return id, issuer, err
}

// Keys lists the keys that are valid, oldest first.
func (s *Service) Keys(ctx context.Context) ([]Key, error) {
	return s.keys(ctx, `1`)
}

func (s *Service) keys(ctx context.Context, where string, args ...any) ([]Key, error) {
	var out []Key
	err := eachRow(ctx, s.st.read, `SELECT k.id, k.name, u.name, k.created, k.rate_limited, k.quota
		FROM keys k JOIN users u ON u.id = k.user_id WHERE k.deleted IS NULL AND `+where+` ORDER BY k.id`, args,
		func(scan scanRow) error {
			var k Key
			var created int64
			if err := scan(&k.ID, &k.Name, &k.User, &created, &k.RateLimited, &k.QuotaBytes); err != nil {
				return err
			}
			k.Created = time.UnixMicro(created)
			out = append(out, k)
			return nil
		})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return out, nil
}

// RevokeKey makes a key invalid for good. Uploads made with it stay.
func (s *Service) RevokeKey(ctx context.Context, id int64) error {
	res, err := s.st.write.ExecContext(ctx, `UPDATE keys SET deleted = ? WHERE id = ? AND deleted IS NULL`, s.st.now(), id)
	if err != nil {
		return fmt.Errorf("revoke key %d: %w", id, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(fmt.Errorf("revoke key %d: %w", id, ErrKeyNotFound), err)
	}
	return nil
}

// mintToken makes an HS256 JWT with the claims of the original. A random claim
// on top keeps the token from being worked out again from what is stored.
func mintToken(salt []byte, issuer, name string, issuedMilli int64) (string, error) {
	claims, err := encodeJSON(struct {
		Sub  string `json:"sub"`
		Iss  string `json:"iss"`
		Iat  int64  `json:"iat"`
		Name string `json:"name"`
		Jti  string `json:"jti"`
	}{issuer, "nft-storage", issuedMilli, name, rand.Text()})
	if err != nil {
		return "", err
	}
	head := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." +
		base64.RawURLEncoding.EncodeToString(claims)
	return head + "." + sign(salt, head), nil
}

func sign(salt []byte, head string) string {
	mac := hmac.New(sha256.New, salt)
	mac.Write([]byte(head))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// caller is who made a request.
type caller struct {
	userID           int64
	keyID            int64
	keyName          string
	restricted       bool
	deleteRestricted bool
	pinning          bool
	rateLimited      bool
	quota            int64
}

// authenticate finds the caller. Its answers come in the original's order.
func (s *Service) authenticate(ctx context.Context, r *http.Request) (*caller, error) {
	const scheme = "bearer "
	header := r.Header.Get("Authorization")
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return nil, failure(http.StatusUnauthorized, "EXPECTED_BEARER_STRING",
			"API Key is missing, make sure the `Authorization` header has a value in the following format `Bearer {api key}`.")
	}
	token := strings.TrimSpace(header[len(scheme):])
	issuer, ok := verifyToken(s.st.salt, token)
	if !ok {
		return nil, failure(http.StatusUnauthorized, "ERROR_MALFORMED_TOKEN", "API Key is malformed or failed to parse.")
	}
	c := new(caller)
	err := s.st.read.QueryRowContext(ctx,
		`SELECT id, restricted, delete_restricted, pinning FROM users WHERE issuer = ?`, issuer).
		Scan(&c.userID, &c.restricted, &c.deleteRestricted, &c.pinning)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, failure(http.StatusUnauthorized, "ERROR_USER_NOT_FOUND", "User not found.")
	}
	if err != nil {
		return nil, fmt.Errorf("look up user: %w", err)
	}
	hash := sha256.Sum256([]byte(token))
	var stored []byte
	var deleted, blocked bool
	err = s.st.read.QueryRowContext(ctx,
		`SELECT id, name, hash, deleted IS NOT NULL, blocked, rate_limited, quota FROM keys WHERE hash = ? AND user_id = ?`,
		hash[:], c.userID).
		Scan(&c.keyID, &c.keyName, &stored, &deleted, &blocked, &c.rateLimited, &c.quota)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, keyNotFound()
	case err != nil:
		return nil, fmt.Errorf("look up key: %w", err)
	case subtle.ConstantTimeCompare(stored, hash[:]) != 1:
		return nil, keyNotFound()
	case blocked:
		return nil, failure(http.StatusForbidden, "ERROR_TOKEN_BLOCKED", "API Key is blocked. Ask the operator of this service.")
	case deleted:
		return nil, keyNotFound()
	}
	return c, nil
}

func keyNotFound() *apiError {
	return failure(http.StatusUnauthorized, "ERROR_TOKEN_NOT_FOUND", "API Key not found.")
}

// verifyToken checks the signature and returns the subject. The algorithm that
// the header names is not looked at: there is one.
func verifyToken(salt []byte, token string) (subject string, ok bool) {
	last := strings.LastIndexByte(token, '.')
	if strings.Count(token, ".") != 2 {
		return "", false
	}
	head, signature := token[:last], token[last+1:]
	if subtle.ConstantTimeCompare([]byte(signature), []byte(sign(salt, head))) != 1 {
		return "", false
	}
	_, payload, _ := strings.Cut(head, ".")
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	if err != nil {
		return "", false
	}
	var claims struct {
		Sub string `json:"sub"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return "", false
	}
	return claims.Sub, true
}
