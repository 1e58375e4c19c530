package cli

import (
	"errors"
	"path/filepath"
	"runtime"
	"strings"
)

// environment is the environment of the process.
type environment map[string]string

func parseEnvironment(environ []string) environment {
	env := make(environment, len(environ))
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			env[k] = v
		}
	}
	return env
}

var errNoHome = errors.New("there is no home directory to keep data in: set HOME, or name the place with a flag")

// dir returns a directory of this program: below the XDG variable if it is set,
// otherwise at the usual place of the system.
func (e environment) dir(xdg, unix, darwin, windows string) (string, error) {
	base := e[xdg]
	if !filepath.IsAbs(base) { // the specification says to ignore relative paths
		switch home := e["HOME"]; {
		case runtime.GOOS == "windows" && e[windows] != "":
			base = e[windows]
		case home == "":
			return "", errNoHome
		case runtime.GOOS == "darwin":
			base = filepath.Join(home, darwin)
		default:
			base = filepath.Join(home, unix)
		}
	}
	return filepath.Join(base, "carload"), nil
}

// dataDir is for data that must not get lost: the store of the built-in
// service.
func (e environment) dataDir() (string, error) {
	return e.dir("XDG_DATA_HOME", ".local/share", "Library/Application Support", "LOCALAPPDATA")
}

// stateDir is for state that persists between runs: the ledger.
func (e environment) stateDir() (string, error) {
	return e.dir("XDG_STATE_HOME", ".local/state", "Library/Application Support", "LOCALAPPDATA")
}

// cacheDir is for data of a single run: the spool of a stream.
func (e environment) cacheDir() (string, error) {
	return e.dir("XDG_CACHE_HOME", ".cache", "Library/Caches", "LOCALAPPDATA")
}

func (e environment) configDir() (string, error) {
	return e.dir("XDG_CONFIG_HOME", ".config", "Library/Application Support", "APPDATA")
}
