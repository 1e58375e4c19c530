package cli

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (a *app) targetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "target",
		Short: "Name the places to send to, for --to",
		Example: `  carload target add home kubo://127.0.0.1:5001
  carload target test home
  carload up --to home movie.mkv`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.targetAddCommand(), a.targetListCommand(), a.targetShowCommand(), a.targetTestCommand(), a.targetRmCommand())
	return cmd
}

// targetEvent is a target of the configuration. Its secret is not shown.
type targetEvent struct {
	eventHeader
	Name     string         `json:"name"`
	Kind     string         `json:"kind"`
	Where    string         `json:"where"`
	Settings map[string]any `json:"settings,omitempty"`
}

func (a *app) targetAddCommand() *cobra.Command {
	var c targetConfig
	var secretFile string
	var rate requestRate
	cmd := &cobra.Command{
		Use:   "add [NAME TARGET]",
		Short: "Name a target in the configuration",
		Long: `Name a target, which is given in the form that --to takes: https://… for a
service that speaks the API of NFT.Storage, kubo://HOST:PORT, kubo: for this
user's node, s3://BUCKET/PREFIX, cluster://HOST:PORT, or dir:PATH. On a terminal
it asks for what is left out.

The credentials of a bucket are looked for where the programs of AWS look:
in the environment, in ~/.aws (--s3-profile), and in the role of the machine. Any
other secret is read from standard input with --secret-file -, or asked for.
It is kept in the system's keyring, or in a file for this user only where there
is no keyring. --token-command names a program that prints it, and nothing is kept.`,
		Example: `  carload target add home kubo://127.0.0.1:5001 --to-files /carload/
  carload target add cold s3://shards/films --s3-endpoint https://s3.example.org
  carload target add work https://api.example.org --secret-file - < token`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 || len(args) == 0 && isTerminal(a.stdio.In) {
				return nil
			}
			return usageError{errors.New("give a name and a target"), helpFor(cmd)}
		},
		RunE: func(_ *cobra.Command, args []string) error {
			c.TPSLimit = rate.text
			return a.targetAdd(args, c, secretFile)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&secretFile, "secret-file", "", "file to read the secret from; - for standard input")
	f.StringVar(&c.TokenFile, "token-file", "", "file with the secret, read at each use")
	f.StringVar(&c.TokenCommand, "token-command", "", "program that prints the secret at each use; run without a shell")
	f.StringVar(&c.Gateway, "gateway", "", "URL of the gateway that gives blocks back (default: the target)")
	f.StringVar(&c.Allocations, "allocations", "", "peers of an IPFS Cluster that shall have what is sent, with commas between (default: the one that is asked, and those that it chooses)")
	f.StringVar(&c.Endpoint, "s3-endpoint", "", "URL of a storage that is not AWS")
	f.StringVar(&c.Region, "s3-region", "", "region of a bucket (default: that of the environment or the profile)")
	f.StringVar(&c.Profile, "s3-profile", "", "profile of the AWS configuration")
	f.BoolVar(&c.Import, "s3-import", false, "have the storage import each CAR into IPFS (Filebase): a DAG goes up as one object")
	f.StringVar(&c.Files, "to-files", "", "where uploads appear in the files (MFS) of a Kubo node; a directory ends with a slash")
	f.StringVar(&c.CACert, "ca-cert", "", "trust the certificate authorities in this PEM file as well as the system's")
	f.BoolVar(&c.InsecureHTTP, "insecure-http", false, "send the secret unencrypted to another machine")
	f.Var(&rate, "tpslimit", "requests in a time, such as 30/10s; off for no limit")
	return cmd
}

func (a *app) targetAdd(args []string, options targetConfig, secretFile string) error {
	ask := &asker{a: a, in: bufio.NewReader(a.stdio.In)}
	if len(args) == 0 {
		args = []string{ask.line("name: "), ask.line("target (https://…, kubo://…, s3://…, dir:PATH): ")}
		if ask.err != nil {
			return ask.err
		}
	}
	name := args[0]
	c, err := a.parseTarget(args[1])
	if err != nil {
		return err
	}
	options.Type, options.URL, options.Path = c.Type, c.URL, c.Path
	c = options
	if err := c.validate(name); err != nil {
		return usageError{error: err}
	}
	if _, ok := a.settings.targets[name]; ok {
		return usagef("there is a target called %q already: remove it first by carload target rm %s", name, name)
	}
	secret := ""
	switch {
	case !slices.Contains(kinds[c.Type], "secret"):
		if secretFile != "" {
			return usagef("a target of type %s has no secret", c.Type)
		}
	case secretFile == "-":
		p, err := io.ReadAll(io.LimitReader(ask.in, maxTokenBytes))
		if err != nil {
			return err
		}
		secret = string(p)
	case secretFile != "":
		if secret, err = a.readTokenFile(secretFile); err != nil {
			return usageError{error: err}
		}
	case c.TokenFile == "" && c.TokenCommand == "" && isTerminal(a.stdio.In):
		secret = ask.secret("secret (empty for none): ")
		if ask.err != nil {
			return ask.err
		}
	}
	if secret = strings.TrimSpace(secret); secret != "" {
		if c.Secret, err = a.keepSecret(name, secret); err != nil {
			return err
		}
	}
	if err := a.editConfig(func(text []byte) ([]byte, error) { return addTarget(text, name, c) }); err != nil {
		if c.Secret != "" {
			err = errors.Join(err, a.dropSecret(name, c.Secret))
		}
		return err
	}
	a.con.event(targetEvent{header("target"), name, c.Type, c.where(), nil})
	a.con.result(fmt.Sprintf("%s\t%s\t%s", name, c.Type, quotePath(c.where())))
	if c.Secret != "" {
		a.con.say("its secret is in the %s", c.Secret)
	}
	a.con.say("see whether it works: carload target test %s", name)
	return nil
}

// asker asks on the terminal.
type asker struct {
	a   *app
	in  *bufio.Reader
	err error // the first one
}

func (q *asker) line(prompt string) string {
	if q.err != nil {
		return ""
	}
	q.a.con.line(prompt)
	var s string
	s, q.err = q.in.ReadString('\n')
	return strings.TrimSpace(s)
}

// secret does not show what is typed.
func (q *asker) secret(prompt string) string {
	f, ok := q.a.stdio.In.(*os.File)
	if q.err != nil || !ok {
		return ""
	}
	q.a.con.line(prompt)
	var p []byte
	p, q.err = term.ReadPassword(int(f.Fd()))
	return string(p)
}

func (a *app) targetListCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the named targets: name, type, where",
		Example: `  carload target list`,
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			rows := a.con.table("NAME", "TYPE", "WHERE")
			defer rows.flush()
			for _, name := range slices.Sorted(maps.Keys(a.settings.targets)) {
				c := a.settings.targets[name]
				a.con.event(targetEvent{header("target"), name, c.Type, c.where(), nil})
				rows.row(textCell(name), textCell(c.Type), textCell(quotePath(c.where())))
			}
			return nil
		},
	}
}

// named is the target of the configuration with this name.
func (a *app) named(name string) (targetConfig, error) {
	c, ok := a.settings.targets[name]
	if !ok {
		return c, withHint(usagef("there is no target called %q%s", name, suggestion(name, slices.Collect(maps.Keys(a.settings.targets)))), "carload target list")
	}
	return c, nil
}

func (a *app) targetShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show NAME",
		Short:   "Show the settings of a target, but for its secret",
		Example: `  carload target show home`,
		Args:    oneArg("the name of a target"),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := a.named(args[0])
			if err != nil {
				return err
			}
			text, err := toml.Marshal(c)
			if err != nil {
				return err
			}
			set := map[string]any{}
			if err := toml.Unmarshal(text, &set); err != nil {
				return err
			}
			a.con.event(targetEvent{header("target"), args[0], c.Type, c.where(), set})
			for _, key := range targetSettings() {
				if v, ok := set[key]; ok {
					a.con.result(fmt.Sprintf("%s\t%s", key, quotePath(fmt.Sprint(v))))
				}
			}
			return nil
		},
	}
}

func (a *app) targetRmCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME",
		Short:   "Forget a target and its secret; what was sent there stays",
		Example: `  carload target rm home`,
		Args:    oneArg("the name of a target"),
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := a.named(args[0])
			if err != nil {
				return err
			}
			if err := a.editConfig(func(text []byte) ([]byte, error) { return removeTarget(text, args[0]) }); err != nil {
				return err
			}
			if c.Secret != "" {
				if err := a.dropSecret(args[0], c.Secret); err != nil {
					return err
				}
			}
			a.gone(goneEvent{eventHeader: header("removed"), ID: args[0]})
			return nil
		},
	}
}

// configPath is the file that --config names, or the user's.
func (a *app) configPath() (string, error) {
	if a.global.config != "" {
		return a.global.config, nil
	}
	dir, err := a.env.configDir()
	if err != nil {
		return "", usageError{error: err}
	}
	return filepath.Join(dir, "config.toml"), nil
}

// editConfig replaces the configuration file by what edit makes of it.
func (a *app) editConfig(edit func([]byte) ([]byte, error)) error {
	path, err := a.configPath()
	if err != nil {
		return err
	}
	if linked, err := filepath.EvalSymlinks(path); err == nil {
		path = linked // people keep such files elsewhere
	}
	mode := fs.FileMode(0o600)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
	case err != nil:
		return err
	default:
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		mode = info.Mode().Perm()
	}
	if text, err = edit(text); err != nil {
		return err
	}
	return writeFile(path, string(text), mode)
}

// addTarget adds a target to the text of a configuration, at its end: what is
// there stays as people wrote it.
func addTarget(text []byte, name string, c targetConfig) ([]byte, error) {
	table, err := toml.Marshal(c)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.Write(text)
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		out.WriteByte('\n')
	}
	if len(text) > 0 {
		out.WriteByte('\n')
	}
	fmt.Fprintf(&out, "[%s.%s]\n%s", targetsKey, tomlKey(name), table)
	return out.Bytes(), differsBy(text, out.Bytes(), name, &c)
}

// tomlKey quotes a name that has a dot in it.
func tomlKey(name string) string {
	if strings.Contains(name, ".") {
		return `"` + name + `"`
	}
	return name
}

var tableHeader = regexp.MustCompile(`^\s*\[`)

// removeTarget takes the table of a target out of the text.
func removeTarget(text []byte, name string) ([]byte, error) {
	var out, between bytes.Buffer // remarks at the end of the table are for what follows
	inside := false
	for line := range bytes.Lines(text) {
		if tableHeader.Match(line) {
			if inside {
				out.Write(between.Bytes())
				between.Reset()
			}
			inside = isTableOf(line, name)
		}
		switch remark := bytes.TrimSpace(line); {
		case !inside:
			out.Write(line)
		case len(remark) == 0 || remark[0] == '#':
			between.Write(line)
		default:
			between.Reset()
		}
	}
	kept := bytes.TrimRight(out.Bytes(), "\n")
	if len(kept) > 0 {
		kept = append(kept, '\n')
	}
	return kept, differsBy(text, kept, name, nil)
}

// isTableOf tells whether a line begins the table of a target.
func isTableOf(line []byte, name string) bool {
	var v map[string]map[string]any
	if err := toml.Unmarshal(line, &v); err != nil {
		return false
	}
	_, ok := v[targetsKey][name]
	return ok
}

// differsBy checks that two configurations are the same but for one target:
// what was edited is text that people may have written in any way.
func differsBy(before, after []byte, name string, c *targetConfig) error {
	var was, is map[string]any
	err := errors.Join(toml.Unmarshal(before, &was), toml.Unmarshal(after, &is))
	ok := err == nil
	if ok {
		if was == nil {
			was = map[string]any{}
		}
		_, had := without(was, name)
		found, has := without(is, name)
		ok = had != has && has == (c != nil) && reflect.DeepEqual(was, is)
		if ok && c != nil {
			targets, err := decodeTargets(map[string]any{name: found})
			ok = err == nil && targets[name] == *c
		}
	}
	if !ok {
		return withHint(usagef("the configuration is written in a way that can't be changed here"), fmt.Sprintf("change its table [%s.%s] by hand", targetsKey, name))
	}
	return nil
}

// without takes a target out of a configuration. No table of targets is the
// same as an empty one.
func without(config map[string]any, name string) (target any, ok bool) {
	targets, isTable := config[targetsKey].(map[string]any)
	if !isTable {
		return nil, false
	}
	target, ok = targets[name]
	delete(targets, name)
	if len(targets) == 0 {
		delete(config, targetsKey)
	}
	return target, ok
}
