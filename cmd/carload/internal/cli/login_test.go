package cli

import (
	"strings"
	"testing"

	"github.com/zalando/go-keyring"
)

// If there is a keyring, the key is in it and in no file.
func TestLoginInKeyring(t *testing.T) { //nolint:paralleltest // the keyring is that of the process
	keyring.MockInit()
	a := newTestApp(t, "HOME="+t.TempDir(), "DBUS_SESSION_BUS_ADDRESS=there")
	const endpoint = "https://API.example.org/v1"
	name, origin, err := loginName(endpoint)
	if err != nil || origin != "https://api.example.org" || targetName.MatchString(name) {
		t.Fatalf("%q, %q, %v", name, origin, err)
	}
	where, err := a.keepSecret(name, "the key")
	if err != nil || where != secretInKeyring {
		t.Fatalf("%s, %v", where, err)
	}
	if got, err := a.loginSecret(endpoint); got != "" || err != nil {
		t.Errorf("the keyring was asked for %q, %v, though nothing says that it has it", got, err)
	}
	if err := a.mark(name, where); err != nil {
		t.Fatal(err)
	}
	if got, err := a.loginSecret("https://api.example.org"); got != "the key" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := a.loginSecret("http://api.example.org"); got != "" || err != nil {
		t.Errorf("another service gets %q, %v", got, err)
	}
	if err := a.dropSecret(name, where); err != nil {
		t.Fatal(err)
	}
	if _, err := a.loginSecret(endpoint); err == nil || !strings.Contains(err.Error(), "keyring") {
		t.Errorf("a key that is gone from the keyring: %v", err)
	}
}
