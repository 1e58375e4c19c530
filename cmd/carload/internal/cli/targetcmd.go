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
		Short: "Give names to targets, for --to",
		Example: `  carload target add home kubo://127.0.0.1:5001
  carload target test home
  carload up --to home movie.mkv`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.targetAddCommand(), a.targetListCommand(), a.targetShowCommand(), a.targetTestCommand(), a.targetRmCommand())
	return cmd
}

// targetEvent is a target in the configuration, without its secret.
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
		Short: "Add a named target to the configuration",
		Long: `Add a named target to the configuration. Give the target in the form that --to
accepts: https://… for a service with the NFT.Storage API, kubo://HOST:PORT,
kubo: for this user's node, s3://BUCKET/PREFIX, cluster://HOST:PORT, or
dir:PATH. On a terminal, carload asks for what you leave out.

carload finds the credentials of a bucket where the AWS tools do: in the
environment, in ~/.aws (--s3-profile), or in the role of the machine. It asks
for any other secret, or reads it from standard input with --secret-file -. It
stores the secret in the system's keyring, or in a private file if there is no
keyring. With --token-command, a program prints the secret and carload stores
nothing.`,
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
	f.StringVar(&c.Gateway, "gateway", "", "URL of the gateway to fetch blocks from (default: the target)")
	f.StringVar(&c.Allocations, "allocations", "", "peers of an IPFS Cluster that should pin uploads, separated by commas (default: the contacted peer, and those that it chooses)")
	f.StringVar(&c.Endpoint, "s3-endpoint", "", "URL of S3 storage other than AWS")
	f.StringVar(&c.Region, "s3-region", "", "region of a bucket (default: from the environment or the profile)")
	f.StringVar(&c.Profile, "s3-profile", "", "profile of the AWS configuration")
	f.BoolVar(&c.Import, "s3-import", false, "let the storage import each CAR into IPFS (Filebase): each DAG goes up as one object")
	f.StringVar(&c.Files, "to-files", "", "where uploads appear in the files (MFS) of a Kubo node; end a directory with a slash")
	f.StringVar(&c.CACert, "ca-cert", "", "trust the certificate authorities in this PEM file too")
	f.BoolVar(&c.InsecureHTTP, "insecure-http", false, "send the secret unencrypted to another machine")
	f.Var(&rate, "tpslimit", "limit of requests, such as 30/10s; off for no limit")
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
		return usagef("there is already a target called %q: remove it first with carload target rm %s", name, name)
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
		a.con.say("its secret is stored in the %s", c.Secret)
	}
	a.con.say("test it with: carload target test %s", name)
	return nil
}

// asker asks on the terminal.
type asker struct {
	a   *app
	in  *bufio.Reader
	err error // the first error
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

// secret asks without showing what the user types.
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
		Short:   "List the named targets: name, type, address",
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

// named returns the target of the configuration with this name.
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
		Short:   "Show the settings of a target, except its secret",
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
		Short:   "Remove a target and its secret; uploads there stay",
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

// configPath returns the file that --config names, or the user's.
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

// editConfig replaces the configuration file by the result of edit.
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

// addTarget appends a target to the text of a configuration. The existing text
// stays as people wrote it.
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

// tomlKey quotes a name that contains a dot.
func tomlKey(name string) string {
	if strings.Contains(name, ".") {
		return `"` + name + `"`
	}
	return name
}

var tableHeader = regexp.MustCompile(`^\s*\[`)

// removeTarget removes the table of a target from the text.
func removeTarget(text []byte, name string) ([]byte, error) {
	var out, between bytes.Buffer // comments at the end of the table belong to what follows
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

// isTableOf reports whether a line begins the table of a target.
func isTableOf(line []byte, name string) bool {
	var v map[string]map[string]any
	if err := toml.Unmarshal(line, &v); err != nil {
		return false
	}
	_, ok := v[targetsKey][name]
	return ok
}

// differsBy checks that two configurations differ only by one target, because
// people may have written the edited text in any way.
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
		return withHint(usagef("carload can't edit the configuration as it is written"), fmt.Sprintf("edit its table [%s.%s] by hand", targetsKey, name))
	}
	return nil
}

// without removes a target from a configuration. A missing table of targets
// counts as an empty one.
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
