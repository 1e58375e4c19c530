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

// Where the secrets of named targets are kept.
const (
	secretInKeyring = "keyring"
	secretInFile    = "file" // in the directory of the configuration, for this user only
)

// keyringService is what the secrets are filed under in the keyring.
const keyringService = "carload target"

// keepSecret keeps the secret of a target: in the keyring of the system, where
// there is one that takes it, or else in a file. It returns which it was.
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

// readSecret gives back what keepSecret kept.
func (a *app) readSecret(name, where string) (string, error) {
	if where == secretInKeyring {
		secret, err := keyring.Get(keyringService, name)
		if err != nil {
			return "", withHint(usagef("the secret of target %q is not to be had from the keyring: %w", name, err),
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
		return "", withHint(usageError{error: fmt.Errorf("the secret of target %q: %w", name, err)}, "carload target add makes it anew")
	}
	return strings.TrimSpace(text), nil
}

// dropSecret removes what keepSecret kept.
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

// hasKeyring tells whether there may be a keyring. On Linux it is on the bus of
// the session; asking for one that is not there would start it.
func (a *app) hasKeyring() bool {
	switch runtime.GOOS {
	case "darwin", "windows":
		return true
	case "linux":
		return a.env["DBUS_SESSION_BUS_ADDRESS"] != ""
	}
	return false
}
