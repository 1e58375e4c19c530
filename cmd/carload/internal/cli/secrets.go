package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/zalando/go-keyring"
)

// Where the secrets of named targets are stored.
const (
	secretInKeyring = "keyring"
	secretInFile    = "file" // in the configuration directory, readable only by this user
)

// keyringService is the name of the service in the keyring.
const keyringService = "carload target"

// keepSecret stores the secret of a target: in the system's keyring if there is
// a usable one, otherwise in a file. It returns which.
func (a *app) keepSecret(name, secret string) (string, error) {
	if a.hasKeyring() && keyring.Set(keyringService, name, secret) == nil {
		return secretInKeyring, nil
	}
	path, err := a.secretPath(name)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	return secretInFile, writePrivate(path, secret+"\n")
}

// readSecret returns what keepSecret stored.
func (a *app) readSecret(name, where string) (string, error) {
	if where == secretInKeyring {
		secret, err := keyring.Get(keyringService, name)
		if err != nil {
			return "", withHint(usagef("can't read the secret of target %q from the keyring: %w", name, err),
				"unlock the keyring, or keep the secret elsewhere with token-file or token-command in the configuration")
		}
		return secret, nil
	}
	path, err := a.secretPath(name)
	if err != nil {
		return "", err
	}
	text, err := a.readTokenFile(path)
	if err != nil {
		return "", withHint(usageError{error: fmt.Errorf("the secret of target %q: %w", name, err)}, "carload target add stores it again")
	}
	return strings.TrimSpace(text), nil
}

// dropSecret removes what keepSecret stored.
func (a *app) dropSecret(name, where string) error {
	if where == secretInKeyring {
		if err := keyring.Delete(keyringService, name); !errors.Is(err, keyring.ErrNotFound) {
			return err
		}
		return nil
	}
	path, err := a.secretPath(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (a *app) secretPath(name string) (string, error) {
	dir, err := a.env.configDir()
	if err != nil {
		return "", usageError{error: err}
	}
	return filepath.Join(dir, "secrets", name), nil
}

// hasKeyring reports whether there may be a keyring. On Linux it is on the
// session bus; asking for one when there is no bus would start it.
func (a *app) hasKeyring() bool {
	switch runtime.GOOS {
	case "darwin", "windows":
		return true
	case "linux":
		return a.env["DBUS_SESSION_BUS_ADDRESS"] != ""
	}
	return false
}
