package service

import (
	"errors"
	"net/http"
	"strings"

	"github.com/carload/carload/internal/store"
)

// guard says what a caller needs for a route.
type guard uint

const (
	public    guard = 0
	keyed     guard = 1 << iota // a key
	creates                     // a key that may write
	deletes                     // a key that may delete
	pinsGuard                   // a key that may use the pinning API
	bodied                      // the body will be stored
	unshared                    // pages of other origins may not call it
)

// pass makes the checks that follow authentication, in the order of the
// original.
func pass(c *store.Caller, g guard) error {
	switch {
	case g&creates != 0 && c.Restricted:
		return failure(http.StatusForbidden, "ERROR_ACCOUNT_RESTRICTED", "Account restricted.")
	case g&deletes != 0 && c.DeleteRestricted:
		return failure(http.StatusForbidden, "ERROR_DELETE_RESTRICTED", "Delete operations restricted.")
	case g&pinsGuard != 0 && !c.Pinning:
		return failure(http.StatusUnauthorized, "ERROR_PINNING_UNAUTHORIZED",
			"Pinning not authorized for this user, ask the operator of this service for it.")
	}
	return nil
}

// authenticate finds the caller. It checks in the order of the original.
func (s *Service) authenticate(r *http.Request) (*store.Caller, error) {
	const scheme = "bearer "
	header := r.Header.Get("Authorization")
	if len(header) < len(scheme) || !strings.EqualFold(header[:len(scheme)], scheme) {
		return nil, failure(http.StatusUnauthorized, "EXPECTED_BEARER_STRING",
			"API Key is missing, make sure the `Authorization` header has a value in the following format `Bearer {api key}`.")
	}
	who, err := s.st.Authenticate(r.Context(), strings.TrimSpace(header[len(scheme):]))
	switch {
	case errors.Is(err, store.ErrTokenInvalid):
		return nil, failure(http.StatusUnauthorized, "ERROR_MALFORMED_TOKEN", "API Key is malformed or failed to parse.")
	case errors.Is(err, store.ErrUserNotFound):
		return nil, failure(http.StatusUnauthorized, "ERROR_USER_NOT_FOUND", "User not found.")
	case errors.Is(err, store.ErrKeyNotFound):
		return nil, failure(http.StatusUnauthorized, "ERROR_TOKEN_NOT_FOUND", "API Key not found.")
	case errors.Is(err, store.ErrKeyBlocked):
		return nil, failure(http.StatusForbidden, "ERROR_TOKEN_BLOCKED", "API Key is blocked. Ask the operator of this service.")
	}
	return who, err
}
