// Command gen bundles the console's scripts and styles. Each entry in
// entries.json becomes one file in static, together with everything it imports.
// Run it with go generate.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

func main() {
	web := flag.String("web", "..", "the folder of the sources")
	out := flag.String("out", filepath.Join("..", "static"), "where the bundles go")
	flag.Parse()
	if err := run(*web, *out); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// run makes the bundles that entries.json lists: each with its name and the
// file that it starts from.
func run(web, out string) error {
	var entries map[string]string
	if err := readJSON(filepath.Join(web, "entries.json"), &entries); err != nil {
		return err
	}
	if err := install(web); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		others := slices.DeleteFunc(slices.Sorted(maps.Keys(entries)), func(other string) bool { return other == name })
		if err := bundle(filepath.Join(web, entries[name]), filepath.Join(out, name), others); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func readJSON(file string, v any) error {
	p, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(p, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// install installs the npm packages that the pages are built from, at the
// versions in the lock file, if there are any.
func install(web string) error {
	var pkg struct {
		Dependencies map[string]string `json:"dependencies"`
	}
	if err := readJSON(filepath.Join(web, "package.json"), &pkg); err != nil || len(pkg.Dependencies) == 0 {
		return err
	}
	cmd := exec.Command("npm", "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
	cmd.Dir, cmd.Stdout, cmd.Stderr = web, os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("npm ci in %s: %w", web, err)
	}
	return nil
}

// bundle makes one bundle. The others, which it loads at run time, stay
// separate files.
func bundle(entry, out string, others []string) error {
	external := make([]string, len(others))
	for i, name := range others {
		external[i] = "./" + name
	}
	entry, err := filepath.Abs(entry)
	if err != nil {
		return err
	}
	result := api.Build(api.BuildOptions{
		EntryPoints:       []string{entry},
		Outfile:           out,
		AbsWorkingDir:     filepath.Dir(entry),
		Bundle:            true,
		Format:            api.FormatESModule,
		Platform:          api.PlatformBrowser,
		Target:            api.ES2022,
		External:          external,
		MinifyWhitespace:  true,
		MinifySyntax:      true,
		MinifyIdentifiers: true,
		Charset:           api.CharsetUTF8,
		LegalComments:     api.LegalCommentsEndOfFile,
	})
	var errs []error
	for _, m := range append(result.Errors, result.Warnings...) {
		errs = append(errs, errors.New(strings.TrimSpace(strings.Join(api.FormatMessages([]api.Message{m}, api.FormatMessagesOptions{}), ""))))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, f := range result.OutputFiles {
		if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(out, f.Contents, 0o644); err != nil {
			return err
		}
	}
	return nil
}
