package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/nftstorage"
)

// loginFlags name the service.
type loginFlags struct {
	end        endpointFlags
	secretFile string
}

func (l *loginFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.end.endpoint, "endpoint", "", "URL of the service's API")
}

type loginEvent struct {
	eventHeader
	Endpoint string `json:"endpoint"`
	Where    string `json:"where"` // keyring or file
}

func (a *app) loginCommand() *cobra.Command {
	var l loginFlags
	cmd := &cobra.Command{
		Use:   "login --endpoint URL",
		Short: "Store the API key of a service, so that other commands need no token",
		Long: `Ask for the API key of a service, check that the service accepts it, and store
it: in the system's keyring, or, if there is none, in a file that only you can
read. Commands with this --endpoint then use it, unless you set CARLOAD_TOKEN,
--token-file or --token-command. carload never sends it anywhere else.

Type the key on the terminal, which does not show it, or read it from a file
with --secret-file. "carload target add" does the same for a target with a name.`,
		Example: `  carload login --endpoint https://api.example.org
  pass show api | carload login --endpoint https://api.example.org --secret-file -`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.login(cmd.Context(), l) },
	}
	l.add(cmd)
	f := cmd.Flags()
	f.StringVar(&l.secretFile, "secret-file", "", "file to read the secret from; - for standard input")
	f.BoolVar(&l.end.insecureHTTP, "insecure-http", false, "send the key unencrypted to another machine")
	f.StringVar(&l.end.caCert, "ca-cert", "", "trust the certificate authorities in this PEM file too")
	f.DurationVar(&l.end.stall, "stall-timeout", time.Minute, "give up a request when no byte has moved for this long")
	return cmd
}

func (a *app) logoutCommand() *cobra.Command {
	var l loginFlags
	cmd := &cobra.Command{
		Use:     "logout --endpoint URL",
		Short:   "Remove the API key that login stored",
		Example: "  carload logout --endpoint https://api.example.org",
		Args:    noArgs,
		RunE: func(*cobra.Command, []string) error {
			name, origin, err := loginName(l.end.endpoint)
			if err != nil {
				return err
			}
			where := a.loginWhere(name)
			if where == "" {
				return usagef("carload login has stored no key for %s", origin)
			}
			if err := errors.Join(a.dropSecret(name, where), a.dropMark(name)); err != nil {
				return err
			}
			a.gone(goneEvent{eventHeader: header("removed"), ID: origin})
			return nil
		},
	}
	l.add(cmd)
	return cmd
}

// loginName returns the name under which the key of a service is stored. No
// target can have that name.
func loginName(endpoint string) (name, origin string, err error) {
	if endpoint == "" {
		return "", "", usagef("name the service with --endpoint")
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		return "", "", usagef("--endpoint: use a URL such as https://api.example.org, without a user name and password")
	}
	origin = u.Scheme + "://" + strings.ToLower(u.Host)
	return "@" + url.QueryEscape(origin), origin, nil
}

func (a *app) login(ctx context.Context, l loginFlags) error {
	name, origin, err := loginName(l.end.endpoint)
	if err != nil {
		return err
	}
	secret, err := a.readLogin(l.secretFile, origin)
	if err != nil {
		return err
	}
	token, err := nftstorage.NewToken(secret)
	if err != nil {
		return usageError{error: err}
	}
	l.end.rate.text = rateAuto
	t, err := a.openService(l.end, l.end.endpoint, token)
	if err != nil {
		return err
	}
	err = isTaken(ctx, t.service)
	if err = errors.Join(err, t.close()); err != nil {
		return err
	}
	was := a.loginWhere(name)
	where, err := a.keepSecret(name, secret)
	if err != nil {
		return err
	}
	if err := a.mark(name, where); err != nil {
		return errors.Join(err, a.dropSecret(name, where))
	}
	if was != "" && was != where { // last, so that after a failure the user still has one of the two
		if err := a.dropSecret(name, was); err != nil {
			return err
		}
	}
	a.con.event(loginEvent{header("login"), origin, where})
	a.con.result(origin + "\t" + where)
	a.con.say("the key is stored in the %s; carload logout --endpoint %s removes it", where, origin)
	return nil
}

// readLogin reads a key from a file, from standard input, or from the terminal.
func (a *app) readLogin(file, origin string) (secret string, err error) {
	switch {
	case file == "-":
		p, err := io.ReadAll(io.LimitReader(a.stdin(), maxTokenBytes))
		if err != nil {
			return "", err
		}
		secret = string(p)
	case file != "":
		if secret, err = a.readTokenFile(file); err != nil {
			return "", usageError{error: err}
		}
	case isTerminal(a.stdio.In):
		ask := &asker{a: a, in: bufio.NewReader(a.stdio.In)}
		if secret = ask.secret("API key of " + origin + ": "); ask.err != nil {
			return "", ask.err
		}
	default:
		return "", usagef("pass the key with --secret-file, - for standard input")
	}
	if secret = strings.TrimSpace(secret); secret == "" {
		return "", usagef("the key is empty")
	}
	return secret, nil
}

// isTaken checks whether a service accepts a key, by asking for the first of
// its uploads.
func isTaken(ctx context.Context, t uploader.Lister) error {
	for _, err := range t.List(ctx) {
		return err
	}
	return nil
}

// keyringMark is the suffix of an empty file that records that a key is in the
// keyring. Without the file, carload does not ask the keyring, which might have
// to be unlocked.
const keyringMark = ".keyring"

func (a *app) mark(name, where string) error {
	if where == secretInFile {
		return a.dropMark(name)
	}
	path, err := a.secretPath(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return writePrivate(path+keyringMark, "")
}

func (a *app) dropMark(name string) error {
	path, err := a.secretPath(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path + keyringMark); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// loginWhere says where the key of a service is stored; empty if it is not.
func (a *app) loginWhere(name string) string {
	path, err := a.secretPath(name)
	if err != nil {
		return ""
	}
	if _, err := os.Stat(path + keyringMark); err == nil {
		return secretInKeyring
	}
	if _, err := os.Stat(path); err == nil {
		return secretInFile
	}
	return ""
}

// loginSecret returns the key that login stored for a service; empty if there
// is none.
func (a *app) loginSecret(endpoint string) (string, error) {
	name, origin, err := loginName(endpoint)
	if err != nil {
		return "", nil //nolint:nilerr // opening the target says what is wrong with it
	}
	where := a.loginWhere(name)
	if where == "" {
		return "", nil
	}
	secret, err := a.readSecret(name, where)
	if err != nil {
		return "", withHint(fmt.Errorf("the key of %s: %w", origin, err), "carload login stores it again")
	}
	return secret, nil
}
