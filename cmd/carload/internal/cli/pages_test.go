package cli

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// updateVariable rewrites the help pages:
//
//	CARLOAD_TEST_UPDATE=1 go test ./cmd/carload/internal/cli -run TestHelpPages
const updateVariable = "CARLOAD_TEST_UPDATE"

// pages returns everything that has a help page.
func pages(root *cobra.Command) (paths []string) {
	eachCommand(root, func(cmd *cobra.Command) {
		path := strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "carload"), " ")
		if !cmd.Hidden && path != "help" && !strings.HasPrefix(path, "completion ") { // cobra writes those
			paths = append(paths, path)
		}
	})
	return paths
}

// The help pages match the golden files, so that every change shows in a diff.
func TestHelpPages(t *testing.T) {
	t.Parallel()
	update := os.Getenv(updateVariable) != ""
	root := newTestApp(t).rootCommand()
	known := map[string]bool{}
	for _, path := range pages(root) {
		words := strings.Fields(path)
		cmd := cmdAt(root, words)
		var page bytes.Buffer
		if cmd.Runnable() || cmd.HasSubCommands() {
			fmt.Fprintf(&page, "$ carload %s\n%s", strings.Join(append(words, "--help"), " "), help(t, append(words, "--help")...))
		}
		if path != "" {
			fmt.Fprintf(&page, "$ carload help %s\n%s", path, help(t, append([]string{"help"}, words...)...))
		}
		name := filepath.Join("testdata", "help", strings.ReplaceAll("carload "+path, " ", "-")+".txt")
		if path == "" {
			name = filepath.Join("testdata", "help", "carload.txt")
		}
		known[name] = true
		if update {
			if err := os.WriteFile(name, page.Bytes(), 0o644); err != nil { //nolint:gosec // it is checked in
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(want, page.Bytes()) {
			t.Errorf("help of %q is not that of %s (%v); if that is meant: %s=1 go test ./cmd/carload/internal/cli -run TestHelpPages\n%s", path, name, err, updateVariable, page.String())
		}
	}
	files, err := filepath.Glob(filepath.Join("testdata", "help", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !known[file] {
			t.Errorf("%s is the help of nothing", file)
		}
	}
}

// session is a command line in a script, a documentation page or a test.
type session struct{ words []string }

var (
	shellWord  = regexp.MustCompile(`'[^']*'|"[^"]*"|[^\s"'|;()]+|[|;()]`)
	quotedWord = regexp.MustCompile(`"((?:[^"\\]|\\.)*)"`)
)

// sessions returns all command lines of carload: in scripts and pages word by
// word, in Go tests as the strings of each function.
func sessions(t *testing.T) (all []session) {
	t.Helper()
	read := func(pattern string) (texts []string) {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			texts = append(texts, string(text))
		}
		return texts
	}
	const repository = "../../../.."
	pages := slices.Concat(read("testdata/*.txtar"), read(repository+"/README.md"), read(repository+"/docs/*.md"))
	for _, text := range pages {
		for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
			words := shellWord.FindAllString(line, -1)
			for i, word := range words {
				if strings.TrimLeft(word, "`") != "carload" && !strings.HasSuffix(word, "/carload") {
					continue
				}
				rest := words[i+1:]
				if end := slices.IndexFunc(rest, func(w string) bool { return w == "|" || w == ";" || w == ")" || strings.HasSuffix(w, "`") }); end >= 0 {
					rest = rest[:end+1]
				}
				for j := range rest {
					rest[j] = strings.Trim(rest[j], "`'\"")
				}
				all = append(all, session{rest})
			}
		}
	}
	for _, text := range read("*_test.go") {
		for _, function := range strings.Split(text, "\nfunc ")[1:] {
			var s session
			for _, m := range quotedWord.FindAllStringSubmatch(function, -1) {
				s.words = append(s.words, strings.Fields(m[1])...)
			}
			all = append(all, s)
		}
	}
	return all
}

// A script, a documentation page or a test uses every command and every flag.
func TestEveryFlagIsUsed(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	all := sessions(t)
	root := newTestApp(t).rootCommand()
	var commands []*cobra.Command
	eachCommand(root, func(cmd *cobra.Command) {
		if cmd.Runnable() && !cmd.Hidden && cmd.HasParent() && cmd.Name() != "help" && cmd.Parent().Name() != "completion" && !cmd.HasSubCommands() {
			commands = append(commands, cmd)
		}
	})
	for _, s := range all {
		for _, cmd := range commands {
			path := strings.Fields(cmd.CommandPath())[1:]
			if !named(s.words, path) {
				continue
			}
			used[cmd.CommandPath()] = true
			for _, word := range s.words {
				name, _, _ := strings.Cut(word, "=")
				f := cmd.Flags().Lookup(strings.TrimPrefix(name, "--"))
				if !strings.HasPrefix(name, "--") && len(name) == 2 && name[0] == '-' {
					f = cmd.Flags().ShorthandLookup(name[1:])
				}
				if f != nil && strings.HasPrefix(name, "-") {
					used[cmd.CommandPath()+" --"+f.Name] = true
				}
			}
		}
	}
	var lacking []string
	for _, cmd := range commands {
		if !used[cmd.CommandPath()] {
			lacking = append(lacking, cmd.CommandPath())
		}
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if f.Name != "help" && !f.Hidden && !used[cmd.CommandPath()+" --"+f.Name] {
				lacking = append(lacking, cmd.CommandPath()+" --"+f.Name)
			}
		})
	}
	t.Logf("%d commands, %d command lines", len(commands), len(all))
	for _, l := range lacking {
		t.Errorf("nothing uses %s", l)
	}
}

// named reports whether words begin with the words of a command, or contain
// them, as in a Go test.
func named(words, path []string) bool {
	for i := range words {
		if len(words)-i >= len(path) && slices.Equal(words[i:i+len(path)], path) {
			return true
		}
	}
	return false
}

// A script, or a test that is named here, ends with every exit code, and the
// help and the README list all of them.
func TestEveryExitCodeIsMet(t *testing.T) {
	t.Parallel()
	elsewhere := map[int]string{exitNoSpace: "TestExitCodesOfAService", exitInterrupted: "TestStopAndGoOn", exitTerminated: "TestStopAndGoOn"}
	read := func(pattern string) string {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(files), err)
		}
		var all strings.Builder
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
		return all.String()
	}
	scripts, tests, about := read("testdata/*.txtar"), read("*_test.go"), read("../../../../README.md")
	page := help(t, "help", "exit-codes")
	for _, code := range severity {
		met := code == exitOK || regexp.MustCompile(fmt.Sprintf(`(?m)^(\[[^\n]*\] )*code %d carload `, code)).MatchString(scripts)
		if name, ok := elsewhere[code]; ok {
			_, body, found := strings.Cut(tests, "\nfunc "+name+"(")
			body, _, _ = strings.Cut(body, "\n}\n")
			met = found && regexp.MustCompile(fmt.Sprintf(`\b%d\b`, code)).MatchString(body)
		}
		if !met {
			t.Errorf("no script and no test ends with exit code %d", code)
		}
		if !regexp.MustCompile(fmt.Sprintf(`(?m)^ +%d  |\(%d: `, code, code)).MatchString(page) {
			t.Errorf("the help has no exit code %d:\n%s", code, page)
		}
		if !regexp.MustCompile(fmt.Sprintf(`(?m)^\| ([0-9, ]+)?%d([, ][^|]*)?\|`, code)).MatchString(about) {
			t.Errorf("the README has no exit code %d", code)
		}
	}
}
