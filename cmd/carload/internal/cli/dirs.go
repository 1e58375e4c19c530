package cli

import (
	"errors"
	"path/filepath"
	"runtime"
	"strings"
)

// environment is what the process was given.
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

var errNoHome = errors.New("there is no home directory to keep data in: set HOME, or name the place by a flag")

// dir is a directory of this program: below the one the XDG variable names if
// that is set, and otherwise where the system has such things.
func (e environment) dir(xdg, unix, darwin, windows string) (string, error) {
	base := e[xdg]
	if !filepath.IsAbs(base) { // the specification: ignore relative ones
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

// dataDir holds what must not get lost: the store of the embedded service.
func (e environment) dataDir() (string, error) {
	return e.dir("XDG_DATA_HOME", ".local/share", "Library/Application Support", "LOCALAPPDATA")
}

// stateDir holds what is kept between runs: the ledger.
func (e environment) stateDir() (string, error) {
	return e.dir("XDG_STATE_HOME", ".local/state", "Library/Application Support", "LOCALAPPDATA")
}

// cacheDir holds what a run needs for itself: the spool of a stream.
func (e environment) cacheDir() (string, error) {
	return e.dir("XDG_CACHE_HOME", ".cache", "Library/Caches", "LOCALAPPDATA")
}

func (e environment) configDir() (string, error) {
	return e.dir("XDG_CONFIG_HOME", ".config", "Library/Application Support", "APPDATA")
}
