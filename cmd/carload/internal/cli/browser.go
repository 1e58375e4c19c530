package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carload/carload/internal/durable"
)

func (a *app) consoleCommand() *cobra.Command {
	var dir string
	var noBrowser bool
	cmd := &cobra.Command{
		Use:   "console",
		Short: "Open the service's web console in the browser, signed in",
		Long: `Open the web console of the service that "carload serve" runs on this machine,
signed in with your key. carload also prints the URL. It contains a code that
works for one sign-in within a minute.`,
		Example: `  carload serve &
  carload console`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := a.consoleURL(cmd.Context(), dir)
			if err != nil {
				return err
			}
			a.con.event(consoleEvent{header("console"), at})
			a.con.result(at)
			if noBrowser {
				return nil
			}
			if err := openBrowser(cmd.Context(), at); err != nil {
				a.con.warn("can't start a browser (%v): open the URL yourself", err)
			}
			return nil
		},
	}
	addStore(cmd, &dir)
	cmd.Flags().BoolVar(&noBrowser, "no-browser", false, "only print the URL")
	return cmd
}

type consoleEvent struct {
	eventHeader
	URL string `json:"url"`
}

// consoleURL asks the service that has the store for a sign-in code. The code
// is in the fragment of the URL, which browsers don't send to servers.
func (a *app) consoleURL(ctx context.Context, flag string) (string, error) {
	dir, err := a.storeThere(flag)
	if err != nil {
		return "", err
	}
	down := func(err error) error {
		return withHint(fmt.Errorf("no service is running for the store %q: %w", dir, err), `start one with "carload serve"`)
	}
	endpoint, err := readLocal(dir, localEndpointFile)
	if err != nil {
		return "", down(errors.New("its address is not in the store"))
	}
	token, err := readLocal(dir, localTokenFile)
	if err != nil {
		return "", err
	}
	at, _, _ := strings.Cut(string(endpoint), "\n")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at+"/console/code", nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", down(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer res.Body.Close()
	if res.StatusCode == http.StatusNotFound {
		return "", withHint(errors.New("the service has no console"), "carload serve --console turns it on; it is on by default where only this machine can reach the service")
	}
	var answer struct{ Code, Error string }
	if err := json.NewDecoder(io.LimitReader(res.Body, 64<<10)).Decode(&answer); err != nil || answer.Code == "" {
		return "", fmt.Errorf("the service answered %s %s", res.Status, answer.Error)
	}
	return at + "/#code=" + url.QueryEscape(answer.Code), nil
}

// redirect sends the browser to the console. Other users can see the arguments
// of a command, so carload passes the browser a file that only this user can
// read, not the URL.
var redirect = template.Must(template.New("").Parse(`<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url={{.}}">
<title>carload</title>
<p><a href="{{.}}">Go on to the console</a></p>
`))

func openBrowser(ctx context.Context, at string) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	dir := filepath.Join(cache, "carload")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var page bytes.Buffer
	if err := redirect.Execute(&page, at); err != nil {
		return err
	}
	file := filepath.Join(dir, "console.html")
	if err := writePrivate(file, page.String()); err != nil {
		return err
	}
	name, args := "xdg-open", []string{file}
	switch runtime.GOOS {
	case "darwin":
		name = "open"
	case "windows":
		name, args = "rundll32", []string{"url.dll,FileProtocolHandler", file}
	}
	return exec.CommandContext(context.WithoutCancel(ctx), name, args...).Run()
}

// freeSpace returns a function that reports the free space on the disk of a
// store.
func freeSpace(dir string) func() (int64, bool) {
	return func() (int64, bool) {
		f, err := os.Open(dir)
		if err != nil {
			return 0, false
		}
		defer f.Close()
		return durable.Free(f)
	}
}
