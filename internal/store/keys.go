package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// DefaultUser owns the keys that are made for no particular user.
const DefaultUser = "local"

// KeyOptions describe a new key.
type KeyOptions struct {
	Name string
	User string // keys of the same user share uploads; empty means DefaultUser

	// RateLimited applies the request limit of the original service.
	RateLimited bool
	// QuotaBytes limits what the key keeps in the store: the shards that it
	// sent or that were fetched for its pins, the records of its uploads, and
	// content of others that it has pinned. 0 means no limit.
	QuotaBytes int64
}

// Key describes a key. The token itself is not kept.
type Key struct {
	ID          int64
	Name        string
	User        string
	Created     time.Time
	RateLimited bool
	QuotaBytes  int64
}

var (
	// ErrKeyExists is returned if the user has a key of that name.
	ErrKeyExists = errors.New("there is already a key with this name")
	// ErrKeyNotFound is returned if there is no such key.
	ErrKeyNotFound = errors.New("there is no such key")
	// ErrKeyBlocked is returned for the token of a blocked key.
	ErrKeyBlocked = errors.New("the key is blocked")
	// ErrUserNotFound is returned for a token of an unknown user.
	ErrUserNotFound = errors.New("there is no such user")
	// ErrTokenInvalid is returned for a token that this store did not make.
	ErrTokenInvalid = errors.New("the token was not made by this store")
)

// CreateKey makes a key and returns it with its token. The token is not kept,
// and cannot be shown again. If the name is taken, the error matches
// [ErrKeyExists].
func (st *Store) CreateKey(ctx context.Context, opts KeyOptions) (Key, string, error) {
	if opts.Name == "" {
		return Key{}, "", errors.New("create key: no name given")
	}
	if opts.User == "" {
		opts.User = DefaultUser
	}
	now := st.now()
	key := Key{
		Name: opts.Name, User: opts.User, Created: time.UnixMicro(now),
		RateLimited: opts.RateLimited, QuotaBytes: opts.QuotaBytes,
	}
	var token string
	err := st.db.update(ctx, func(tx *tx) error {
		userID, issuer, err := ensureUser(ctx, tx, opts.User, now)
		if err != nil {
			return err
		}
		taken, err := exists(ctx, tx, `SELECT 1 FROM keys WHERE user_id = ? AND name = ? AND deleted IS NULL`, userID, opts.Name)
		if err != nil {
			return err
		}
		if taken {
			return ErrKeyExists
		}
		if token, err = mintToken(st.salt, issuer, opts.Name, now/1000); err != nil {
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

// ensureUser finds or makes a user. Tokens identify the user by the issuer.
func ensureUser(ctx context.Context, tx execer, name string, now int64) (id int64, issuer string, err error) {
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

// Keys lists the valid keys of a user, oldest first. If userID is 0, it lists
// those of all users.
func (st *Store) Keys(ctx context.Context, userID int64) ([]Key, error) {
	out, err := rowsOf(ctx, st.db.read, `SELECT k.id, k.name, u.name, k.created, k.rate_limited, k.quota
		FROM keys k JOIN users u ON u.id = k.user_id WHERE k.deleted IS NULL AND (?1 = 0 OR k.user_id = ?1) ORDER BY k.id`, []any{userID},
		func(scan scanRow) (k Key, err error) {
			var created int64
			err = scan(&k.ID, &k.Name, &k.User, &created, &k.RateLimited, &k.QuotaBytes)
			k.Created = time.UnixMicro(created)
			return k, err
		})
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	return out, nil
}

// RevokeKey invalidates a key for good. Uploads made with it stay.
func (st *Store) RevokeKey(ctx context.Context, id int64) error {
	res, err := st.db.exec(ctx, `UPDATE keys SET deleted = ? WHERE id = ? AND deleted IS NULL`, st.now(), id)
	st.callers.forget()
	if err != nil {
		return fmt.Errorf("revoke key %d: %w", id, err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return errors.Join(fmt.Errorf("revoke key %d: %w", id, ErrKeyNotFound), err)
	}
	return nil
}

// Authenticate finds the owner of a token. It checks for these errors in this
// order: [ErrTokenInvalid], [ErrUserNotFound], [ErrKeyNotFound],
// [ErrKeyBlocked].
func (st *Store) Authenticate(ctx context.Context, token string) (*Caller, error) {
	hash := sha256.Sum256([]byte(token))
	known, age := st.callers.find(hash)
	if known != nil {
		return known, nil
	}
	c, err := st.authenticate(ctx, token, hash)
	if err == nil {
		st.callers.keep(hash, *c, age)
	}
	return c, err
}

func (st *Store) authenticate(ctx context.Context, token string, hash [sha256.Size]byte) (*Caller, error) {
	issuer, ok := verifyToken(st.salt, token)
	if !ok {
		return nil, ErrTokenInvalid
	}
	c := new(Caller)
	var stored []byte
	var deleted, blocked bool
	err := st.db.read.QueryRowContext(ctx,
		`SELECT u.id, u.name, u.restricted, u.delete_restricted, u.pinning,
			COALESCE(k.id, 0), COALESCE(k.name, ''), k.hash, k.deleted IS NOT NULL, COALESCE(k.blocked, 0), COALESCE(k.rate_limited, 0), COALESCE(k.quota, 0)
		FROM users u LEFT JOIN keys k ON k.hash = ? AND k.user_id = u.id WHERE u.issuer = ?`, hash[:], issuer).
		Scan(&c.UserID, &c.UserName, &c.Restricted, &c.DeleteRestricted, &c.Pinning,
			&c.KeyID, &c.KeyName, &stored, &deleted, &blocked, &c.RateLimited, &c.QuotaBytes)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, ErrUserNotFound
	case err != nil:
		return nil, fmt.Errorf("look up key: %w", err)
	case subtle.ConstantTimeCompare(stored, hash[:]) != 1: // nil if there is no such key
		return nil, ErrKeyNotFound
	case blocked:
		return nil, ErrKeyBlocked
	case deleted:
		return nil, ErrKeyNotFound
	}
	return c, nil
}
