package cli

import (
	"cmp"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Show the settings, and where each comes from",
		Example: `  carload config show --origin
  carload config path`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.configShowCommand(), a.configPathCommand())
	return cmd
}

// settingEvent is a setting and the origin of its value.
type settingEvent struct {
	eventHeader
	Name   string   `json:"name"`
	Values []string `json:"values"`
	Origin string   `json:"origin"` // environment, file or default
	Where  string   `json:"where,omitempty"`
}

func (a *app) configShowCommand() *cobra.Command {
	var origin, all bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Print the settings from the environment and the configuration file",
		Long: `Print the settings from the environment and the configuration file, in the
format of that file. Flags still override them. For a secret, carload prints
only where it comes from. "carload target list" shows the targets.`,
		Example: `  carload config show --origin
  carload config show --all --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.showConfig(cmd.Root(), origin, all) },
	}
	f := cmd.Flags()
	f.BoolVar(&origin, "origin", false, "show where each value comes from")
	f.BoolVar(&all, "all", false, "also print the defaults of all other settings")
	return cmd
}

func (a *app) showConfig(root *cobra.Command, origin, all bool) error {
	path, file, err := a.readConfig()
	if err != nil {
		return usageError{error: err}
	}
	flags := map[string]*pflag.Flag{}
	eachFlag(root, func(f *pflag.Flag) { flags[f.Name] = cmp.Or(flags[f.Name], f) })
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		f := flags[name]
		e := settingEvent{header("setting"), name, splitDefault(f), "default", ""}
		if v := a.env[variable(name)]; v != "" {
			e.Values, e.Origin, e.Where = splitValue(f, v), "environment", variable(name)
		} else if v, ok := file[name]; ok {
			e.Values, e.Origin, e.Where = v, "file", path
		} else if !all || f.Hidden {
			continue
		}
		a.printSetting(f, e, origin)
	}
	if where, _ := a.secretAround(); where != "" {
		a.con.result("# the API key comes from " + where)
	}
	return nil
}

// printSetting prints a line in the format of the configuration file.
func (a *app) printSetting(f *pflag.Flag, e settingEvent, origin bool) {
	quoted := make([]string, len(e.Values))
	for i, v := range e.Values {
		switch kind := f.Value.Type(); {
		case isPrintable(v) && (kind == "bool" || kind == "int" || kind == "count"):
			quoted[i] = v
		default:
			quoted[i] = quotePath(v)
			if !strings.HasPrefix(quoted[i], `"`) {
				quoted[i] = `"` + quoted[i] + `"`
			}
		}
	}
	line := e.Name + " = " + strings.Join(quoted, ", ")
	if _, list := f.Value.(pflag.SliceValue); list {
		line = e.Name + " = [" + strings.Join(quoted, ", ") + "]"
	}
	if origin {
		line += "  # " + quotePath(cmp.Or(e.Where, e.Origin))
	}
	a.con.event(e)
	a.con.result(line)
}

// splitDefault returns the values of a flag without any settings.
func splitDefault(f *pflag.Flag) []string {
	if list, ok := f.Value.(pflag.SliceValue); ok {
		return list.GetSlice()
	}
	return []string{f.DefValue}
}

// eachFlag visits the flags of all commands. It visits a flag once for each
// command that has it.
func eachFlag(cmd *cobra.Command, visit func(*pflag.Flag)) {
	each := func(f *pflag.Flag) {
		if f.Name != "help" {
			visit(f)
		}
	}
	cmd.PersistentFlags().VisitAll(each)
	cmd.Flags().VisitAll(each)
	for _, c := range cmd.Commands() {
		eachFlag(c, visit)
	}
}

func (a *app) configPathCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "path",
		Short:   "Print the path of the configuration file, whether it exists or not",
		Example: `  $EDITOR "$(carload config path)"`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			path := a.global.config
			if path == "" {
				dir, err := a.env.configDir()
				if err != nil {
					return usageError{error: err}
				}
				path = filepath.Join(dir, "config.toml")
			}
			a.con.event(settingEvent{header("setting"), "config", []string{path}, "default", ""})
			a.con.result(quotePath(path))
			return nil
		},
	}
}
