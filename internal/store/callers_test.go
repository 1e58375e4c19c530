package store

import (
	"errors"
	"testing"
)

// openWithKey makes a store and a key.
func openWithKey(t *testing.T) (st *Store, key Key, token string) {
	t.Helper()
	st, err := Open(t.Context(), Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	if key, token, err = st.CreateKey(t.Context(), KeyOptions{Name: "key"}); err != nil {
		t.Fatal(err)
	}
	return st, key, token
}

// A revoked key is refused at once, although its owner was just looked up.
func TestRevokedAtOnce(t *testing.T) {
	t.Parallel()
	st, key, token := openWithKey(t)
	for range 2 {
		who, err := st.Authenticate(t.Context(), token)
		if err != nil || who.KeyID != key.ID || who.UserName != DefaultUser {
			t.Fatalf("%+v, %v", who, err)
		}
		who.Restricted = true // does not change what others get
	}
	if who, err := st.Authenticate(t.Context(), token); err != nil || who.Restricted {
		t.Fatalf("%+v, %v", who, err)
	}
	if err := st.RevokeKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Authenticate(t.Context(), token); !errors.Is(err, ErrKeyNotFound) {
		t.Errorf("revoked: %v", err)
	}
}

// What was read before a key changed is not kept after it.
func TestCallersForget(t *testing.T) {
	t.Parallel()
	var c callers
	var hash [32]byte
	_, before := c.find(hash)
	c.forget()
	c.keep(hash, Caller{UserID: 1}, before)
	who, now := c.find(hash)
	if who != nil {
		t.Errorf("kept: %+v", who)
	}
	c.keep(hash, Caller{UserID: 2}, now)
	if who, _ = c.find(hash); who == nil || who.UserID != 2 {
		t.Errorf("not kept: %+v", who)
	}
	for i := range 3 * mostCallers {
		hash[0], hash[1] = byte(i), byte(i>>8)
		c.keep(hash, Caller{}, now)
	}
	if len(c.known) > mostCallers {
		t.Errorf("%d callers", len(c.known))
	}
}
