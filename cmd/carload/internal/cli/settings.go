package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	envPrefix      = "CARLOAD_"
	tokenVariable  = "CARLOAD_TOKEN" //nolint:gosec // the name of the variable, not a token
	maxConfigBytes = 256 << 10
)

// tokenSetting is a name that people look for. There is no such setting.
const tokenSetting = "token"

func errTokenSetting(origin string) error {
	return withHint(usagef("%s: carload does not take the API key itself here", origin),
		"put it into the variable CARLOAD_TOKEN, or name a file with --token-file or a program with --token-command")
}

// badValue explains in our words what is wrong with the value of a flag.
func badValue(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	use := ""
	switch invalid.GetFlag().Value.Type() {
	case "bool":
		use = "use true or false"
	case "int", "count":
		use = "use a whole number"
		if errors.Is(err, strconv.ErrRange) {
			use = "the number is out of range"
		}
	case "duration":
		use = "use a time such as 30s or 5m"
	default:
		return invalid.Unwrap()
	}
	return fmt.Errorf("%q: %s", invalid.GetValue(), use)
}

// settings are the settings other than flags.
type settings struct {
	warnings []string
	targets  map[string]targetConfig // in the configuration file, by name
}

// variable returns the environment variable of a flag.
func variable(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// applySettings sets every flag that is not on the command line from the
// environment, or else from the configuration file.
func (a *app) applySettings(cmd *cobra.Command) error {
	known := knownFlags(cmd.Root())
	a.settings.warnings = unknownVariables(a.env, known)

	flags := cmd.Flags()
	store := flags.Changed("store")
	if store && flags.Changed("endpoint") {
		return usagef("use --store or --endpoint, not both")
	}
	var errs []error
	set := func(f *pflag.Flag, origin string, values ...string) {
		for _, v := range values {
			if err := flags.Set(f.Name, v); err != nil {
				errs = append(errs, usageError{error: fmt.Errorf("%s: %w", origin, badValue(err))})
			}
		}
	}
	decided := rivals(flags, store)
	fromEnvironment := func(f *pflag.Flag) {
		name := variable(f.Name)
		if v := a.env[name]; v != "" && !f.Changed && f.Name != "help" && !decided[f.Name] {
			set(f, name, splitValue(f, v)...)
		}
	}
	flags.VisitAll(fromEnvironment)
	if err := errors.Join(errs...); err != nil {
		return err
	}

	path, config, err := a.readConfig()
	if err != nil {
		return usageError{error: err}
	}
	for key := range config {
		if key == tokenSetting {
			return errTokenSetting(fmt.Sprintf("%q: %s", path, key))
		}
		if !slices.Contains(known, key) {
			return usageError{error: fmt.Errorf("%q: unknown setting %q%s", path, key, suggestion(key, known))}
		}
	}
	decided = rivals(flags, store)
	flags.VisitAll(func(f *pflag.Flag) {
		v, ok := config[f.Name]
		if decided[f.Name] {
			return
		}
		if _, list := f.Value.(pflag.SliceValue); ok && !list && len(v) != 1 {
			errs = append(errs, usageError{error: fmt.Errorf("%q: %s takes one value, not a list", path, f.Name)})
		} else if ok && !f.Changed {
			set(f, fmt.Sprintf("%q: %s", path, f.Name), v...)
		}
	})
	return errors.Join(errs...)
}

// rivals returns the flags that another flag overrides. --to and --endpoint
// both name a target, so one of them on the command line overrides the other in
// the environment, and one in the environment overrides the other in the file.
// --store on the command line also names a target. Elsewhere it only says where
// the store is.
func rivals(flags *pflag.FlagSet, store bool) map[string]bool {
	return map[string]bool{"endpoint": store || flags.Changed("to"), "to": store || flags.Changed("endpoint")}
}

// splitValue returns the values of a variable: a list has one on each line.
func splitValue(f *pflag.Flag, v string) []string {
	if _, list := f.Value.(pflag.SliceValue); list {
		return strings.FieldsFunc(v, func(r rune) bool { return r == '\n' })
	}
	return []string{v}
}

// knownFlags returns the names of the flags of all commands.
func knownFlags(cmd *cobra.Command) []string {
	var names []string
	eachFlag(cmd, func(f *pflag.Flag) { names = append(names, f.Name) })
	slices.Sort(names)
	return slices.Compact(names)
}

// unknownVariables returns warnings for variables that look like settings but
// are not.
func unknownVariables(env environment, flags []string) []string {
	names := []string{tokenVariable, kuboVariable}
	for _, f := range flags {
		names = append(names, variable(f))
	}
	var warnings []string
	for k := range env {
		if strings.HasPrefix(k, envPrefix) && !strings.HasPrefix(k, fleetPrefix) && !slices.Contains(names, k) {
			warnings = append(warnings, fmt.Sprintf("the variable %s is not a setting%s", k, suggestion(k, names)))
		}
	}
	slices.Sort(warnings)
	return warnings
}

// suggestion names the closest of the names, if one is close, or one that
// begins with s.
func suggestion(s string, names []string) string {
	best, at := "", min(4, max(2, len(s)))
	for _, n := range names {
		if d := distance(s, n); d < at {
			best, at = n, d
		}
	}
	for i := 0; best == "" && i < len(names); i++ {
		if len(s) > 2 && strings.HasPrefix(names[i], s) {
			best = names[i]
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// readConfig reads the file that --config names, or the user's if there is one.
// It returns the values in the form that flags take.
func (a *app) readConfig() (path string, _ map[string][]string, err error) {
	path = a.global.config
	if path == "" {
		dir, err := a.env.configDir()
		if err != nil {
			return "", nil, nil //nolint:nilerr // without a home there is no file
		}
		path = filepath.Join(dir, "config.toml")
	}
	info, err := os.Stat(path) // before opening: opening a FIFO would block
	if errors.Is(err, fs.ErrNotExist) && a.global.config == "" {
		return "", nil, nil
	}
	switch {
	case err != nil:
		return "", nil, fmt.Errorf("configuration: %w", err)
	case !info.Mode().IsRegular():
		return "", nil, fmt.Errorf("configuration: %q is not a regular file", path)
	case info.Size() > maxConfigBytes:
		return "", nil, fmt.Errorf("configuration: %q is larger than %d bytes", path, maxConfigBytes)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o002 != 0:
		return "", nil, fmt.Errorf("configuration: anyone can write to %q, which can name commands to run; remove that permission (chmod o-w)", path)
	}
	text, _, err := readSmall(path, maxConfigBytes)
	if err != nil {
		return "", nil, fmt.Errorf("configuration: %w", err)
	}
	var values map[string]any
	if err := toml.Unmarshal(text, &values); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			row, column := at.Position()
			return "", nil, fmt.Errorf("configuration: %q, line %d, column %d: %w", path, row, column, err)
		}
		return "", nil, fmt.Errorf("configuration: %q: %w", path, err)
	}
	if table, ok := values[targetsKey]; ok {
		if a.settings.targets, err = decodeTargets(table); err != nil {
			return "", nil, fmt.Errorf("configuration: %q: %w", path, err)
		}
		delete(values, targetsKey)
	}
	config := make(map[string][]string, len(values))
	for key, v := range values {
		if config[key], err = configValue(v); err != nil {
			return "", nil, fmt.Errorf("configuration: %q: %s: %w", path, key, err)
		}
	}
	return path, config, nil
}

func configValue(v any) ([]string, error) {
	switch v := v.(type) {
	case string:
		return []string{v}, nil
	case int64, float64, bool:
		return []string{fmt.Sprint(v)}, nil
	case time.Time:
		return []string{v.Format(time.RFC3339)}, nil
	case []any:
		var all []string
		for _, e := range v {
			s, err := configValue(e)
			if err != nil {
				return nil, err
			}
			all = append(all, s...)
		}
		return all, nil
	}
	return nil, errors.New("must be a string, a number, true or false, or a list of those")
}
